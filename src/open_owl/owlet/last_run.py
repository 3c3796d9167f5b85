"""Where the last quickstart left its model, so that `owl chat` finds it without being told."""

from pathlib import Path

from open_owl.data.index import cache_folder

NOTE = "last_quickstart"


def remember(checkpoint: Path) -> None:
    """Notes the checkpoint folder of a finished quickstart in the cache."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / NOTE).write_text(f"{checkpoint.resolve()}\n", encoding="utf-8")


def recall() -> Path | None:
    """The noted checkpoint folder; None where no quickstart was run, or its folder is gone."""
    note = cache_folder() / NOTE
    if not note.is_file():
        return None
    checkpoint = Path(note.read_text(encoding="utf-8").strip())
    return checkpoint if checkpoint.is_dir() else None
