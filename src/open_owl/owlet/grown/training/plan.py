"""How long each part of the run is: shares of the minutes, turned into steps by the pace of two CPU cores.

Steps, not minutes, are what a run is made of, so that it gives the same weights on any machine that computes
alike. A slower machine takes longer.
"""

from dataclasses import dataclass, fields

# Seconds a step on two cores of an AMD EPYC with AVX-512 (docs/owlet.md tells how they were measured).
SECONDS_A_STEP = {"llm": 0.21, "vision": 0.26, "stage1": 0.74, "stage2": 0.54}
# What is left is for writing the rows and for the exam.
SHARES = {"llm": 0.45, "vision": 0.12, "stage1": 0.20, "stage2": 0.18}
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
        steps = {part: int(60 * minutes * share / SECONDS_A_STEP[part]) for part, share in SHARES.items()}
        # No row of a stage is seen more often than twice.
        rows = max(steps["stage1"], steps["stage2"]) * CONVERSATIONS // 2
        return cls(**steps, rows=rows, questions=max(2, min(50, round(minutes / 3))))
