"""Pictures that the chat page makes: its examples, and where the abstractor looked."""

import base64
import html
import io
import random
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from open_owl.generate import Owl
from open_owl.generate.looking import attention_maps, overlay, place, seen_box
from open_owl.generate.machine import release_helpers
from open_owl.model.images_mplug_owl import open_image
from open_owl.owlet.drawing import draw
from open_owl.owlet.questions import Question, ask, ask_which, make_pair
from open_owl.owlet.world import Scene, make_scene

ABILITIES = ("color", "word", "count")
SEED = 4
SHOWN = 360  # pixels of the longer side of a picture with its heat map

HOW_TO_READ = """<p>Light: most of the abstractor's attention; the mean over its queries, layers and heads. It
reads a picture before it knows the question, so the map is the same whatever is asked.</p>"""


def make_examples() -> list[dict[str, Any]]:
    """Questions and pictures of the little world, drawn afresh: each a `text` and its `files`.

    They lie beside the uploads, where the page may show files.
    """
    rng = random.Random(SEED)
    asked = [_single(rng, ability) for ability in ABILITIES]
    asked.append(_pair(rng))
    folder = Path(get_upload_folder()) / "open-owl-examples"
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for question, scenes in asked:
        files = []
        for number, scene in enumerate(scenes, start=1):
            files.append(folder / f"{question.ability}-{number}.png")
            draw(scene).save(files[-1])
        examples.append({"text": question.text, "files": [str(file) for file in files]})
    return examples


def _single(rng: random.Random, ability: str) -> tuple[Question, list[Scene]]:
    while True:
        scene = make_scene(rng, "train")
        question = ask(rng, scene, "train", ability)
        if question is not None:
            return question, [scene]


def _pair(rng: random.Random) -> tuple[Question, list[Scene]]:
    while True:
        first, second = make_pair(rng, "train")
        question = ask_which(rng, first, second)
        if question is not None:
            return question, [first, second]


def looked_at(owl: Owl, path: str) -> str:
    """HTML of a picture with the abstractor's attention over it, and in words where most of it went."""
    image = open_image(path)
    image_processor: Any = owl.processor.image_processor
    pixels = image_processor([image], return_tensors="pt")["pixel_values"]
    weights = attention_maps(owl.model, pixels)[0].mean(0).cpu()  # [rows, columns], sums to 1
    release_helpers()
    shown = ImageOps.contain(image, (SHOWN, SHOWN))
    box = seen_box(image_processor, *shown.size)
    picture = overlay(shown, weights, box)
    where = place(weights, shown.size, box)
    most = f"most at the {where}, {weights.max() * weights.numel():.1f} times an even look"
    name = html.escape(Path(path).name)
    return (
        f'<figure><img src="{_data_uri(picture)}" alt="Heat map over {name}: {most}">'
        f"<figcaption>{name}: {most}</figcaption></figure>"
    )


def _data_uri(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
