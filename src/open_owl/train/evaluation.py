"""Held-out rows and fixed pictures that a stage is looked at with while it trains.

Nothing here touches the training stream, a random number or a weight: a run ends in the same weights with and
without it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from open_owl.data.conversation import Conversation, Image, Refused, Text, Turn
from open_owl.data.encode import IGNORED, PLAIN_TEMPLATE, EncodedConversation, encode, refuse_videos
from open_owl.data.mixture import SourceSettings
from open_owl.data.packing import Batch, Layout, micro_batches
from open_owl.data.rows import raw_rows
from open_owl.model import MplugOwlProcessor
from open_owl.train.packed import packed_attention
from open_owl.train.parallel import count, gathered, is_first, rank
from open_owl.train.recipe import SampleQuestion, Stage
from open_owl.train.sharding import is_sharded
from open_owl.train.stages import bare, part_module
from open_owl.train.watching import short_names

T = TypeVar("T")

# One-sided 95% of a normal distribution.
CONFIDENCE = 1.645
# Below this share of the loss, what the right picture spares is taken for nothing, however sure it is.
LEAST_GAIN = 0.005
# With fewer rows nothing is said.
ROWS_TO_JUDGE = 20

Losses = dict[int, tuple[float, int]]


@dataclass(frozen=True)
class ImageGain:
    """By how much the right picture makes the answers likelier than another row's, in nats a token.

    mean, error: over rows, each row against itself; of the mean, its standard error.
    """

    mean: float
    error: float
    rows: int
    loss: float

    @property
    def looks(self) -> bool | None:
        """Whether the picture helps: surely (95%), and by a share worth the name. None: too few rows."""
        if self.rows < ROWS_TO_JUDGE:
            return None
        return self.mean - CONFIDENCE * self.error > LEAST_GAIN * self.loss


def usable_rows(source: SourceSettings, use: Callable[[Conversation], T]) -> Iterator[T]:
    """What `use` makes of the rows of a source, one after the other; rows that it refuses are passed over.

    Raises:
        ValueError: there is none, and why the last one is refused.
    """
    found, why = False, "it is empty"
    for file in source.files():
        for raw in raw_rows(file):
            try:
                if isinstance(raw, Refused):
                    raise raw
                used = use(source.read(raw, file))
            except Refused as refused:
                why = str(refused)
            else:
                found = True
                yield used
    if not found:
        raise ValueError(f"evaluation: {source.path} holds no row that can be used: {why}")


class HeldOut(TrainerCallback):
    """What a stage is evaluated on, read once; as a callback, it asks for an evaluation when one is due.

    Args:
        stage: with `evaluation`.
        layout: of micro-batches, as in training.
        pad_token_id: what fills padded rows.
        reads_videos: whether the model does; where not, rows with a video are passed over.

    Raises:
        ValueError: a source without a row that can be read, a sample picture that cannot be.
    """

    def __init__(
        self,
        stage: Stage,
        processor: MplugOwlProcessor,
        layout: Layout = "packed",
        pad_token_id: int = 0,
        reads_videos: bool = True,
    ):
        assert stage.evaluation is not None
        self.stage, self.settings, self.processor = stage, stage.evaluation, processor
        self.reads_videos = reads_videos
        self.template = PLAIN_TEMPLATE if stage.data.chat_template == "plain" else None
        self.names = short_names([source.path for source in self.settings.sources])
        rows = [row for source in self.settings.sources for row in self._read(source)]
        self.sources = [row.source for row in rows]
        self.samples = [(sample, self._prompt(sample)) for sample in self.settings.samples]
        tokens = stage.tokens_per_step or (stage.conversations_per_step or 1) * stage.max_tokens
        layout = layout if stage.tokens_per_step else "padded"

        def batches(numbered: dict[int, EncodedConversation]) -> list[Batch]:
            named = [replace(row, place=str(number)) for number, row in numbered.items()]
            return micro_batches(named, tokens, layout, pad_token_id)

        self.right = batches(dict(enumerate(rows)))
        shuffled = with_other_pictures(rows) if self.settings.shuffled_images else {}
        self.shuffled = batches(shuffled) if shuffled else []

    # When

    def is_due(self, step: int) -> bool:
        return step % self.settings.every_steps == 0 or step == self.stage.steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        control.should_evaluate = self.is_due(state.global_step)
        return control

    # What

    def look(
        self,
        model: nn.Module,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        has_looked: bool = False,
    ) -> dict[str, Any]:
        """Numbers and answers by the names under which they are logged; every process has to call it.

        Args:
            model: what `apply_stage` returned, perhaps shared out (FSDP2), not wrapped for DDP.
            has_looked: an earlier evaluation found that pictures help.
        """
        # Compiled layers would be compiled again for shapes that training never has.
        eager = torch.compiler.set_stance("force_eager")
        with without_training(model), torch.no_grad(), autocast(), eager:
            right = self._losses(model, device, self.right)
            shuffled = self._losses(model, device, self.shuffled)
            answers = self._answers(model, device)
        logs: dict[str, Any] = {"eval_loss": _mean(right.values())}
        for path, name in self.names.items():
            of_source = [losses for number, losses in right.items() if self.sources[number] == path]
            logs[f"eval_loss_by_source/{name}"] = _mean(of_source)
        if shuffled:
            logs |= _told_of_pictures(image_gain(right, shuffled), has_looked)
        return logs | {f"eval_sample/{number}": answer for number, answer in enumerate(answers, start=1)}

    def _losses(self, model: nn.Module, device: torch.device, batches: list[Batch]) -> Losses:
        """Of each row, its summed loss and its supervised tokens; each process computes some batches.

        Where weights are shared out every step is a meeting, and all processes compute all.
        """
        first, step = (0, 1) if is_sharded(model) else (rank(), count())
        mine: Losses = {}
        llm = part_module(model, "language_model")
        bare(model).training = True  # the model's own switch: then its head runs on labels alone
        for batch in batches[first::step]:
            with ExitStack() as within:
                if batch.is_packed:
                    within.enter_context(packed_attention(llm))
                losses = model(**_on(device, batch.inputs), use_cache=False).token_losses
            by_row = losses.double().cpu().split([row.supervised_tokens for row in batch.rows])
            for row, its in zip(batch.rows, by_row, strict=True):
                mine[int(row.place)] = float(its.sum()), len(its)
        bare(model).training = False
        return dict(sorted(pair for its in gathered(mine) for pair in its.items()))

    def _answers(self, model: nn.Module, device: torch.device) -> list[str]:
        """Picture and question, and in the next line the answer; in the first process, or, where weights are
        shared out, in all.
        """
        if not (is_first() or is_sharded(model)):
            return []
        return [
            f"{sample.image} {sample.question}".strip() + f"\n{self._answer(model, device, prompt)}"
            for sample, prompt in self.samples
        ]

    def _answer(self, model: Any, device: torch.device, prompt: EncodedConversation) -> str:
        length, owl = len(prompt.input_ids), bare(model)
        positions = getattr(owl.config.get_text_config(), "max_position_embeddings", None) or math.inf
        end = owl.generation_config.eos_token_id
        ends = {int(prompt.labels[-1]), *([end] if isinstance(end, int) else end or [])}
        assert prompt.pixel_values is not None
        ids = model.generate(
            input_ids=prompt.input_ids[None].to(device),
            attention_mask=torch.ones(1, length, dtype=torch.long, device=device),
            pixel_values=prompt.pixel_values.to(device),
            max_new_tokens=int(min(self.settings.max_new_tokens, positions - length)),
            eos_token_id=sorted(ends),
            pad_token_id=self.processor.tokenizer.pad_token_id,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
        )
        return self.processor.tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()

    # From where

    def _read(self, source: SourceSettings) -> list[EncodedConversation]:
        """The first rows of a source that can be used."""

        def encoded(said: Conversation) -> EncodedConversation:
            if not self.reads_videos:
                refuse_videos(said)
            row = encode(said, self.processor, self.stage.max_tokens, self.template)
            return replace(row, source=source.path)

        return list(islice(usable_rows(source, encoded), self.settings.rows))

    def _prompt(self, sample: SampleQuestion) -> EncodedConversation:
        """The ids before an answer; `labels` ends with what would end it."""
        asked = (Image(sample.image), *([Text(sample.question)] if sample.question else []))
        turns = Turn("user", asked), Turn("assistant", (Text("?"),))
        try:
            row = encode(
                Conversation(None, turns, sample.image), self.processor, self.stage.max_tokens, self.template
            )
        except Refused as refused:
            raise ValueError(f"evaluation.samples: {refused}") from refused
        learned = (row.labels != IGNORED).nonzero().flatten()
        answer = int(learned[0])
        return replace(row, input_ids=row.input_ids[:answer], labels=row.labels[: int(learned[-1]) + 1])


def with_other_pictures(rows: Sequence[EncodedConversation]) -> dict[int, EncodedConversation]:
    """Rows, by their numbers, each with the pictures of another that has as many.

    The search for the other begins half the rows away, so that it is no neighbour about the like; it has to
    show something else. Rows that there is no other for are left out.
    """
    alike: dict[tuple, list[int]] = {}
    for number, row in enumerate(rows):
        shapes = tuple(None if pixels is None else tuple(pixels.shape) for pixels in _pixels(row))
        if any(shapes):
            alike.setdefault(shapes, []).append(number)
    exchanged = {}
    for numbers in alike.values():
        for place, number in enumerate(numbers):
            begin = place + len(numbers) // 2
            others = (rows[numbers[(begin + way) % len(numbers)]] for way in range(len(numbers)))
            other = next((row for row in others if not _show_the_same(row, rows[number])), None)
            if other is not None:
                images, videos = _pixels(other)
                exchanged[number] = replace(rows[number], pixel_values=images, pixel_values_videos=videos)
    return dict(sorted(exchanged.items()))


def image_gain(right: Losses, shuffled: Losses) -> ImageGain:
    """Compares each row's loss a token with its own pictures and with another's."""
    gains = torch.tensor(
        [its[0] / its[1] - right[number][0] / right[number][1] for number, its in shuffled.items() if its[1]],
        dtype=torch.float64,
    )
    spread = float(gains.std()) if len(gains) > 1 else math.inf
    loss = _mean([right[number] for number in shuffled])
    return ImageGain(float(gains.mean()), spread / math.sqrt(len(gains)), len(gains), loss)


def _told_of_pictures(gain: ImageGain, has_looked: bool) -> dict[str, Any]:
    logs: dict[str, Any] = {
        "eval_image_gain": gain.mean,
        "eval_image_gain_error": gain.error,
        "eval_image_gain_rows": gain.rows,
    }
    if gain.looks is not None:
        logs["eval_looks"] = int(gain.looks)
    if gain.looks is False:
        what = "the model stopped looking" if has_looked else "the model does not look (yet)"
        logs["eval_warning"] = (
            f"{what}: with the right pictures the loss is {gain.loss:.4g}, with another row's "
            f"{gain.loss + gain.mean:.4g} (difference {gain.mean:.2g} with a standard error of "
            f"{gain.error:.2g} over {gain.rows} rows), so the pictures do not help"
        )
    return logs


@contextmanager
def without_training(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, and as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
            if isinstance(module, FSDPModule):
                module.reshard()  # as a backward pass would have, before anything is saved


def _pixels(row: EncodedConversation) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return row.pixel_values, row.pixel_values_videos


def _show_the_same(one: EncodedConversation, other: EncodedConversation) -> bool:
    """Of two rows with as many pictures of one size."""
    pairs = zip(_pixels(one), _pixels(other), strict=True)
    return all(ours is None or its is None or torch.equal(ours, its) for ours, its in pairs)


def _on(device: torch.device, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def _mean(losses: Any) -> float:
    """Over the supervised tokens of all rows."""
    total, tokens = map(sum, zip(*losses, strict=True))
    return total / tokens
