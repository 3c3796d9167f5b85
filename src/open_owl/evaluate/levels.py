"""The four levels that an answer is rated by, and the six abilities that a question asks for."""

# mPLUG-Owl (arXiv 2304.14178, section 4.2) rates by the four levels of Self-Instruct (arXiv 2212.10560,
# section 4.3); from best to worst, in plain words.
LEVELS = {
    "A": ("Good", "Right and satisfying."),
    "B": ("Acceptable", "Does what was asked, with minor errors or imperfections."),
    "C": ("Poor", "About what was asked, but with significant errors in what it says."),
    "D": ("Useless", "Has nothing to do with what was asked, or is completely wrong."),
}

# The letters of `questions.jsonl`, as the set's own notes (OwlEval.md) name them.
ABILITIES = {
    "a": "Instruction understanding",
    "b": "Visual understanding",
    "c": "Optical character recognition",
    "d": "Knowledge transfer",
    "e": "Reasoning",
    "f": "Multi-turn dialogue",
}

SINGLE_TURN, MULTI_TURN = "single_turn", "multi_turn"
CATEGORIES = {SINGLE_TURN: "Single-turn", MULTI_TURN: "Multi-turn"}
