"""Which errors the user can put right (told in a line); all others are defects and keep their traceback."""

import traceback
from typing import Any

OURS = ("open_owl", "owl_cli")
# Refuses a folder whose config is not that of a known model.
AUTO_CLASSES = "transformers.models.auto"
EXTRA_OF_MODULE = {
    "megatron": "train",
    "tensorboard": "train",
    "matplotlib": "eval",  # the lightest that has it; so has `train`
    "av": "video",
    "fastapi": "serve",
    "uvicorn": "serve",
    "gradio": "serve",
    "httpx2": "serve",
    "prometheus_client": "serve",
    "bitsandbytes": "quant",
    "liger_kernel": "liger",
    "pyarrow": "parquet",
    "boto3": "s3",
}


def message_for_the_user(error: Exception) -> str | None:
    """The line to show for `error`, or None where only a traceback helps.

    Told in a line: an extra that is not installed; a file, folder or hub id that cannot be read; a ValueError
    raised by our own code or by transformers' Auto classes; settings that pydantic refuses to our own code;
    an error of a class of our own. Everything else is a defect, and without its traceback nobody could find
    it.
    """
    if isinstance(error, ModuleNotFoundError):
        return _missing_extra(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if _is_ours(type(error).__module__):
        return str(error)
    raised_in = _raised_in(error)
    is_told = _is_ours(raised_in) or raised_in.startswith(AUTO_CLASSES)
    if not isinstance(error, ValueError) or not is_told:
        return None
    # Told by its name: `owl --help` imports no pydantic.
    is_pydantics = type(error).__name__ == "ValidationError" and _is_pydantics(type(error).__module__)
    return _all_messages(error) if is_pydantics else str(error)


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    extra = EXTRA_OF_MODULE.get((error.name or "").split(".")[0])
    return extra and f"this needs the extra `{extra}` ({error}): pip install 'open-owl[{extra}]'"


def _all_messages(error: Any) -> str:
    """What pydantic found wrong, each with the key where it stands."""
    found = [
        (".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()
    ]
    return "; ".join(f"{key}: {message}" if key else message for key, message in found)


def _raised_in(error: Exception) -> str:
    """The name of the module whose code raised `error`, or whose values pydantic refused."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((module for module in reversed(modules) if not _is_pydantics(module)), "")


def _is_pydantics(module: str) -> bool:
    return module.split(".")[0] in ("pydantic", "pydantic_core")


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in OURS
