"""Config and weights must agree: transformers warns about what does not fit, we refuse it by name."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' reports and bars, for callers that judge `output_loading_info` themselves."""

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    bars = hf_logging.is_progress_bar_enabled()
    logger.addFilter(is_no_report)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)
        if bars:
            hf_logging.enable_progress_bar()


def refuse_mismatch(report: dict[str, Any], source: str | Path) -> None:
    """Raise for anything in the `output_loading_info` of `from_pretrained`.

    Raises:
        ValueError: weights are missing, unexpected or of another shape; the first eight are named.
    """
    wrong = [f"missing {name}" for name in sorted(report["missing_keys"])]
    wrong += [f"unexpected {name}" for name in sorted(report["unexpected_keys"])]
    wrong += [
        f"{name} is {tuple(stored)} in the file but {tuple(built)} by the config"
        for name, stored, built in sorted(report["mismatched_keys"])
    ]
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"config and weights of {source} do not agree: {'; '.join(wrong[:8])}{more}")
