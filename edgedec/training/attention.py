"""Attention for training. On a CPU: torch's fused forward, a blocked backward of ours.

The fused backward that torch has for CPUs takes two to three times as long at these lengths.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 128


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [batch, heads, length, dim] over fewer k/v heads."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    mixed: Tensor = _Causal.apply(q, k, v)  # type: ignore[no-untyped-call]
    return mixed


def attend_all(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention of q [batch, heads, length, dim] over the keys that `seen` [batch, keys] marks."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        groups = q.shape[1] // k.shape[1]
        # With a mask, no fused kernel shares keys between heads.
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return F.scaled_dot_product_attention(q, k, v, seen[:, None, None])
    mixed: Tensor = _Masked.apply(q, k, v, seen)  # type: ignore[no-untyped-call]
    return mixed


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 0.0, True
        )
        ctx.save_for_backward(q, k, v, mixed, log_sum)
        out: Tensor = mixed
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With p = softmax(s): dv = p'do, ds = p (do v' - sum(do o)), dq = ds k, dk = ds'q."""
        q, k, v, mixed, log_sum = ctx.saved_tensors
        (grad,) = grads
        rowsum = (grad.float() * mixed.float()).sum(-1)
        length = q.shape[2]
        parts_q, parts_k, parts_v = [], [], []
        for start in range(0, length, _BLOCK):
            rows = slice(start, min(start + _BLOCK, length))
            count, keys = rows.stop - start, rows.stop
            part = _block(
                (q[:, :, rows], k[:, :, :keys], v[:, :, :keys]),
                grad[:, :, rows],
                (log_sum[:, :, rows], rowsum[:, :, rows]),
                torch.ones(count, keys, dtype=torch.bool, device=q.device).tril(keys - count),
            )
            parts_q.append(part[0])
            parts_k.append(part[1])
            parts_v.append(part[2])
        return torch.cat(parts_q, 2), _add_up(parts_k, k), _add_up(parts_v, v)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        bias = torch.where(seen, 0.0, -1e30).to(q.dtype)[:, None, None]
        mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q,
            k.repeat_interleave(groups, 1),
            v.repeat_interleave(groups, 1),
            0.0,
            False,
            attn_mask=bias.expand(-1, -1, q.shape[2], -1),
        )
        ctx.save_for_backward(q, k, v, seen, mixed, log_sum)
        out: Tensor = mixed
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """As for causal attention, in one block."""
        q, k, v, seen, mixed, log_sum = ctx.saved_tensors
        (grad,) = grads
        rowsum = (grad.float() * mixed.float()).sum(-1)
        mask = seen.repeat_interleave(k.shape[1], 0)[:, None, None]
        grad_q, grad_k, grad_v = _block((q, k, v), grad, (log_sum, rowsum), mask)
        return grad_q, grad_k.view(k.shape), grad_v.view(v.shape), None


def _block(
    qkv: tuple[Tensor, Tensor, Tensor], grad: Tensor, rows: tuple[Tensor, Tensor], mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from one block of queries; `mask` marks what they see of the keys."""
    q, k, v = qkv
    batch, heads, count, dim = q.shape
    pairs, seen = batch * k.shape[1], k.shape[2]
    groups = heads // k.shape[1]
    scale = dim**-0.5
    # the query heads that share a k/v head become rows of one matrix product
    flat_q = q.reshape(pairs, groups * count, dim)
    flat_grad = grad.reshape(pairs, groups * count, dim)
    flat_k, flat_v = k.reshape(pairs, seen, dim), v.reshape(pairs, seen, dim)
    scores = torch.bmm(flat_q, flat_k.transpose(1, 2)).view(pairs, groups, count, seen)
    wanted = torch.bmm(flat_grad, flat_v.transpose(1, 2)).view(pairs, groups, count, seen)
    log_sum, rowsum = (row.reshape(pairs, groups, count, 1) for row in rows)
    chance = torch.where(mask, torch.exp(scores.float() * scale - log_sum), 0.0)
    slope = (chance * (wanted.float() - rowsum) * scale).to(q.dtype)
    flat_slope = slope.view(pairs, groups * count, seen)
    flat_chance = chance.to(q.dtype).view(pairs, groups * count, seen)
    grad_q = torch.bmm(flat_slope, flat_k).view(batch, heads, count, dim)
    grad_k = torch.bmm(flat_slope.transpose(1, 2), flat_q)
    grad_v = torch.bmm(flat_chance.transpose(1, 2), flat_grad)
    return grad_q, grad_k, grad_v


def _add_up(parts: list[Tensor], like: Tensor) -> Tensor:
    """Sum gradients of prefixes of different lengths, in fp32."""
    pieces, start = [], 0
    for index, part in enumerate(parts):
        piece = part[:, start:].float()
        for later in parts[index + 1 :]:
            piece = piece + later[:, start : part.shape[1]].float()
        pieces.append(piece.to(like.dtype))
        start = part.shape[1]
    return torch.cat(pieces, 1).view(like.shape)
