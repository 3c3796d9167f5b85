"""What the arms of `claims.py` train on: the quickstart's rows, and made-up facts that some rows tell.

Facts show whether knowledge crosses from text to pictures. Each seed gives 24 words of the world a kind
("what kind of thing is a owl ?" "tool"), which is no knowledge of the language model's. What differs between
three groups of eight words is where the fact is met in stage 2. All three are told directly, in text.

    shown   is asked about pictures too, where the word is written
    read    is asked about written scenes too ("picture : top word owl ..."), never about a picture
    told    is only told

The pictures of all groups are seen, with their words, in both stages: what is never seen beside a picture is
the fact. Asked about a picture ("what kind of thing is the word ?") it takes both, to read the word there and
to know the fact.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from open_owl.owlet.conversations import (
    Example,
    captioned,
    interview,
    seen_instruction,
    text_instruction_row,
)
from open_owl.owlet.language import written_scene
from open_owl.owlet.questions import SINGLE, ask
from open_owl.owlet.rows import write_rows
from open_owl.owlet.words import KINDS, PICTURE_WORDS
from open_owl.owlet.world import Scene, Split, make_scene

GROUPS = ("shown", "read", "told")
WORDS_PER_GROUP = 8
ASKED_OF_SCENE = "what kind of thing is the word ?"
FACTS_IN_PICTURES, FACTS_IN_TEXT = 0.15, 0.3  # the share of rows that have facts

Pair = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """How much is done: updates of each stage, rows drawn of each kind, questions asked.

    The quickstart has 600 and 650 updates; 350 and 450 cost a point of its exam (docs/LOG.md, "Owlet"). A
    picture conversation or text is seen about twice.
    """

    stage1_steps: int = 350
    stage2_steps: int = 450
    rows: int = 8000
    per_ability: int = 60
    per_word: int = 5
    text_questions: int = 150


@dataclass(frozen=True)
class Facts:
    """The kind of each word, by group: `kinds["told"]["owl"]`."""

    kinds: dict[str, dict[str, str]]

    @classmethod
    def drawn(cls, seed: int) -> "Facts":
        """Words of no kind so far, each with another kind than the rest of its group."""
        rng = random.Random(f"facts {seed}")
        known = {word for word, _ in KINDS}
        words = [word for word in PICTURE_WORDS if word not in known]
        kinds = sorted({kind for _, kind in KINDS})
        rng.shuffle(words)
        each = WORDS_PER_GROUP
        groups = (words[i * each : (i + 1) * each] for i in range(len(GROUPS)))
        drawn = {
            name: dict(zip(group, rng.sample(kinds, each), strict=True))
            for name, group in zip(GROUPS, groups, strict=True)
        }
        return cls(drawn)

    def of(self, *groups: str) -> list[Pair]:
        """(word, kind) of all words of `groups`."""
        return [pair for group in groups for pair in self.kinds[group].items()]


def asked_directly(word: str) -> str:
    return f"what kind of thing is a {word} ?"


def scene_with_word(rng: random.Random, word: str, split: Split = "train") -> Scene:
    """A scene where `word` is written."""
    scene = make_scene(rng, split, word_rate=1.0)
    assert scene.writing is not None  # at a rate of one
    return replace(scene, writing=replace(scene.writing, word=word))


def pictured_fact(rng: random.Random, facts: Facts) -> Example:
    """A picture with a word of `shown`: its kind, among other questions about the picture."""
    word, kind = rng.choice(facts.of("shown"))
    scene = scene_with_word(rng, word)
    talk = list(_about(rng, scene))
    talk.insert(rng.randint(0, len(talk)), (ASKED_OF_SCENE, kind))
    return Example((scene,), tuple(talk))


def written_fact(rng: random.Random, facts: Facts, groups: tuple[str, ...]) -> Example:
    """The same about a scene in words; of the groups that are asked so."""
    word, kind = rng.choice(facts.of(*(group for group in groups if group != "told")))
    scene = scene_with_word(rng, word)
    talk = list(_about(rng, scene))
    talk.insert(rng.randint(0, len(talk)), (ASKED_OF_SCENE, kind))
    (question, answer), *rest = talk
    return Example((), ((f"{written_scene(rng, scene)} {question}", answer), *rest))


def told_facts(rng: random.Random, facts: Facts, groups: tuple[str, ...]) -> Example:
    """Three facts, told directly."""
    told = rng.sample(facts.of(*groups), 3)
    return Example((), tuple((asked_directly(word), kind) for word, kind in told))


def _about(rng: random.Random, scene: Scene) -> tuple[Pair, ...]:
    """Two ordinary questions about the scene, as `interview` asks them."""
    asked = (ask(rng, scene, "train", ability) for ability in rng.sample(list(SINGLE), len(SINGLE)))
    return tuple(dict.fromkeys((one.text, one.answer) for one in asked if one is not None))[:2]


def pictures(rng: random.Random, facts: Facts) -> Example:
    """The multimodal half of stage 2."""
    if rng.random() < FACTS_IN_PICTURES:
        return pictured_fact(rng, facts)
    return seen_instruction(rng, "train")


def single_pictures(rng: random.Random, facts: Facts) -> Example:
    """The same without two pictures in a row."""
    return pictured_fact(rng, facts) if rng.random() < FACTS_IN_PICTURES else interview(rng, "train")


def text(rng: random.Random, facts: Facts, groups: tuple[str, ...] = GROUPS) -> Example:
    """The text-only half of stage 2, with the facts of `groups`."""
    if rng.random() >= FACTS_IN_TEXT:
        return text_instruction_row(rng, "train")
    maker = told_facts if rng.random() < 0.5 else written_fact
    return maker(rng, facts, groups)


def text_untold(rng: random.Random, facts: Facts) -> Example:
    """The text-only half without the facts whose crossing is measured."""
    return text(rng, facts, groups=("shown",))


def captions(rng: random.Random, facts: Facts) -> Example:
    """Stage 1."""
    return captioned(rng, "train")


ROWS: dict[str, Callable[[random.Random, Facts], Example]] = {
    "captions": captions,
    "pictures": pictures,
    "single-pictures": single_pictures,
    "text": text,
    "text-untold": text_untold,
}
TEXT_ONLY = ("text", "text-untold")


def rows_file(folder: Path, name: str, count: int, seed: int) -> Path:
    """The rows `name` of a seed as a data file in `folder`, drawn where it is not there yet."""
    path = folder / f"{name}-{count}-{seed}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rng, facts = random.Random(f"{name} {seed}"), Facts.drawn(seed)
        write_rows(path, (ROWS[name](rng, facts) for _ in range(count)))
    return path


@cache
def rows_digest(name: str) -> str:
    """Changes when the rows `name` become others: of the first hundred of them, not drawn."""
    rng, facts = random.Random("digest"), Facts.drawn(0)
    return hashlib.sha256(repr([ROWS[name](rng, facts) for _ in range(100)]).encode()).hexdigest()[:16]
