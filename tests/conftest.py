"""What every test may ask for."""

import os
from pathlib import Path

import pytest

# Before torch loads: on models this small a second thread costs more in waiting than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton loads: without a GPU, its interpreter runs the kernels.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the repository: golden files and real data that may not be copied in."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no golden files: {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory):
    """Folders of tiny random encoders and LLMs, and compositions of them (`tests.parts.Parts`)."""
    from tests.parts import Parts  # torch and transformers load only for the tests that ask

    return Parts(tmp_path_factory.mktemp("parts"))
