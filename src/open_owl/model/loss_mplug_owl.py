"""Cross entropy of supervised tokens, without the logits of all of them at once."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

# 256 tokens of a vocabulary of 32,000 are 33 MB of logits.
TOKENS_AT_ONCE = 256

Head = Callable[[torch.Tensor], torch.Tensor]


def losses_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy [tokens] of logits [tokens, vocabulary] and targets [tokens], in float32."""
    return nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def losses_through(
    head: Head, hidden_states: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross entropy, and each token's [tokens] without gradient, through a head that does not learn.

    hidden_states [tokens, hidden]; targets [tokens]. Logits of a few tokens at a time are made, turned into
    the gradient of their hidden states at once, and forgotten: neither pass ever holds those of all tokens.
    """
    return cast(Any, _LossesThroughHead).apply(hidden_states, head, targets)


class _LossesThroughHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_states: torch.Tensor, head: Head, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        learns = ctx.needs_input_grad[0]
        losses, gradients = [hidden_states.new_zeros(0, dtype=torch.float32)], [hidden_states[:0]]
        pieces = zip(hidden_states.split(TOKENS_AT_ONCE), targets.split(TOKENS_AT_ONCE), strict=True)
        for piece, wanted in pieces if len(targets) else ():
            piece = piece.detach().requires_grad_(learns)
            with torch.set_grad_enabled(learns):
                found = losses_of(head(piece), wanted)
                gradients += torch.autograd.grad(found.sum(), piece) if learns else ()
            losses.append(found.detach())
        ctx.save_for_backward(torch.cat(gradients) if learns else None)
        each = torch.cat(losses)
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (saved,) = ctx.saved_tensors
        return (saved.float() * gradients[0]).to(saved.dtype), None, None


def mean_over(total: torch.Tensor, count: int, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
    """`total`, the losses of `count` supervised tokens, over `num_items_in_batch`, or over `count`.

    The divisor is at least 1: a batch without a label has loss 0, not NaN (mPLUG-Owl issues 92, 93).
    """
    items = count if num_items_in_batch is None else num_items_in_batch
    if isinstance(items, torch.Tensor):
        return total / items.to(total.device).clamp(min=1)
    return total / max(items, 1)
