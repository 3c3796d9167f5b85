"""The claims that `claims.py` measures: what is compared, how it is shown, what would count as holding."""

from dataclasses import dataclass, replace

from claims_world import GROUPS
from open_owl.owlet.exam import OVERALL
from open_owl.owlet.questions import ABILITIES


@dataclass(frozen=True)
class Row:
    """A number of every arm: its place in a results line, and how it is written.

    `chance`: the place of what one has without looking or knowing; drawn into the figure.
    """

    label: str
    path: str
    form: str = "share"  # or nats, seconds, count
    chance: str | None = None
    drawn: bool = True


@dataclass(frozen=True)
class Statement:
    """Holds where `more` is above `less`; each is an arm and a place in its results line."""

    says: str
    more: tuple[str, str]
    less: tuple[str, str]

    @property
    def is_loss(self) -> bool:
        return ".loss." in self.more[1]


@dataclass(frozen=True)
class Claim:
    """`name` is in the page's markers and in the figure's file; `arms` are the table's columns."""

    name: str
    title: str
    arms: tuple[str, ...]
    rows: tuple[Row, ...]
    statements: tuple[Statement, ...]

    @property
    def figure(self) -> str:
        """The figure's file, from the page's folder."""
        return f"assets/claims-{self.name}.png"


HELD_OUT, PAIR = f"heldout.{OVERALL}", "heldout.pair"
# Of text, reading: plain knowledge is at 100% before anything is trained.
READING, TEXT_LOSS = "text.accuracy.reading", f"text.loss.{OVERALL}"

BY_ABILITY = tuple(
    Row(ability, f"heldout.{ability}", chance=f"majority.{ability}") for ability in (*ABILITIES, OVERALL)
)
OVER_ALL = Row("pictures, overall", HELD_OUT, chance=f"majority.{OVERALL}")
SEEN = Row("overall, seen pairs", f"seen.{OVERALL}")
BLIND = Row("overall, blind", f"blind.{OVERALL}", drawn=False)
TEXTS = (
    Row("text: knowledge", "text.accuracy.knowledge", drawn=False),
    Row("text: reading", READING),
    Row("text: loss (nats a token)", TEXT_LOSS, "nats"),
)
HOW_ASKED = {
    "directly": "directly",
    "written": "of a written scene",
    "picture": "of a picture",
    "blind": "of a picture, blind",
}
FACTS = tuple(
    Row(
        f"{group} facts, {told}",
        f"facts.{group}.{how}",
        chance=f"facts.{group}.majority",
        drawn=how in ("written", "picture"),
    )
    for how, told in HOW_ASKED.items()
    for group in GROUPS
)
COST = (
    Row("visual tokens of a picture", "cost.visual_tokens", "count", drawn=False),
    Row("parameters between the towers", "cost.abstractor_parameters", "count", drawn=False),
    Row("seconds an update of stage 2", "cost.seconds_per_update", "seconds", drawn=False),
    Row("minutes of the exam", "minutes.exam", "seconds", drawn=False),
)


def _above(says: str, more: str, less: str, path: str = HELD_OUT) -> Statement:
    return Statement(says, (more, path), (less, path))


CLAIMS = (
    Claim(
        "grid",
        "1. Both stages, and both kinds of data",
        ("before", "r1", "r2", "r3", "r4", "r5"),
        (*BY_ABILITY, SEEN, BLIND, *TEXTS),
        (
            _above("stage 1 is needed: r5 above r2", "r5", "r2"),
            _above("instruction tuning is needed: r5 above r1", "r5", "r1"),
            _above("pictures need multimodal tuning: r5 above r3", "r5", "r3"),
            _above("joint tuning is better for pictures than multimodal-only: r5 above r4", "r5", "r4"),
            _above("joint tuning is better for reading than text-only: r5 above r3", "r5", "r3", READING),
        ),
    ),
    Claim(
        "collaboration",
        "2. What the modalities give each other",
        ("r3", "text-16", "r4", "pictures-16", "untold", "r5"),
        (OVER_ALL, *TEXTS, *FACTS),
        (
            _above("text adds to picture questions: r5 above its pictures alone", "r5", "pictures-16"),
            _above("pictures add to reading: r5 above its text alone", "r5", "text-16", READING),
            Statement("the same by loss: its text alone above r5", ("text-16", TEXT_LOSS), ("r5", TEXT_LOSS)),
            *(
                statement
                for group, met in (("read", "told and read"), ("told", "only told"))
                for statement in (
                    _above(
                        f"facts {met} are used with pictures: r5 above untold",
                        "r5",
                        "untold",
                        f"facts.{group}.picture",
                    ),
                    Statement(
                        f"facts {met}: r5 above its most frequent answer",
                        ("r5", f"facts.{group}.picture"),
                        ("r5", f"facts.{group}.majority"),
                    ),
                )
            ),
        ),
    ),
    Claim(
        "language",
        "3. The language model's own ability",
        ("before", "r1", "r3", "r4", "r5", "full"),
        (*TEXTS, OVER_ALL),
        (
            _above("joint tuning by LoRA costs no reading: r5 above before", "r5", "before", READING),
            Statement("the same by loss: before above r5", ("before", TEXT_LOSS), ("r5", TEXT_LOSS)),
            _above("LoRA keeps more reading than full tuning: r5 above full", "r5", "full", READING),
            Statement("the same by loss: full above r5", ("full", TEXT_LOSS), ("r5", TEXT_LOSS)),
            _above("text keeps what pictures alone would cost: r5 above r4", "r5", "r4", READING),
        ),
    ),
    Claim(
        "released",
        "4. The paper against the released code, and against a linear projector",
        (
            "r5",
            "frozen-abstractor",
            "frozen-vision",
            "lora-qv",
            "queries-32",
            "queries-64",
            "linear",
        ),
        (*BY_ABILITY, SEEN, *TEXTS, *COST),
        (
            _above("the abstractor should learn in stage 2", "r5", "frozen-abstractor"),
            _above("vision should learn in stage 1", "r5", "frozen-vision"),
            _above("LoRA on all linear layers is better than on q and v", "r5", "lora-qv"),
            _above("32 queries are better than 16", "queries-32", "r5"),
            _above("64 queries are better than 16", "queries-64", "r5"),
            _above("the abstractor is better than a linear projector", "r5", "linear"),
        ),
    ),
    Claim(
        "untrained",
        "5. Abilities that were never trained",
        ("r1", "r3", "single-pictures", "r5"),
        (
            Row("two pictures", PAIR, chance="majority.pair"),
            Row("two pictures, shuffled", "shuffled.pair", chance="majority.pair"),
            Row("two pictures, blind", "blind.pair", chance="majority.pair"),
            replace(OVER_ALL, drawn=False),
        ),
        (
            Statement(
                "two pictures are told apart without training: single-pictures above itself blind",
                ("single-pictures", PAIR),
                ("single-pictures", "blind.pair"),
            ),
            Statement(
                "... above itself with shuffled pictures",
                ("single-pictures", PAIR),
                ("single-pictures", "shuffled.pair"),
            ),
            Statement(
                "... above the most frequent answer",
                ("single-pictures", PAIR),
                ("single-pictures", "majority.pair"),
            ),
            _above(
                "training with two pictures adds: r5 above single-pictures", "r5", "single-pictures", PAIR
            ),
        ),
    ),
)
