"""The towers that ship with the package, and the abstractor that goes between them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TOWERS = {"vision": str(WEIGHTS / "vision"), "llm": str(WEIGHTS / "llm")}
ABSTRACTOR = {"num_query_tokens": 16, "num_layers": 2, "width": 128, "num_heads": 4}
