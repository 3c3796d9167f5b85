"""Is an answer right? One rule for each kind of answer; spaces between tokens never matter."""

import json
import re
from collections import Counter
from typing import Any

from .rows import Grader
from .words import NUMBERS

# The units of text: a word, a digit, a mark. A tokenizer of one token a unit can say everything.
PIECE = re.compile(r"[a-zäöüß]+|\d|[^\w\s]")
_ARTICLES = ("a", "an", "the")
_YES, _NO = ("yes", "ja"), ("no", "nein")


def pieces(text: str) -> list[str]:
    """The words, digits and marks of a text, lower-cased."""
    return PIECE.findall(text.lower())


def is_right(grader: Grader, answer: str, given: str) -> bool:
    """Whether `given` answers as `answer` does.

    word: the same words and marks, but for a first article and a full stop; a list whose order counts too.
    number: one number, in digits or in a word. list: the same things in any order. json: equal as JSON.
    yes_no: begins with the same of yes and no. decline: says that it is not there or cannot be seen.
    """
    if grader == "number":
        return _number(given) is not None and _number(given) == _number(answer)
    if grader == "list":
        return _things(given) == _things(answer)
    if grader == "json":
        return _json(given) is not None and _json(given) == _json(answer)
    if grader == "yes_no":
        return says_yes(given) is not None and says_yes(given) == says_yes(answer)
    if grader == "decline":
        return declines(given)
    return _bare(pieces(given)) == _bare(pieces(answer))


def says_yes(given: str) -> bool | None:
    """True for an answer that begins with yes, False with no, None with neither."""
    first = (pieces(given) or [""])[0]
    return True if first in _YES else False if first in _NO else None


def declines(given: str) -> bool:
    """Whether an answer says that something is not there, or that the picture does not show it."""
    words = " ".join(pieces(given))
    return "there is no " in words or "does not show" in words


def _bare(found: list[str]) -> list[str]:
    if found and found[-1] == ".":
        found = found[:-1]
    # Before a single letter it is no article: "a p p l e" is spelled, and "a" alone may be the answer.
    return found[1:] if len(found) > 1 and len(found[1]) > 1 and found[0] in _ARTICLES else found


def _number(text: str) -> int | None:
    """The only number in a text; None where there is none, or more than one."""
    joined = re.sub(r"(?<=\d)\s+(?=\d)", "", text.lower())
    found = [int(digits) for digits in re.findall(r"\d+", joined)]
    found += [NUMBERS.index(word) for word in pieces(joined) if word in NUMBERS]
    return found[0] if len(found) == 1 else None


def _things(text: str) -> Counter[tuple[str, ...]]:
    parts = re.split(r"[,;]|\band\b", text.lower())
    return Counter(tuple(_bare(pieces(part))) for part in parts if pieces(part))


def _json(text: str) -> Any:
    """The JSON of a text, with spaces inside strings and between digits left out; None if it is none."""
    try:
        return _tight(json.loads(re.sub(r"(?<=\d)\s+(?=\d)", "", text)))
    except ValueError:
        return None


def _tight(value: Any) -> Any:
    if isinstance(value, dict):
        return {_tight(key): _tight(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_tight(inner) for inner in value]
    return " ".join(pieces(value)) if isinstance(value, str) else value
