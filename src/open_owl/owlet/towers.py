"""What ships with the package: Owlet, and the towers of the quickstart with the abstractor between them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
OWLET = WEIGHTS / "owlet"
TOWERS = {"vision": str(WEIGHTS / "vision"), "llm": str(WEIGHTS / "llm")}
ABSTRACTOR = {"num_query_tokens": 16, "num_layers": 2, "width": 128, "num_heads": 4}
