"""What a stage learns from: sources of rows, and how they are mixed."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from .conversation import Conversation, Refused
from .formats import CaptionSettings, Format, read_row
from .media import folder_of
from .parquet import is_parquet, parquet_files
from .prepare import ready_files
from .rows import TAR, RawRow, data_files
from .storage import DataFile


def _existing(path: str) -> str:
    if "://" not in path:  # what is elsewhere is looked for when it is opened
        parquet_files(path) if is_parquet(path) else data_files(path)
    return path


class SourceSettings(BaseModel):
    """Data files and how to read their rows; a bare path is enough.

    path: a .json, .jsonl or .tar file, a folder of these, or a pattern (`train-*.tar`), here or in an
        object store (`s3://...`, `msc://...`); or Parquet, here, there or on the Hub
        (`hf://datasets/...`), which is converted into the cache.
    format: null to tell each row's from its keys.
    weight: how often this source is drawn from, relative to the others, whatever their sizes.
    max_epochs: after so many times through its rows the source leaves the blend and the others share its
        part; null to go on for ever.
    media_folder: what pictures' names are relative to; null for the folder of the data file.
    text_only: this source is for text; a row with a picture or video is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, AfterValidator(_existing)]
    format: Format | None = None
    weight: PositiveFloat = 1.0
    max_epochs: PositiveInt | None = None
    media_folder: str | None = None
    captions: CaptionSettings = CaptionSettings()
    text_only: bool = False

    def files(self) -> list[DataFile]:
        """What the stream reads; Parquet is converted first. Raises ValueError where there is nothing."""
        return ready_files(self.path, self.media_folder)

    def named_files(self) -> set[str]:
        """Which files the path means, whatever they are called by; what is elsewhere as it is written."""
        if "://" in self.path:
            return {self.path}
        files = parquet_files(self.path) if is_parquet(self.path) else data_files(self.path)
        return {str(Path(str(file)).resolve()) for file in files}

    def read(self, raw: RawRow, file: DataFile, draw: int = 0) -> Conversation:
        """The conversation of a raw row of `file`; `draw` as for `read_row`. Raises Refused."""
        media = raw.members if file.suffix == TAR else folder_of(file, self.media_folder)
        row = read_row(raw.parse(), self.format, media, raw.place, self.captions, draw)
        if self.text_only and (row.images or row.videos):
            raise Refused("media_in_text", "a picture or video in a source of text", raw.place)
        return row


def _source_of_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[SourceSettings, BeforeValidator(_source_of_path)]


class MixtureSettings(BaseModel):
    """Sources blended by weight into one endless, shuffled stream.

    half_text_half_multimodal: take rows in turn from the sources that are `text_only` and from the others, so
        that an even number of rows is half text, half multimodal (section 3.2 of the paper). Weights then
        count within each half.
    chat_template: `model` shows rows by the model's own chat template; `plain` shows the parts and the answer
        alone, for captions in stage 1.
    shuffle_rows: rows held in memory to shuffle among; 1 keeps the order within a file's slices.
    workers: processes that read and decode; 0 reads in this process.
    max_refused_share: the run stops when more than this share of the rows read was refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[Source] = Field(min_length=1)
    half_text_half_multimodal: bool = False
    chat_template: Literal["model", "plain"] = "model"
    shuffle_rows: PositiveInt = 1000
    workers: int = Field(default=0, ge=0)
    max_refused_share: float = Field(default=0.05, ge=0, le=1)

    def readers(self, processes: int) -> int:
        """Who shares the rows: a process without workers is one reader."""
        return processes * max(1, self.workers)

    @model_validator(mode="after")
    def _both_halves_have_sources(self) -> "MixtureSettings":
        kinds = {source.text_only for source in self.sources}
        if self.half_text_half_multimodal and len(kinds) < 2:
            which = "with" if kinds == {False} else "without"
            raise ValueError(
                f"half_text_half_multimodal needs a source {which} `text_only: true`; add one, or write "
                "half_text_half_multimodal: false"
            )
        return self
