"""Processors over a tokenizer of bytes, and files of tiny pictures."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from open_owl.chat_templates import HUMAN_AI, with_media_parts
from open_owl.model import MplugOwlProcessor

SLOTS = 3
SIZE = 8

CHATML = with_media_parts(
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Knows no system role, and ends no answer.
BARE = with_media_parts(
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ 'Q: ' if m['role'] == 'user' else 'A: ' }}{{ m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)


def byte_processor(chat_template: str = HUMAN_AI, num_frames: int = 2) -> MplugOwlProcessor:
    """One id a byte, `SLOTS` slots a picture, pictures of `SIZE` x `SIZE`."""
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<|video|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    square = {"height": SIZE, "width": SIZE}
    return MplugOwlProcessor(
        CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False),
        tokenizer,
        chat_template=chat_template,
        num_image_tokens=SLOTS,
        num_frames=num_frames,
    )


def picture(colour: str = "red", size: tuple[int, int] = (12, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


def encoded(image: Image.Image, format: str = "PNG", **settings) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **settings)
    return stream.getvalue()


def noise(seed: int = 0, size: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def caption_tar(file: Path, count: int, colour: str = "red", first: int = 0) -> Path:
    """`count` pictures with a caption each, as img2dataset writes them."""
    members: list[tuple[str, bytes]] = []
    for number in range(first, first + count):
        members.append((f"{number:09d}.jpg", encoded(picture(colour), "JPEG")))
        members.append((f"{number:09d}.txt", f"caption {number}".encode()))
    return write_tar(file, members)


def write_lines(file: Path, rows: Iterable[object]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def qa_row(number: int, **more: object) -> dict:
    """A row of text in the alpaca format."""
    return {"instruction": f"question {number}", "input": "", "output": f"answer {number}", **more}
