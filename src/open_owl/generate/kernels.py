"""What an LLM of Llama's form does between its matrix products, one kernel each, for one token of each row.

In Triton, which torch brings on a GPU. Every size is fixed and every length is read from memory, so that a
CUDA graph of them stays right while conversations come, grow and go. A row without a conversation has
position -1: it is computed and nothing of it is kept.
"""

# What is written for Triton's compiler, a type checker takes for Python.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false

import torch
import triton
import triton.language as tl

BLOCK = 32  # positions that a program of `_attend` looks at together
MOST_SPLITS = 32
PROGRAMS = 512  # that fill a GPU


@triton.jit
def _add_and_norm(
    hidden, delta, weight, normed, size, eps, ADDS: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, PADDED)
    inside = column < size
    place = row * size + column
    x = tl.load(hidden + place, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        x += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
        x = x.to(hidden.dtype.element_ty).to(tl.float32)
        tl.store(hidden + place, x.to(hidden.dtype.element_ty), mask=inside)
    x *= tl.rsqrt(tl.sum(x * x) / size + eps)
    x = x.to(normed.dtype.element_ty).to(tl.float32)  # rounded before it is weighted, as in transformers
    x *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + place, x.to(normed.dtype.element_ty), mask=inside)


def add_and_norm(
    hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """The root-mean-square norm of hidden + delta [rows, size], which is kept in `hidden`."""
    rows, size = hidden.shape
    normed = torch.empty_like(hidden)
    _add_and_norm[(rows,)](
        hidden, hidden if delta is None else delta, weight, normed, size, eps,
        ADDS=delta is not None, PADDED=triton.next_power_of_2(size), num_warps=8,
    )  # fmt: skip
    return normed


@triton.jit
def _turn_and_keep(
    mixed, cos, sin, norms, positions, offsets, both, tokens, eps, scaling,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr,
    NORMS: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.load(positions + row)
    half: tl.constexpr = SIZE // 2
    column = tl.arange(0, PADDED)
    inside = column < half
    kind = mixed.dtype.element_ty
    mine = mixed + (row * (HEADS + 2 * KV_HEADS) + head) * SIZE + column
    a = tl.load(mine, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(mine + half, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        if NORMS:
            scale = tl.rsqrt((tl.sum(a * a) + tl.sum(b * b)) / SIZE + eps)
            norm = norms + head * SIZE + column
            a = (a * scale).to(kind).to(tl.float32) * tl.load(norm, mask=inside, other=0.0).to(tl.float32)
            b = (b * scale).to(kind).to(tl.float32) * tl.load(norm + half, mask=inside, other=0.0).to(
                tl.float32
            )
        turn = tl.maximum(position, 0) * SIZE + column
        # The first half of `sin` has its sign turned.
        turned = a * tl.load(cos + turn, mask=inside, other=0.0).to(tl.float32)
        turned += b * tl.load(sin + turn, mask=inside, other=0.0).to(tl.float32)
        b *= tl.load(cos + turn + half, mask=inside, other=0.0).to(tl.float32)
        b += a * tl.load(sin + turn + half, mask=inside, other=0.0).to(tl.float32)
        a = turned
    if head < HEADS:
        tl.store(mine, (a * scaling).to(kind), mask=inside)
        tl.store(mine + half, (b * scaling).to(kind), mask=inside)
    elif position >= 0:
        place = (head - HEADS).to(tl.int64) * tokens + tl.load(offsets + row) + position
        kept = both + place * SIZE + column
        tl.store(kept, a.to(kind), mask=inside)
        tl.store(kept + half, b.to(kind), mask=inside)


def turn_and_keep(
    mixed: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: torch.Tensor | None,
    positions: torch.Tensor,
    offsets: torch.Tensor,
    both: torch.Tensor,
    heads: int,
    eps: float,
    scaling: float,
) -> None:
    """Turn queries and keys by their positions; keep keys and values; leave scaled queries in `mixed`.

    Args:
        mixed: queries, keys and values [rows, heads + 2 * kv heads, size].
        cos, sin: [positions, size]; the first half of a row of `sin` has its sign turned.
        norms: of queries and keys, [heads + kv heads, size], for LLMs that norm them.
        positions, offsets: of each row [rows], int64.
        both: keys and values of the arena [2 * kv heads, tokens, size].
    """
    rows, all_heads, size = mixed.shape
    _turn_and_keep[(rows, all_heads)](
        mixed, cos, sin, mixed if norms is None else norms, positions, offsets, both, both.shape[1], eps,
        scaling,
        HEADS=heads, KV_HEADS=(all_heads - heads) // 2, SIZE=size,
        PADDED=triton.next_power_of_2(size // 2), NORMS=norms is not None, num_warps=1,
    )  # fmt: skip


@triton.jit
def _attend(
    mixed, both, positions, offsets, parts, tops, sums, tokens,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, MEMBERS: tl.constexpr,
    SIZE: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One split of the known positions of a row, for the query heads that share a head of keys."""
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    known = tl.load(positions + row) + 1
    length = tl.cdiv(tl.cdiv(known, SPLITS), BLOCK) * BLOCK
    first = split * length
    last = tl.minimum(first + length, known)
    offset = tl.load(offsets + row)
    member, column = tl.arange(0, MEMBERS), tl.arange(0, PADDED)
    asks, inside = member < GROUP, column < SIZE
    head = kv_head * GROUP + member
    place = (row * (HEADS + 2 * KV_HEADS) + head)[:, None] * SIZE + column[None]
    query = tl.load(mixed + place, mask=asks[:, None] & inside[None], other=0.0)
    top = tl.full(member.shape, float("-inf"), tl.float32)
    total = tl.zeros(member.shape, tl.float32)
    found = tl.zeros((MEMBERS, PADDED), tl.float32)
    for start in range(first, last, BLOCK):
        position = start + tl.arange(0, BLOCK)
        is_known = position < last
        kept = (kv_head.to(tl.int64) * tokens + offset + position)[:, None] * SIZE + column[None]
        taken = is_known[:, None] & inside[None]
        keys = tl.load(both + kept, mask=taken, other=0.0)
        values = tl.load(both + kept + KV_HEADS * tokens * SIZE, mask=taken, other=0.0)
        if GROUP > 1:
            scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
        else:
            scores = tl.sum(query.to(tl.float32) * keys.to(tl.float32), 1)[None]
        scores = tl.where(is_known[None], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        fades = tl.exp(top - higher)
        total = total * fades + tl.sum(shares, 1)
        if GROUP > 1:
            seen = tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        else:
            seen = tl.sum(tl.trans(shares) * values.to(tl.float32), 0)[None]
        found = found * fades[:, None] + seen
        top = higher
    place = (row * HEADS + head) * SPLITS + split
    tl.store(tops + place, top, mask=asks)
    tl.store(sums + place, total, mask=asks)
    tl.store(parts + place[:, None] * SIZE + column[None], found, mask=asks[:, None] & inside[None])


@triton.jit
def _merge(
    parts, tops, sums, out, SIZE: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """The splits of a head of a row, each weighted by its share of the exponentials."""
    head = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, PADDED)
    inside = column < SIZE
    top = tl.load(tops + head * SPLITS + split)
    highest = tl.max(top)
    share = tl.where(top > float("-inf"), tl.exp(top - highest), 0.0)
    total = tl.sum(share * tl.load(sums + head * SPLITS + split))
    place = (head * SPLITS + split)[:, None] * SIZE + column[None]
    part = tl.load(parts + place, mask=inside[None], other=0.0)
    found = tl.sum(part * share[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + head * SIZE + column, found.to(out.dtype.element_ty), mask=inside)


def attend(
    mixed: torch.Tensor, both: torch.Tensor, positions: torch.Tensor, offsets: torch.Tensor, heads: int
) -> torch.Tensor:
    """Scaled queries in `mixed` over all positions of their rows up to their own -> [rows, heads * size].

    Each row's positions are split among programs (Flash-Decoding; Dao et al. 2023), so that a few long
    conversations fill a GPU too. Arguments as of `turn_and_keep`.
    """
    rows, all_heads, size = mixed.shape
    kv_heads, padded = (all_heads - heads) // 2, max(16, triton.next_power_of_2(size))
    group, splits = heads // kv_heads, splits_for(rows * kv_heads)
    parts = torch.empty(rows, heads, splits, size, dtype=torch.float32, device=mixed.device)
    tops, sums = (
        torch.empty(rows, heads, splits, dtype=torch.float32, device=mixed.device) for _ in range(2)
    )
    out = mixed.new_empty((rows, heads * size))
    _attend[(rows, kv_heads, splits)](
        mixed, both, positions, offsets, parts, tops, sums, both.shape[1],
        HEADS=heads, KV_HEADS=kv_heads, GROUP=group, SIZE=size, PADDED=padded, SPLITS=splits, BLOCK=BLOCK,
        MEMBERS=max(16, triton.next_power_of_2(group)) if group > 1 else 1, num_warps=4,
    )  # fmt: skip
    _merge[(rows * heads,)](parts, tops, sums, out, SIZE=size, PADDED=padded, SPLITS=splits, num_warps=2)
    return out


def splits_for(programs: int) -> int:
    """Into how many parts the positions of each row are split, where there are that many heads of keys."""
    splits = 1
    while splits < MOST_SPLITS and 2 * splits * programs <= PROGRAMS:
        splits *= 2
    return splits


@triton.jit
def _silu_and_multiply(both, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(both + 2 * row * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + (2 * row + 1) * size + column, mask=inside, other=0.0).to(tl.float32)
    gate = (gate / (1 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * size + column, (gate * up).to(out.dtype.element_ty), mask=inside)


def silu_and_multiply(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where gate_up is [rows, 2 * size] -> [rows, size]"""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty((rows, size))
    _silu_and_multiply[(rows, triton.cdiv(size, 1024))](gate_up, out, size, BLOCK=1024, num_warps=4)
    return out


@triton.jit
def _row_product(
    row, weight, bias, norm, added, out, outputs, eps, SIZE: tl.constexpr,
    NORMS: tl.constexpr, GATES: tl.constexpr, HAS_BIAS: tl.constexpr, ADDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0)
    kind = out.dtype.element_ty
    mine = weight + number.to(tl.int64) * SIZE
    product, above, square = (tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32),
                              tl.zeros((BLOCK,), tl.float32))  # fmt: skip
    for start in range(0, SIZE, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < SIZE
        x = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
        if NORMS:
            square += x * x
            x *= tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
        product += x * tl.load(mine + column, mask=inside, other=0.0).to(tl.float32)
        if GATES:
            up = tl.load(mine + outputs.to(tl.int64) * SIZE + column, mask=inside, other=0.0)
            above += x * up.to(tl.float32)
    scale = tl.rsqrt(tl.sum(square) / SIZE + eps) if NORMS else 1.0
    y = tl.sum(product) * scale
    if HAS_BIAS:
        y += tl.load(bias + number).to(tl.float32)
    y = y.to(kind).to(tl.float32)
    if GATES:
        z = tl.sum(above) * scale
        if HAS_BIAS:
            z += tl.load(bias + outputs + number).to(tl.float32)
        y = (y / (1 + tl.exp(-y))).to(kind).to(tl.float32) * z.to(kind).to(tl.float32)
    if ADDS:
        y += tl.load(added + number).to(tl.float32)
    tl.store(out + number, y.to(kind))


def row_product(
    row: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    added: torch.Tensor | None = None,
    gates: bool = False,
) -> torch.Tensor:
    """A linear layer of a single row [1, in], with what stands before and after it: [1, outputs].

    Args:
        norm: weight [in] of the root-mean-square norm that the row goes through first, with `eps`.
        added: [1, out], to the result.
        gates: the first half of the outputs, through SiLU, is multiplied with the second.
    """
    size, outputs = weight.shape[1], weight.shape[0] // (2 if gates else 1)
    out = row.new_empty((1, outputs))
    block = min(triton.next_power_of_2(size), 1024 if size % 2048 else 2048)
    _row_product[(outputs,)](
        row, weight, row if bias is None else bias, row if norm is None else norm,
        row if added is None else added, out, outputs, eps,
        SIZE=size, NORMS=norm is not None, GATES=gates, HAS_BIAS=bias is not None, ADDS=added is not None,
        BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out
