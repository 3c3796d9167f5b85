"""The model for VLMEvalKit, which has no hook for plug-ins: `register` puts the class where it looks.

Run as a module in a checkout of VLMEvalKit, this registers a checkpoint as `mplug_owl` and runs its run.py:

    python -m open_owl.integrations.vlmevalkit MODEL run.py --model mplug_owl --data POPE
"""

import os
import runpy
import sys
from functools import partial
from typing import Any

import vlmeval.vlm  # pyright: ignore[reportMissingImports]
from vlmeval.config import supported_VLM  # pyright: ignore[reportMissingImports]
from vlmeval.vlm.base import BaseModel  # pyright: ignore[reportMissingImports]

from .asking import answer_all, open_for_evaluation, read_sampling

NAME = "mplug_owl"
# VLMEvalKit counts answers with these words as failed, and asks again when a run is repeated.
FAILED = "Failed to obtain answer via API."


class MplugOwl(BaseModel):
    """Answers VLMEvalKit's questions.

    Args:
        pretrained, dtype, device: as of `open_for_evaluation`.
        settings: `max_new_tokens`, `temperature`, `top_p`, ... (`read_sampling`); greedy without.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True

    def __init__(
        self, pretrained: str, dtype: str | None = None, device: str | None = None, **settings: Any
    ) -> None:
        super().__init__()
        self.sampling = read_sampling(settings)
        self.owl = open_for_evaluation(pretrained, dtype, device)

    @property
    def is_api(self) -> bool:
        """Models that say so are asked by `--api-nproc` threads, whose questions the engine batches.

        Not under torchrun: there each process has a share of the questions, and an API is refused.
        """
        return int(os.environ.get("WORLD_SIZE", "1")) == 1

    def generate_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """message: parts, each a `type` (text, image, video), a `value` and maybe a `role` (system)."""
        try:
            return self.chat_inner([{"role": "user", "content": message}], dataset)
        except ValueError as error:
            return f"{FAILED} {error}"

    def chat_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """message: turns, each a `role` and a `content` of parts.

        Raises:
            ValueError: the model cannot take the conversation; VLMEvalKit then leaves out its first turns.
        """
        system = [_part(part) for turn in message for part in turn["content"] if part.get("role") == "system"]
        turns = [
            {
                "role": turn["role"],
                "content": [_part(p) for p in turn["content"] if p.get("role") != "system"],
            }
            for turn in message
        ]
        said = [{"role": "system", "content": system}] if system else []
        answer = next(answer_all(self.owl.engine, [([*said, *turns], self.sampling)]))
        return answer.result()


def register(pretrained: str, name: str = NAME, **options: Any) -> None:
    """Make VLMEvalKit know a checkpoint: `name` for its --model, `MplugOwl` for the `class` of its --config.

    options: further arguments of `MplugOwl`.
    """
    vlmeval.vlm.MplugOwl = MplugOwl
    supported_VLM[name] = partial(MplugOwl, pretrained=pretrained, **options)


def _part(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": part["type"], part["type"]: part["value"]}


def main() -> None:
    """MODEL SCRIPT ...: register MODEL, then run SCRIPT of VLMEvalKit with the arguments that follow."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: python -m {__spec__.name} MODEL run.py --model {NAME} --data ...")
    _, pretrained, script, *arguments = sys.argv
    register(pretrained)
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
