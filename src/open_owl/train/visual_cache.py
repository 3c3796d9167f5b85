"""What a frozen vision model makes of each picture, kept on disk from epoch to epoch and from run to run."""

import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import logging

from open_owl.model import MplugOwlForConditionalGeneration

logger = logging.get_logger(__name__)

SHARDS = 256  # folders, by the first byte of a picture's digest
STALE_SECONDS = 24 * 3600
READERS = 8


class VisualFeatureCache:
    """Patches of pictures by the digest of their pixels, and of the vision model and its precision.

    The pixels are those after preprocessing, so another resolution or normalisation is another picture.
    Another encoder has other names and never finds these files. Any number of processes may read and write
    at once: a file appears whole or not at all. Each of the folders by first byte holds its 256th of
    `max_gib`; when it is full, files of other encoders that are a day old make room, and if there are none
    the picture is simply computed each time (throwing out what this run reads in the next epoch would empty
    the cache as fast as it fills).

    Args:
        precision: device and dtype that the encoder runs in, part of the name.

    `hits`, `misses`: pictures read from disk, and computed.
    """

    def __init__(self, owl: MplugOwlForConditionalGeneration, precision: str, folder: Path, max_gib: float):
        self.owl = owl
        self.folder = folder
        self.shard_bytes = int(max_gib * 2**30 / SHARDS)
        self.encoder = _digest_of(owl.model.vision_model, owl.model.drop_cls_token, precision)
        self.hits = self.misses = 0
        self._readers = ThreadPoolExecutor(READERS)

    @torch.no_grad()
    def patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [images, channels, height, width] -> patches [images, patches, width].

        Pictures are computed one at a time, so that what is kept is a function of the picture alone, whatever
        it came with: a resumed run finds the bits that the unbroken one has.
        """
        keys = [_digest_of_pixels(pixels) for pixels in pixel_values.cpu()]
        found = list(self._readers.map(self._read, keys))
        for number, patches in enumerate(found):
            if patches is None:
                found[number] = self._compute(keys[number], pixel_values[number : number + 1])
        self.hits += sum(patches is not None for patches in found)
        return torch.stack([patches.to(pixel_values.device) for patches in found if patches is not None])

    def _compute(self, key: str, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.owl.model.read_patches(pixel_values)[0]
        self.misses += 1
        self.hits -= 1
        self._keep(key, patches.cpu().contiguous())
        return patches

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{self.encoder}-{key}.safetensors"

    def _read(self, key: str) -> torch.Tensor | None:
        try:
            return load_file(self._file(key))["patches"]
        except (OSError, SafetensorError, KeyError):  # not there, or spoiled by a broken disk
            return None

    def _keep(self, key: str, patches: torch.Tensor) -> None:
        try:
            self._write(self._file(key), patches)
        except (OSError, SafetensorError) as error:  # a full disk, a folder of somebody else
            logger.warning_once(f"visual features are not kept in {self.folder}: {error}")

    def _write(self, file: Path, patches: torch.Tensor) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not self._has_room(file.parent, patches.numel() * patches.element_size()):
            return
        handle, writing = tempfile.mkstemp(dir=file.parent, prefix="writing-")
        os.close(handle)
        try:
            save_file({"patches": patches}, writing)
            os.replace(writing, file)
        finally:
            Path(writing).unlink(missing_ok=True)

    def _has_room(self, shard: Path, size: int) -> bool:
        """Whether `size` more bytes fit into a folder, once stale files of other encoders are gone."""
        with os.scandir(shard) as entries:
            files = [(entry.name, _status(entry)) for entry in entries]
        sizes = {name: status.st_size for name, status in files if status}
        free = self.shard_bytes - sum(sizes.values()) - size
        oldest_first = sorted((status.st_mtime, name) for name, status in files if status)
        for written, name in oldest_first:
            if free >= 0:
                break
            if not name.startswith(self.encoder) and time.time() - written > STALE_SECONDS:
                (shard / name).unlink(missing_ok=True)
                free += sizes[name]
        return free >= 0


def _status(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:  # another process has just removed or renamed it
        return None


def _digest_of(vision_model: nn.Module, drop_cls_token: bool, precision: str) -> str:
    """Of everything that decides what an encoder makes of pixels: its config, its weights, its precision."""
    config = vision_model.config.to_dict()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    config.pop("_name_or_path", None)
    digest = hashlib.sha256(
        json.dumps([config, drop_cls_token, precision], default=str, sort_keys=True).encode()
    )
    for name, tensor in vision_model.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _digest_of_pixels(pixels: torch.Tensor) -> str:
    described = f"{tuple(pixels.shape)}{pixels.dtype}".encode()
    data = pixels.contiguous().view(-1).view(torch.uint8).numpy().data
    return hashlib.sha256(described + hashlib.sha256(data).digest()).hexdigest()
