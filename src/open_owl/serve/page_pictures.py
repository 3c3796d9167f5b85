"""Pictures that the chat page makes: its examples, and where the abstractor looked."""

import html
import random
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image, ImageOps

from open_owl.data_uri import of_picture
from open_owl.generate import Owl
from open_owl.generate.looking import attention_maps, overlay, place, seen_box
from open_owl.generate.machine import release_helpers
from open_owl.owlet.grown.registry import make_row

ABILITIES = ("visual", "scene_text", "charts", "several")
SEED = 4
SHOWN = 360  # pixels of the longer side of a picture with its heat map

HOW_TO_READ = """<p>Light: most of the abstractor's attention; the mean over its queries, layers and heads. It
reads a picture before it knows the question, so the map is the same whatever is asked.</p>"""


def make_examples() -> list[dict[str, Any]]:
    """Questions and pictures of Owlet's world, drawn afresh: each a `text` and its `files`.

    They lie beside the uploads, where the page may show files.
    """
    rng = random.Random(SEED)
    folder = Path(get_upload_folder()) / "open-owl-examples"
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for ability in ABILITIES:
        row = make_row(rng, ability)
        files = []
        for number, picture in enumerate(row.draw(), start=1):
            files.append(folder / f"{ability}-{number}.png")
            picture.save(files[-1])
        examples.append({"text": row.turns[0].text, "files": [str(file) for file in files]})
    return examples


def looked_at(owl: Owl, image: Image.Image, name: str) -> str:
    """HTML of a picture with the abstractor's attention over it, and in words where most of it went.

    Args:
        image: RGB, decoded elsewhere: it is a stranger's.
        name: of its file.
    """
    image_processor: Any = owl.processor.image_processor
    pixels = image_processor([image], return_tensors="pt")["pixel_values"]
    weights = attention_maps(owl.model, pixels)[0].mean(0).cpu()  # [rows, columns], sums to 1
    release_helpers()
    shown = ImageOps.contain(image, (SHOWN, SHOWN))
    box = seen_box(image_processor, *shown.size)
    picture = overlay(shown, weights, box)
    where = place(weights, shown.size, box)
    most = f"most at the {where}, {weights.max() * weights.numel():.1f} times an even look"
    name = html.escape(name)
    return (
        f'<figure><img src="{of_picture(picture, "JPEG", quality=88)}" alt="Heat map over {name}: {most}">'
        f"<figcaption>{name}: {most}</figcaption></figure>"
    )
