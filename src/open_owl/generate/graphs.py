"""Decoding on a GPU: a token of each conversation in one CUDA graph.

A layer's products of one token take microseconds each; to start them one by one from Python takes longer than
they do. A graph starts all layers at once.
"""

import importlib.util
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .decoder import Run
from .fused import FusedDecoder, Layer
from .memory import Memory

NOWHERE = -1  # the position of a row without a conversation
TRIED = 5  # steps by which two ways are compared


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class GraphDecoder(FusedDecoder):
    """A decoder for LLMs of Llama's form on one GPU; prompts go through it one operation at a time."""

    def __init__(self, language_model: Any, max_positions: int):
        from . import kernels  # Triton is there with torch for GPUs only

        super().__init__(language_model, max_positions)
        self.kernels = kernels
        self._is_silu = isinstance(self.act, nn.SiLU) or type(self.act).__name__ == "SiLUActivation"
        self._rows = [_plain(layer) for layer in self.layers] if self._is_silu else [None]
        self._graphs: dict[int, _Graph] = {}
        self._memory: weakref.ref[Memory] | None = None

    def forward(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        single = [run for run in runs if run.count == 1]
        if not single:
            return super().forward(embeds, runs, memory)
        if len(single) == len(runs):
            return self._step(embeds, runs, memory)
        counts = torch.tensor([run.count for run in runs])
        is_single = (counts == 1).repeat_interleave(counts)
        hidden = torch.empty_like(embeds)
        for rows, some, run in (
            (is_single, single, self._step),
            (~is_single, [run for run in runs if run.count > 1], super().forward),
        ):
            places = rows.nonzero()[:, 0].to(embeds.device)
            hidden[places] = run(embeds[places], some, memory)
        return hidden

    def _step(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        """One token of each run: embeds [runs, hidden] -> [runs, hidden], good until the next step."""
        if self._memory is None or self._memory() is not memory:
            self._graphs, self._memory = {}, weakref.ref(memory)
        rows = 1 << (len(runs) - 1).bit_length()
        if rows not in self._graphs:
            self._graphs[rows] = self._fastest(rows, memory)
        return self._graphs[rows].replay(embeds, runs)

    def _fastest(self, rows: int, memory: Memory) -> "_Graph":
        """Of a single row's two ways the one that this GPU is measured to be faster with."""
        ways = [self.decode]
        if rows == 1 and None not in self._rows:
            ways.append(self.decode_one)
        graphs = [_Graph(self, way, rows, memory) for way in ways]
        return min(graphs, key=_Graph.seconds) if len(graphs) > 1 else graphs[0]

    def decode(
        self, hidden: torch.Tensor, positions: torch.Tensor, offsets: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        """hidden [rows, hidden], positions and offsets [rows] -> [rows, hidden]; `hidden` is written over."""
        delta = None
        for layer, both in zip(self.layers, memory.both, strict=True):
            normed = self.kernels.add_and_norm(hidden, delta, layer.norm, self.eps)
            delta = layer.out(self._looked(layer, layer.qkv(normed), positions, offsets, both))
            normed = self.kernels.add_and_norm(hidden, delta, layer.norm_2, self.eps)
            delta = layer.down(self._activated(layer, normed))
        return self.kernels.add_and_norm(hidden, delta, self.norm, self.eps)

    def decode_one(
        self, hidden: torch.Tensor, positions: torch.Tensor, offsets: torch.Tensor, memory: Memory
    ) -> torch.Tensor:
        """As `decode`, of a single row, whose products take in the norms, gates and sums beside them."""
        product, eps = self.kernels.row_product, self.eps
        for layer, plain, both in zip(self.layers, self._rows, memory.both, strict=True):
            assert plain is not None
            qkv, out, gate_up, down = plain
            mixed = product(hidden, *qkv, norm=layer.norm, eps=eps)
            hidden = product(self._looked(layer, mixed, positions, offsets, both), *out, added=hidden)
            gated = product(hidden, *gate_up, norm=layer.norm_2, eps=eps, gates=True)
            hidden = product(gated, *down, added=hidden)
        return self.kernels.add_and_norm(hidden, None, self.norm, eps)

    def _looked(
        self,
        layer: Layer,
        mixed: torch.Tensor,
        positions: torch.Tensor,
        offsets: torch.Tensor,
        both: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of what `qkv` gives [rows, outputs] -> [rows, heads * size]; `both` is written."""
        assert both is not None  # keys and values of Llama's form are of one size
        mixed = mixed.view(len(mixed), -1, self.size)
        self.kernels.turn_and_keep(
            mixed, self.cos, self.sin, layer.heads_norm, positions, offsets, both, self.heads, self.eps,
            self.scaling,
        )  # fmt: skip
        return self.kernels.attend(mixed, both, positions, offsets, self.heads)

    def _activated(self, layer: Layer, normed: torch.Tensor) -> torch.Tensor:
        gate_up = layer.gate_up(normed)
        if self._is_silu:
            return self.kernels.silu_and_multiply(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return self.act(gate).mul_(up)


Plain = tuple[torch.Tensor, torch.Tensor | None]  # a linear layer's weight and bias


def _plain(layer: Layer) -> tuple[Plain, Plain, Plain, Plain] | None:
    """Weights and biases of the layer's four products, where all are plain ones."""
    products: list[Any] = [layer.qkv, layer.out, layer.gate_up, layer.down]
    if not all(isinstance(product, partial) for product in products):
        return None
    a, b, c, d = ((product.keywords["weight"], product.keywords["bias"]) for product in products)
    return a, b, c, d


class _Graph:
    """A step of up to `rows` conversations, with the places that it reads from and writes to.

    Args:
        way: `GraphDecoder.decode` or `decode_one`.
    """

    def __init__(self, decoder: GraphDecoder, way: Callable[..., torch.Tensor], rows: int, memory: Memory):
        device = decoder.device
        self._embeds = torch.zeros(rows, decoder.norm.shape[-1], dtype=decoder.dtype, device=device)
        self._where = torch.full((2, rows), NOWHERE, device=device)  # positions, offsets
        self._graph = torch.cuda.CUDAGraph()

        def work() -> torch.Tensor:
            return way(self._embeds.clone(), self._where[0], self._where[1], memory)

        # A first pass apart compiles the kernels and takes what the libraries keep for themselves.
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream(device).wait_stream(stream)
        # Other threads may go on using the GPU meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._hidden = work()

    def seconds(self) -> float:
        """Of a step without a conversation, the best of a few."""
        times = []
        for _ in range(TRIED):
            torch.cuda.synchronize(self._embeds.device)
            started = time.perf_counter()
            self._graph.replay()
            torch.cuda.synchronize(self._embeds.device)
            times.append(time.perf_counter() - started)
        return min(times)

    def replay(self, embeds: torch.Tensor, runs: list[Run]) -> torch.Tensor:
        spare = [NOWHERE] * (self._where.shape[1] - len(runs))
        where = [[run.start for run in runs] + spare, [run.offset for run in runs] + spare]
        self._where.copy_(torch.tensor(where))
        self._embeds[: len(runs)].copy_(embeds)
        self._graph.replay()
        return self._hidden[: len(runs)]
