"""How long each part of the run is.

Steps, not minutes, are what a run is made of, so that it gives the same weights on any machine that computes
alike. A slower machine takes longer.
"""

from dataclasses import dataclass, fields

# What two cores of an AMD EPYC with AVX-512 do in 150 minutes (docs/owlet.md has the pace of each part), with
# some left for writing the rows and for the exam.
MINUTES = 150
STEPS = {"vision": 4150, "llm": 6500, "stage1": 2600, "stage2": 2700}
CONVERSATIONS = 32  # an update of a stage


@dataclass(frozen=True)
class Plan:
    """Steps of each part; rows written for each source of the stages; questions of each cell of the exam."""

    llm: int
    vision: int
    stage1: int
    stage2: int
    rows: int
    questions: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"a plan with {getattr(self, field.name)} {field.name}; give at least 1")

    @classmethod
    def for_minutes(cls, minutes: float) -> "Plan":
        """What two CPU cores do in `minutes`.

        Raises:
            ValueError: too few minutes for one step of each part.
        """
        steps = {part: int(count * minutes / MINUTES) for part, count in STEPS.items()}
        # No row of a stage is seen more often than twice.
        rows = max(steps["stage1"], steps["stage2"]) * CONVERSATIONS // 2
        return cls(**steps, rows=rows, questions=max(2, min(50, round(minutes / 3))))
