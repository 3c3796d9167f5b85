"""Decoding on a GPU: a token of each conversation in one CUDA graph.

A layer's products of one token take microseconds each; to start them one by one from Python takes longer than
they do. A graph starts all layers at once.
"""

import importlib.util
import weakref
from typing import Any

import torch
from torch import nn

from .decoder import Run
from .fused import FusedDecoder, Layer
from .memory import Memory

NOWHERE = -1  # the position of a row without a conversation


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class GraphDecoder(FusedDecoder):
    """A decoder for LLMs of Llama's form on one GPU; prompts go through it one operation at a time."""

    def __init__(self, language_model: Any, max_positions: int):
        super().__init__(language_model, max_positions)
        self._is_silu = isinstance(self.act, nn.SiLU) or type(self.act).__name__ == "SiLUActivation"
        self._graphs: dict[int, _Graph] = {}
        self._memory: weakref.ref[Memory] | None = None

    def forward(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        firsts, first = [], 0
        for run in runs:
            firsts.append(first)
            first += run.count
        single = [index for index, run in enumerate(runs) if run.count == 1]
        if not single:
            return super().forward(embeds, runs, memory)
        if len(single) == len(runs):
            return self._step(embeds, runs, memory)
        hidden = torch.empty_like(embeds)
        rows = torch.tensor([firsts[index] for index in single], device=embeds.device)
        hidden[rows] = self._step(embeds[rows], [runs[index] for index in single], memory)
        for index, run in enumerate(runs):
            if run.count > 1:
                mine = slice(firsts[index], firsts[index] + run.count)
                hidden[mine] = super().forward(embeds[mine], [run], memory)
        return hidden

    def _step(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        """One token of each run: embeds [runs, hidden] -> [runs, hidden], good until the next step."""
        if self._memory is None or self._memory() is not memory:
            self._graphs, self._memory = {}, weakref.ref(memory)
        rows = 1 << (len(runs) - 1).bit_length()
        if rows not in self._graphs:
            self._graphs[rows] = _Graph(self, rows, memory)
        return self._graphs[rows].replay(embeds, runs)

    def decode(
        self, hidden: torch.Tensor, positions: torch.Tensor, offsets: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        """hidden [rows, hidden], positions and offsets [rows] -> [rows, hidden]; `hidden` is written over."""
        from . import kernels  # Triton is there on a GPU only

        delta = None
        for layer, both in zip(self.layers, memory.both, strict=True):
            assert both is not None  # keys and values of Llama's form are of one size
            normed = kernels.add_and_norm(hidden, delta, layer.norm, self.eps)
            mixed = layer.qkv(normed).view(len(hidden), -1, self.size)
            kernels.turn_and_keep(
                mixed, self.cos, self.sin, layer.heads_norm, positions, offsets, both, self.heads, self.eps,
                self.scaling,
            )  # fmt: skip
            delta = layer.out(kernels.attend(mixed, both, positions, offsets, self.heads))
            normed = kernels.add_and_norm(hidden, delta, layer.norm_2, self.eps)
            delta = layer.down(self._activated(layer, normed))
        return kernels.add_and_norm(hidden, delta, self.norm, self.eps)

    def _activated(self, layer: Layer, normed: torch.Tensor) -> torch.Tensor:
        from . import kernels

        gate_up = layer.gate_up(normed)
        if self._is_silu:
            return kernels.silu_and_multiply(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return self.act(gate).mul_(up)


class _Graph:
    """A step of up to `rows` conversations, with the places that it reads from and writes to."""

    def __init__(self, decoder: GraphDecoder, rows: int, memory: Memory):
        device = decoder.device
        width = decoder.norm.shape[-1]
        self._embeds = torch.zeros(rows, width, dtype=decoder.dtype, device=device)
        self._where = torch.full((2, rows), NOWHERE, device=device)  # positions, offsets
        self._graph = torch.cuda.CUDAGraph()
        # A first pass apart compiles the kernels and takes what the libraries keep for themselves.
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._run(decoder, memory)
        torch.cuda.current_stream(device).wait_stream(stream)
        # Other threads may go on using the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._hidden = self._run(decoder, memory)

    def _run(self, decoder: GraphDecoder, memory: Memory) -> torch.Tensor:
        return decoder.decode(self._embeds.clone(), self._where[0], self._where[1], memory)

    def replay(self, embeds: torch.Tensor, runs: list[Run]) -> torch.Tensor:
        spare = [NOWHERE] * (self._where.shape[1] - len(runs))
        where = [[run.start for run in runs] + spare, [run.offset for run in runs] + spare]
        self._where.copy_(torch.tensor(where))
        self._embeds[: len(runs)].copy_(embeds)
        self._graph.replay()
        return self._hidden[: len(runs)]
