"""Takes out of published answers what tells a rater whose they are: the marks and line ends of pages."""

import re
from collections.abc import Callable
from itertools import pairwise

# MM-REACT's answers were copied from a page that wrote `AI:` before each thing that it said, and whose lines
# end where its window did, at times after a space.
MARK = re.compile(r"^[ \t]*AI:[ \t]*", re.MULTILINE)
# The lines of pages that MiniGPT-4's and BLIP-2's were copied from have this many characters at most.
WIDTH = 37
ITEM = re.compile(r"\s*([-*•|#]|\d+[.)]|[a-z][.)]\s)")  # begins an entry of a list or a row of a table
PLACE = re.compile(r"\(\d")  # MM-REACT's coordinates; other brackets are headings of verses
ENDS = ".!?:,;\"'`”"  # that a line of prose ends with; where verses end with none, capitals begin them


def without_traces(model: str, text: str) -> str:
    """A published answer with its paragraphs, lists and verses, without traces of the page it is from."""
    if model == "MM-REACT":
        return _joined(MARK.sub("", text), _goes_on).strip()
    if model in ("MiniGPT-4", "BLIP-2"):
        may_begin = str.islower if _is_verse(text.split("\n")) else bool
        return _joined(text, lambda line, after: _is_full(line, after) and may_begin(after[0])).strip()
    return text


def has_same_words(one: str, other: str) -> bool:
    """Whether two texts of one published answer differ in no more than `without_traces` takes out."""
    return MARK.sub("", one).split() == MARK.sub("", other).split()


def _joined(text: str, is_broken: Callable[[str, str], bool]) -> str:
    """Without the line ends for which `is_broken(line, next line)` holds."""
    first, *others = text.split("\n")
    parts, before = [first.rstrip()], first
    for line in others:
        goes_on = _is_of_one_part(before, line) and is_broken(before, line)
        parts += [" " if goes_on else "\n", line.rstrip()]
        before = line
    return "".join(parts)


def _is_of_one_part(line: str, after: str) -> bool:
    """Whether two lines may belong together: not those around a blank one, and no list and its title."""
    if not line.strip() or not after.strip() or ITEM.match(after):
        return False
    return not line.rstrip().endswith(":") or ITEM.match(line) is not None


def _goes_on(line: str, after: str) -> bool:
    """Whether a sentence goes on in the next line. Where a page's lines ended depends on its letters."""
    return line.endswith(" ") or after[0].islower() or PLACE.match(after) is not None


def _is_full(line: str, after: str) -> bool:
    """Whether the next line's first word had no place in this one."""
    return len(line.rstrip()) <= WIDTH < len(line.rstrip()) + 1 + len(after.split()[0])


def _is_verse(lines: list[str]) -> bool:
    """Whether lines end, though they had place for more, without any mark."""
    ended = [
        line
        for line, after in pairwise(lines)
        if line.strip() and after.strip() and not ITEM.match(line) and not _is_full(line, after)
    ]
    return sum(line.rstrip()[-1] not in ENDS for line in ended) > 2
