"""From an adapter directory to a full checkpoint."""

from pathlib import Path

from open_owl.adapter import adapter_base
from open_owl.checkpoint import open_checkpoint


def merge(adapter: str | Path, out: str | Path) -> None:
    """Writes into `out` the full checkpoint of an adapter directory: its LoRA folded into its base's LLM.

    Raises:
        ValueError: `adapter` is not an adapter directory, or its base is not where it says.
    """
    if adapter_base(adapter) is None:
        raise ValueError(
            f"{adapter} is not an adapter directory (it has no adapter_config.json); nothing to merge"
        )
    model, processor = open_checkpoint(adapter)
    model.save_pretrained(out)
    processor.save_pretrained(out)
