"""Attention for training on a CPU. Causal: torch's fused forward, a blocked backward of ours.

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
    """Attention of q [batch, heads, length, dim] over the keys that `seen` [batch, keys] marks.

    Written out, for torch.compile to fuse; the query heads that share keys become rows.
    """
    batch, heads, length, dim = q.shape
    kv_heads = k.shape[1]
    rows = q.reshape(batch, kv_heads, heads // kv_heads * length, dim)
    scores = torch.matmul(rows, k.transpose(2, 3)) * dim**-0.5
    scores = scores.float().masked_fill(~seen[:, None, None, :], float("-inf"))
    mixed = torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)
    return mixed.view(batch, heads, length, dim)


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
            part = _block(
                (q[:, :, rows], k[:, :, : rows.stop], v[:, :, : rows.stop]),
                grad[:, :, rows],
                (log_sum[:, :, rows], rowsum[:, :, rows]),
            )
            parts_q.append(part[0])
            parts_k.append(part[1])
            parts_v.append(part[2])
        return torch.cat(parts_q, 2), _add_up(parts_k, k), _add_up(parts_v, v)


def _block(
    qkv: tuple[Tensor, Tensor, Tensor], grad: Tensor, rows: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from one block of queries, which see every key up to the block's end."""
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
    mask = torch.ones(count, seen, dtype=torch.bool, device=q.device).tril(seen - count)
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
