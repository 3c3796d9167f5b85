"""OwlEval as it was published: where it is fetched from, and what its six answer files hold."""

import hashlib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from open_owl.data.cache import built_once, cache_folder

from .questions import PICTURES, QUESTIONS, QuestionSet, checksum, load_questions

REPOSITORY = "X-PLUG/mPLUG-Owl"
FOLDER = "mPLUG-Owl/OwlEval"
COMMIT = "21ff9b0bd301fa8d7be107a5ed85b34278eca64f"  # the last that changed the folder
BASE_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/{FOLDER}"
SECONDS_PER_FILE = 60
FILES_AT_ONCE = 8

# The `model_id` of each published answer file, and the model's name in the paper.
MODELS = {
    "openflanmingo": "OpenFlamingo",
    "BLIP2": "BLIP-2",
    "llava-13b": "LLaVA",
    "minigpt4_13b": "MiniGPT-4",
    "MMreact": "MM-REACT",
    "mPLUG_Owl_7b:v1": "mPLUG-Owl",
}

# Answers that are notes of the set's authors: that an answer was a web page, or could not be traced back
# (both are lost), that the model gave up or refused (an empty answer).
LOST = {"web": (32, 43), "website": (32, 43), "无法回溯": None}
GAVE_UP = {"模型放弃回答", "模型拒绝回答"}

# A/B/C/D of 50 single-turn and 52 multi-turn questions, read off the bars of the paper's chart (figure 3). It
# has no MM-REACT, and which question got which level was never published.
PAPER_COUNTS = {
    "OpenFlamingo": ((5, 5, 15, 25), (4, 4, 16, 28)),
    "BLIP-2": ((13, 13, 9, 15), (13, 10, 17, 12)),
    "LLaVA": ((23, 12, 13, 2), (16, 17, 19, 0)),
    "MiniGPT-4": ((35, 3, 10, 2), (25, 6, 21, 0)),
    "mPLUG-Owl": ((32, 10, 8, 0), (31, 8, 13, 0)),
}


def manifest() -> dict[str, str]:
    """SHA-256 of every published file by its name in the folder."""
    lines = Path(__file__).with_name("owleval.sha256").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def published_checksum() -> str:
    """What `QuestionSet.checksum` is for the published set."""
    asked = {n: digest for n, digest in manifest().items() if n == QUESTIONS or n.startswith(f"{PICTURES}/")}
    return checksum(asked)


def open_questions(folder: Path | None) -> QuestionSet:
    """The set in `folder`, or the published one, which is fetched once into the cache.

    Raises:
        OSError: it cannot be fetched, or is not in the folder; ValueError: it cannot be read, or what was
            fetched is not what was published.
    """
    return load_questions(folder or built_once(cache_folder() / "owleval" / COMMIT[:12], fetch))


def fetch(folder: Path, base_url: str = BASE_URL) -> None:
    """Fetches every file of the published set into `folder`, which exists, and checks each."""
    wanted = manifest()
    for name in {Path(name).parent for name in wanted}:
        (folder / name).mkdir(exist_ok=True)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        fetched = [pool.submit(_fetch_file, base_url, name, folder) for name in wanted]
        for file in fetched:
            file.result()


def _fetch_file(base_url: str, name: str, folder: Path) -> None:
    url = f"{base_url}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS_PER_FILE) as response:
            content = response.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise OSError(
            f"OwlEval cannot be fetched ({url}: {getattr(error, 'reason', error)}). Bring the folder "
            f"{FOLDER} of github.com/{REPOSITORY}, commit {COMMIT[:12]}, here by other means, and name it "
            "with --data"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest()[name]:
        raise ValueError(f"{url} is not what was published: its SHA-256 is {digest}, not {manifest()[name]}")
    (folder / name).write_bytes(content)
