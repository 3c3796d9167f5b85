"""Muon for matrices and AdamW for all else, as one optimizer."""

from collections.abc import Sequence
from typing import Any

import torch


class MuonAdamW(torch.optim.Optimizer):
    """Steps groups that have `muon` with Muon and the others with AdamW; state and groups are those of one.

    Muon's steps are scaled to the size of AdamW's (arXiv 2502.16982, 2.2), so that rates are of one kind.

    Args:
        groups: as torch's optimizers take them, each with `lr`, `weight_decay` and `muon`.
        betas: of AdamW.
        epsilon: of AdamW.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(groups, {})
        by_muon, by_adamw = ([g for g in self.param_groups if g["muon"] is muon] for muon in (True, False))
        # Both have the very groups of this optimizer, so that a schedule moves them all.
        self._parts: list[tuple[bool, torch.optim.Optimizer]] = []
        if by_muon:
            self._parts.append((True, torch.optim.Muon(by_muon, adjust_lr_fn="match_rms_adamw")))
        if by_adamw:
            self._parts.append((False, torch.optim.AdamW(by_adamw, betas=betas, eps=epsilon, fused=True)))
        self._share()

    def _share(self) -> None:
        for muon, part in self._parts:
            part.param_groups = [group for group in self.param_groups if group["muon"] is muon]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for _, part in self._parts:
            part.step()
