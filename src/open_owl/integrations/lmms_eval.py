"""`--model mplug_owl` of lmms-eval, which finds it by the entry point `lmms_eval.models`.

Questions go through the engine, so all of a run's are batched as they come and `--batch_size` means nothing.
"""

from concurrent.futures import ThreadPoolExecutor
from mimetypes import guess_type
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]
from lmms_eval.protocol import ChatMessages  # pyright: ignore[reportMissingImports]
from loguru import logger  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from open_owl.generate.answer import Answer
from open_owl.generate.request import Likelihood
from open_owl.generate.sampling import Sampling

from .asking import answer_all, open_for_evaluation, read_sampling

Messages = list[dict[str, Any]]

SCORED_AT_ONCE = 32


def manifest() -> ModelManifest:
    """What the entry point gives to lmms-eval."""
    return ModelManifest(
        model_id="mplug_owl",
        chat_class_path=f"{__name__}.{OwlChat.__name__}",
        simple_class_path=f"{__name__}.{OwlSimple.__name__}",
        aliases=("open_owl",),
    )


class OwlChat(lmms):
    """Answers tasks in the form of chat messages.

    Args:
        pretrained: whatever `open_owl.load` takes.
        dtype: `bfloat16`, ...; None keeps what is stored.
        device: None is the GPU, or the CPU where there is none. Under `accelerate launch` each process has
            its own, and lmms-eval shares the documents out among them.
        batch_size, max_batch_size: lmms-eval passes them to every model; the engine decides by itself.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        own = self.accelerator.device
        self.device = own if device is None or self._world_size > 1 else torch.device(device)
        self.owl = open_for_evaluation(pretrained, dtype, self.device)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers in order. A conversation that the model cannot take is logged and answered by nothing.

        Raises:
            ValueError: generation settings that cannot be followed, or not one conversation could be taken.
        """
        answers = answer_all(self.owl.engine, (self._question(request) for request in requests))
        shown = tqdm(answers, "Model Responding", total=len(requests), disable=self.rank != 0)
        results = [_result(answer, request) for answer, request in zip(shown, requests, strict=True)]
        refused = [answer for answer in results if answer.token_counts is None]
        if refused and len(refused) == len(results):
            raise ValueError("not one question could be asked; the log above says why")
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-probability of the answer, whether greedy decoding would give it) for each request.

        Its arguments are (question, answer or a function of the document, function for its pictures,
        document's number, task, split).
        """
        return [(score.logprob, score.is_greedy) for score in self._scores(requests)]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("mplug_owl answers tasks of one round; this one has several")

    def clean(self) -> None:
        """Free the model's memory; lmms-eval calls it when all is answered, before judges are loaded."""
        self.owl.engine.close()
        del self.owl
        super().clean()

    def _question(self, request: Instance) -> tuple[Messages, Sampling]:
        _, messages_of, settings, number, task, split = request.args
        chat = ChatMessages(messages=messages_of(self.task_dict[task][split][number]))
        messages = chat.to_hf_messages()
        if any(part.keys() & {"video_start", "video_end"} for said in messages for part in said["content"]):
            raise ValueError(
                f"task {task} shows clips of videos by start and end; only whole videos are read"
            )
        return messages, read_sampling(settings)

    def _scores(self, requests: list[Instance]) -> list[Likelihood]:
        """Several at a time, so that the engine has something to batch."""
        with ThreadPoolExecutor(SCORED_AT_ONCE) as threads:
            scores = threads.map(self._score, requests)
            return list(tqdm(scores, "Model Responding", total=len(requests), disable=self.rank != 0))

    def _score(self, request: Instance) -> Likelihood:
        if len(request.args) == 2:
            raise ValueError("answers without their question cannot be scored, as acc_mutual_info wants it")
        words, answer, visuals_of, number, task, split = request.args
        document = self.task_dict[task][split][number]
        answer = str(answer(document) if callable(answer) else answer).strip()
        try:
            return self.owl.engine.loglikelihood(_asked(visuals_of(document), words), answer)
        except ValueError as error:
            raise ValueError(f"{task}, document {number}: {error}") from error


class ChoiceScore(tuple, GenerationResult):
    """A pair that lmms-eval's evaluator leaves alone: of what is neither text nor a GenerationResult, it
    makes a string before a task can read it (0.7.3)."""


class OwlSimple(OwlChat):
    """The form for tasks that choose among given answers (`output_type: multiple_choice`).

    lmms-eval refuses these to a model that takes chat messages; `--force_simple` selects this class. Such
    tasks take the *smallest* value for the best, so they get the loss per token, as from lmms-eval's models.
    """

    is_simple = True

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(mean negative log-probability of the answer's tokens, whether greedy) for each request."""
        scores = self._scores(requests)
        return [ChoiceScore((-score.logprob / score.tokens, score.is_greedy)) for score in scores]

    def _question(self, request: Instance) -> tuple[Messages, Sampling]:
        words, settings, visuals_of, number, task, split = request.args
        return _asked(visuals_of(self.task_dict[task][split][number]), words), read_sampling(settings)


def _asked(visuals: list[Any] | None, words: str) -> Messages:
    """One question of the user's: its pictures and videos (PIL images, or paths), then the words."""
    parts = [{"type": (kind := _kind(visual)), kind: visual} for visual in visuals or ()]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": words}]}]


def _kind(visual: Any) -> str:
    is_video = isinstance(visual, str) and (guess_type(visual)[0] or "").startswith("video/")
    return "video" if is_video else "image"


def _result(answer: Answer, request: Instance) -> GenerationResult:
    try:
        text = answer.result()
    except ValueError as error:
        logger.error(f"{request.task_name}, document {request.doc_id}, is answered by nothing: {error}")
        return GenerationResult("")
    usage = answer.usage
    return GenerationResult(text, TokenCounts(usage.prompt_tokens, usage.completion_tokens))
