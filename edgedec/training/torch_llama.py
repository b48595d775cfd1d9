"""A small Llama to train on a CPU: merged projections, layer dropout, one early exit.

Reads and writes Hugging Face names. Knows nothing of data, schedules or bundles.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedec.training.attention import attend
from edgedec.training.sizes import Shape


def rope_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim] in the rotate-half layout."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.theta**-half)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x [..., length, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Layer(nn.Module):
    """One pre-norm decoder layer; q/k/v and gate/up are single matrices."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = nn.Parameter(torch.ones(shape.hidden))
        self.mlp_norm = nn.Parameter(torch.ones(shape.hidden))
        rows = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv = nn.Parameter(torch.empty(rows, shape.hidden))
        self.out = nn.Parameter(torch.empty(shape.hidden, shape.heads * shape.head_dim))
        self.gate_up = nn.Parameter(torch.empty(2 * shape.ffn, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.hidden, shape.ffn))
        for matrix in (self.qkv, self.out, self.gate_up, self.down):
            nn.init.normal_(matrix, std=0.02)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keep: Tensor | None) -> Tensor:
        """Run the layer; `keep` [batch, 1, 1] is 0 where a sample skips it."""
        attended = self._attend(F.rms_norm(x, x.shape[-1:], self.attention_norm, self.shape.eps))
        mixed = F.linear(self._heads(attended, cos, sin), self.out)
        x = x + (mixed if keep is None else mixed * keep)
        normed = F.rms_norm(x, x.shape[-1:], self.mlp_norm, self.shape.eps)
        gate, up = F.linear(normed, self.gate_up).chunk(2, dim=-1)
        changed = F.linear(F.silu(gate) * up, self.down)
        return x + (changed if keep is None else changed * keep)

    def _attend(self, normed: Tensor) -> Tensor:
        batch, length, _ = normed.shape
        merged = F.linear(normed, self.qkv)
        return merged.view(batch, length, -1, self.shape.head_dim).transpose(1, 2)

    def _heads(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = self.shape
        q, k, v = torch.split(qkv, [shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = attend(q, k, v.to(q.dtype))
        return mixed.transpose(1, 2).flatten(2)


class TorchLlama(nn.Module):
    """The trainable model: hidden states, logits, and the training loss."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.empty(shape.vocab, shape.hidden))
        nn.init.normal_(self.embed, std=0.02)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        cos, sin = rope_tables(shape, shape.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def head(self, x: Tensor) -> Tensor:
        """Final norm and tied output head."""
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, self.shape.eps), self.embed)

    def forward(self, tokens: Tensor, last: int | None = None) -> Tensor:
        """Logits [batch, length, vocab], after `last` layers (default: all)."""
        x, cos, sin = self._start(tokens)
        for layer in self.layers[:last]:
            x = layer(x, cos, sin, None)
        return self.head(x)

    def losses(
        self,
        tokens: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        keep: Tensor | None = None,
        exit_layer: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the full model, and of the early exit on a quarter of the rows.

        `keep` [layers, rows] is the mask of `layer_keep`.
        """
        x, cos, sin = self._start(tokens)
        early = x.new_zeros(())
        rows = max(1, tokens.shape[0] // 4)
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if keep is None else keep[index, :, None, None])
            if index + 1 == exit_layer:
                early = _cross_entropy(
                    self.head(x[:rows]), targets[:rows], None if weights is None else weights[:rows]
                )
        return _cross_entropy(self.head(x), targets, weights), early

    def _start(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = tokens.shape[1]
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        return F.embedding(tokens, self.embed), cos[:length], sin[:length]


def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    flat = logits.float().flatten(0, 1)
    if weights is None:
        return F.cross_entropy(flat, targets.flatten())
    each = F.cross_entropy(flat, targets.flatten(), reduction="none")
    return (each * weights.flatten()).mean()


def layer_keep(layers: int, batch: int, top: float, generator: torch.Generator) -> Tensor:
    """LayerSkip's mask [layers, batch]: 1 keeps, 0 skips; the rate rises with depth to `top`."""
    depth = torch.arange(layers, dtype=torch.float32) / max(1, layers - 1)
    rate = top * (torch.exp(depth * math.log(2.0)) - 1.0)
    return (torch.rand(layers, batch, generator=generator) >= rate[:, None]).float()


def to_hugging_face(model: TorchLlama) -> dict[str, Tensor]:
    """The weights under Hugging Face names, q/k/v and gate/up apart."""
    shape = model.shape
    rows = [shape.heads * shape.head_dim] + [shape.kv_heads * shape.head_dim] * 2
    tensors: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embed,
        "model.norm.weight": model.norm,
    }
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        q, k, v = torch.split(layer.qkv, rows)
        gate, up = layer.gate_up.chunk(2)
        parts: dict[str, Tensor] = {
            "input_layernorm": layer.attention_norm,
            "post_attention_layernorm": layer.mlp_norm,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": layer.out,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": layer.down,
        }
        tensors |= {f"model.layers.{index}.{name}.weight": part for name, part in parts.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def load_hugging_face(folder: Path) -> TorchLlama:
    """Build the model from a folder with `config.json` and `model.safetensors`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = TorchLlama(Shape.from_config(config))
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, part in to_hugging_face(model).items():
            part.copy_(stored[name])  # the parts are views into the merged matrices
    return model


def save_hugging_face(model: TorchLlama, folder: Path) -> None:
    """Write `config.json` and fp16 `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.shape.config(), indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {name: part.half().contiguous() for name, part in to_hugging_face(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
