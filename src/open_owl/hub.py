"""A model by its folder or by its hub id."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


def local_directory(path_or_id: str | Path) -> Path:
    """The folder itself, or where a hub id was downloaded to.

    Raises:
        FileNotFoundError: it is neither.
    """
    directory = Path(path_or_id)
    if directory.is_dir():
        return directory
    try:
        return Path(snapshot_download(str(path_or_id)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(f"{path_or_id} is no folder here and no model on the hub: {error}") from error
