"""The LLM as the engine runs it: new tokens of several conversations at once, over memory of the engine's."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from .memory import LayerShape, Memory


@dataclass(frozen=True)
class Run:
    """New tokens of one conversation: `count` of them, written at `start` of the region at `offset`."""

    offset: int
    start: int
    count: int


class Decoder(Protocol):
    """What runs the LLM without its head."""

    def shapes(self) -> list[LayerShape]: ...

    def forward(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        """embeds [tokens of all runs, hidden] -> hidden states [tokens, hidden]; `memory` is written."""
        ...


class StockDecoder:
    """Any LLM of transformers, by its own forward pass.

    Tokens of several conversations that decode go through it as one batch padded on the left, as in
    `generate`; what is prefilled goes through alone.
    """

    def __init__(self, language_model: Any, device: torch.device):
        self.language_model, self.device, self.dtype = language_model, device, language_model.dtype

    def shapes(self) -> list[LayerShape]:
        cache = DynamicCache()
        width = self.language_model.get_input_embeddings().embedding_dim
        self._run(torch.zeros(1, 1, width, dtype=self.dtype, device=self.device), None, cache)
        layers: Any = cache.layers
        return [
            LayerShape(k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device)
            for k, v in ((layer.keys, layer.values) for layer in layers)
        ]

    def forward(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        pieces: list[Any] = list(embeds.split([run.count for run in runs]))
        single = [index for index, run in enumerate(runs) if run.count == 1]
        if single:
            hidden = self._batch(torch.cat([pieces[i] for i in single]), [runs[i] for i in single], memory)
            for index, row in zip(single, hidden, strict=True):
                pieces[index] = row
        for index, run in enumerate(runs):
            if run.count > 1:
                pieces[index] = self._batch(pieces[index], [run], memory)[0]
        return torch.cat(pieces)

    def _batch(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        """Runs of equal length: embeds [rows * count, hidden] -> [rows, count, hidden]."""
        count, longest = runs[0].count, max(run.start for run in runs)
        device = embeds.device
        starts = torch.tensor([run.start for run in runs], device=device)
        offsets = torch.tensor([run.offset for run in runs], device=device)
        # The last known position of each row stands last; what is padding on the left is masked.
        column = torch.arange(longest, device=device) - longest
        position = starts[:, None] + column  # [rows, longest], below 0 where there is padding
        mask = torch.cat([position >= 0, position.new_ones(len(runs), count, dtype=torch.bool)], 1)
        cache = DynamicCache()
        if longest:
            index = offsets[:, None] + position.clamp(min=0)
            for layer, (keys, values) in enumerate(zip(memory.keys, memory.values, strict=True)):
                here = index.to(keys.device)
                # [heads, rows, longest, size] -> [rows, heads, longest, size]
                cache.update(keys[:, here].transpose(0, 1), values[:, here].transpose(0, 1), layer)
        position_ids = starts[:, None] + torch.arange(count, device=device)
        inputs = {"attention_mask": mask.long(), "position_ids": position_ids}
        hidden = self._run(embeds.view(len(runs), count, -1), inputs, cache)
        layers: Any = cache.layers
        target = (offsets[:, None] + position_ids).flatten()
        for layer, keys, values in zip(layers, memory.keys, memory.values, strict=True):
            here = target.to(keys.device)
            keys[:, here] = layer.keys[:, :, -count:].transpose(0, 1).flatten(1, 2)
            values[:, here] = layer.values[:, :, -count:].transpose(0, 1).flatten(1, 2)
        return hidden

    def _run(self, embeds: torch.Tensor, inputs: dict[str, Any] | None, cache: DynamicCache) -> torch.Tensor:
        outputs = self.language_model(
            inputs_embeds=embeds, past_key_values=cache, use_cache=True, **(inputs or {})
        )
        return outputs.last_hidden_state
