"""Muon with matrices of one shape orthogonalised together: the same update, fewer small products.

State and checkpoints are those of `torch.optim.Muon`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_STEPS = 5


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with the rate matched to AdamW's, for models of equal layers."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            for matrices in by_shape.values():
                self._update(matrices, group)
        return loss

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        directions = []
        for matrix in matrices:
            assert matrix.grad is not None
            state = self.state[matrix]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            momentum = state["momentum_buffer"].lerp_(matrix.grad, 1.0 - group["momentum"])
            directions.append(matrix.grad.lerp(momentum, group["momentum"]))
        # a change of 0.2 root mean square per entry is what AdamW makes
        rate = group["lr"] * 0.2 * max(matrices[0].shape) ** 0.5
        for matrix, change in zip(matrices, orthogonalise(torch.stack(directions)), strict=True):
            matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
            matrix.add_(change, alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring all singular values of [count, rows, columns] near 1 (quintic Newton-Schulz)."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(_STEPS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
