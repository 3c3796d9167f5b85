"""Config and weights must agree: transformers warns about what does not fit, we refuse it by name."""

from pathlib import Path
from typing import Any


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
