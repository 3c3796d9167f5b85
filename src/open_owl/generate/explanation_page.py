"""The page of an explanation: pictures and maps inside it, in the reader's light or dark."""

import html
from pathlib import Path
from string import Template

import torch
from PIL import Image

from open_owl.data_uri import of_picture

from .explaining import Explanation, WordSource
from .looking import Box, place, veil

TEMPLATE = Path(__file__).with_name("explanation.html")

HOW_WORDS = """Each map tells how much less likely a word becomes, after the question and the words before
it, when that place of the picture is hidden under a square of the picture's mean colour. The lightest places
take at least half of its probability. A word that stays as likely with all hidden comes from the
language."""
HOW_QUERIES = """The abstractor's queries read a picture before a question is known: these maps are the same
whatever is asked. Each is the mean over the heads and layers."""


def page_of(explanation: Explanation, question: str, pictures: list[Image.Image]) -> str:
    """HTML that needs nothing from elsewhere; `pictures` are those of the explanation as they are shown."""
    words = explanation.words
    first = max(range(len(words)), key=lambda number: words[number].gain)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        pictures="\n".join(_style(number, picture) for number, picture in enumerate(pictures, start=1)),
        question=html.escape(question),
        buttons=" ".join(_button(explanation, number, number == first) for number in range(len(words))),
        said=html.escape(_said(explanation, words[first])),
        stage="".join(f"<figure>{look}</figure>" for look in _looks(explanation, words[first])),
        how_words=HOW_WORDS,
        words="".join(_word(explanation, number) for number in range(len(words))),
        queries="".join(_queries(explanation, number) for number in range(len(pictures))),
    )


def _style(number: int, picture: Image.Image) -> str:
    """The picture once for all places where it stands."""
    uri, (width, height) = of_picture(picture, "JPEG", quality=88), picture.size
    return f".p{number} {{ background-image: url({uri}); aspect-ratio: {width} / {height}; }}"


def _button(explanation: Explanation, number: int, is_shown: bool) -> str:
    word = explanation.words[number]
    pressed = "true" if is_shown else "false"
    return (
        f'<button type="button" aria-pressed="{pressed}" data-tile="word-{number + 1}" '
        f'data-said="{html.escape(_said(explanation, word))}">{html.escape(word.text)}</button>'
    )


def _said(explanation: Explanation, word: WordSource) -> str:
    return f"“{word.text}”: {explanation.in_words(word)}."


def _word(explanation: Explanation, number: int) -> str:
    word = explanation.words[number]
    return (
        f'<figure id="word-{number + 1}">{"".join(_looks(explanation, word))}<figcaption>'
        f"<b>{html.escape(word.text)}</b> {explanation.in_words(word)}"
        "</figcaption></figure>"
    )


def _looks(explanation: Explanation, word: WordSource) -> list[str]:
    """The pictures under what a word loses in each."""
    return [
        _look(explanation, number, strength, f"{word.text}, picture {number + 1}")
        for number, strength in enumerate(word.strength)
    ]


def _queries(explanation: Explanation, number: int) -> str:
    image, box = explanation.images[number], explanation.boxes[number]
    tiles = "".join(
        f"<figure>{_look(explanation, number, weights / weights.max(), f'query {query}')}"
        f"<figcaption><b>{query}</b> {place(weights, image.size, box)}</figcaption></figure>"
        for query, weights in enumerate(explanation.queries[number], start=1)
    )
    which = f" in picture {number + 1}" if len(explanation.images) > 1 else ""
    return (
        f'<h2>Where each query looked{which}</h2><p class="soft">{HOW_QUERIES}</p>'
        f'<div class="grid">{tiles}</div>'
    )


def _look(explanation: Explanation, number: int, strength: torch.Tensor, name: str) -> str:
    """A picture under a map [rows, columns] from 0 to 1."""
    image, box = explanation.images[number], explanation.boxes[number]
    most = f"most at the {place(strength, image.size, box)}" if strength.any() else "nothing"
    return (
        f'<div class="look p{number + 1}" role="img" aria-label="{html.escape(name)}: {most}">'
        f'<img alt="" src="{of_picture(veil(strength), "PNG")}" style="{_position(box, image.size)}">'
        "</div>"
    )


def _position(box: Box, size: tuple[int, int]) -> str:
    left, top, right, bottom = box
    sides = {
        "left": left / size[0], "top": top / size[1],
        "width": (right - left) / size[0], "height": (bottom - top) / size[1],
    }  # fmt: skip
    return ";".join(f"{side}:{share:.3%}" for side, share in sides.items())
