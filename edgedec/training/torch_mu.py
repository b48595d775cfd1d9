"""A small encoder-decoder to train on a CPU: the topology of Return of the Encoder (2501.16273).

Reads and writes the official tensor names. Knows nothing of data, schedules or bundles. Rotary
positions of the encoder are centred on the padded length here: they are relative, so a shift by
the padding changes nothing but rounding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgedec.training.attention import attend, attend_all
from edgedec.training.sizes import MuShape, Shape
from edgedec.training.torch_llama import Layer, TorchLlama, rope_tables, rotate

Tables = tuple[Tensor, Tensor]


class Pairs(NamedTuple):
    """A batch: decoder inputs, what should follow each, how much that counts; padded sources.

    `places` says where in the source a target comes from (-1: nowhere, or unknown).
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    sources: Tensor
    lengths: Tensor
    places: Tensor


class Attention(nn.Module):
    """Grouped attention with biases; queries, and keys with values, are one matrix each."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q = nn.Parameter(torch.empty(width, shape.hidden))
        self.kv = nn.Parameter(torch.empty(2 * narrow, shape.hidden))
        self.out = nn.Parameter(torch.empty(shape.hidden, width))
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.kv_bias = nn.Parameter(torch.zeros(2 * narrow))
        self.out_bias = nn.Parameter(torch.zeros(shape.hidden))
        for matrix in (self.q, self.kv, self.out):
            nn.init.normal_(matrix, std=0.02)

    def forward(
        self, x: Tensor, memory: Tensor, rope: Tables | None, seen: Tensor | None
    ) -> Tensor:
        """Mix `memory` into each row of `x`: causally, or where `seen` [batch, length] says."""
        q = self._split(F.linear(x, self.q, self.q_bias))
        merged = self._split(F.linear(memory, self.kv, self.kv_bias))
        k, v = merged.chunk(2, dim=1)
        if rope is not None:
            cos, sin = rope[0].to(q.dtype), rope[1].to(q.dtype)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = attend(q, k, v) if seen is None else attend_all(q, k, v, seen)
        return F.linear(mixed.transpose(1, 2).flatten(2), self.out, self.out_bias)

    def scores(self, x: Tensor, memory: Tensor) -> Tensor:
        """What the first head looks at, before the softmax: [batch, length, keys]."""
        dim = self.shape.head_dim
        q = F.linear(x, self.q[:dim], self.q_bias[:dim])
        k = F.linear(memory, self.kv[:dim], self.kv_bias[:dim])
        found: Tensor = torch.matmul(q, k.transpose(1, 2)).float() * dim**-0.5
        return found

    def _split(self, merged: Tensor) -> Tensor:
        batch, length, _ = merged.shape
        return merged.view(batch, length, -1, self.shape.head_dim).transpose(1, 2)


class Gated(nn.Module):
    """SwiGLU without biases; gate and up are one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2 * shape.ffn, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.hidden, shape.ffn))
        for matrix in (self.gate_up, self.down):
            nn.init.normal_(matrix, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Change each row by itself."""
        gate, up = F.linear(x, self.gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down)


class Block(nn.Module):
    """One pre-norm block; a decoder's looks at the encoder's output in between."""

    def __init__(self, shape: Shape, crossed: bool) -> None:
        super().__init__()
        self.eps = shape.eps
        self.norms = nn.ParameterList(torch.ones(shape.hidden) for _ in range(2 + crossed))
        self.attention = Attention(shape)
        self.cross = Attention(shape) if crossed else None
        self.mlp = Gated(shape)

    def forward(
        self,
        x: Tensor,
        rope: Tables,
        seen: Tensor,
        memory: Tensor | None = None,
        pointing: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the block; `seen` masks the source, whose encoding a decoder gets as `memory`.

        Where `pointing`, the scores of the cross-attention's first head come with its output.
        """
        scores = None
        normed = self.norm(x, 0)
        x = x + self.attention(normed, normed, rope, None if self.cross else seen)
        if self.cross is not None:
            assert memory is not None
            normed = self.norm(x, 1)
            if pointing:
                scores = self.cross.scores(normed, memory)
            x = x + self.cross(normed, memory, None, seen)
        changed: Tensor = self.mlp(self.norm(x, -1))
        return x + changed, scores

    def norm(self, x: Tensor, which: int) -> Tensor:
        """Apply one of the block's norms."""
        return F.rms_norm(x, x.shape[-1:], self.norms[which], self.eps)


class TorchMu(nn.Module):
    """The trainable model: memory, logits, and the training loss."""

    def __init__(self, shape: MuShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.empty(shape.vocab, shape.hidden))
        nn.init.normal_(self.embed, std=0.02)
        self.encoder = nn.ModuleList(Block(shape, False) for _ in range(shape.layers))
        self.decoder = nn.ModuleList(Block(shape, True) for _ in range(shape.decoder_layers))
        self.encoder_norm = nn.Parameter(torch.ones(shape.hidden))
        self.decoder_norm = nn.Parameter(torch.ones(shape.hidden))
        cos, sin = rope_tables(shape, 2 * shape.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def encode(self, sources: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Memory [batch, length, hidden] of padded sources, and which of it is real."""
        length = sources.shape[1]
        seen = torch.arange(length, device=sources.device) < lengths[:, None]
        x = F.embedding(sources, self.embed)
        rope = self._centred(length)
        for block in self.encoder:
            x, _ = block(x, rope, seen)
        return F.rms_norm(x, x.shape[-1:], self.encoder_norm, self.shape.eps), seen

    def decode(
        self,
        tokens: Tensor,
        memory: Tensor,
        seen: Tensor,
        pointers: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits [batch, length, vocab] of decoder inputs.

        `pointers` gets the scores of the first head of each cross-attention but the lowest.
        """
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        rope = (cos[: tokens.shape[1]], sin[: tokens.shape[1]])
        x = F.embedding(tokens, self.embed)
        for index, block in enumerate(self.decoder):
            x, scores = block(x, rope, seen, memory, pointers is not None and index > 0)
            if pointers is not None and scores is not None:
                pointers.append(scores)
        return F.linear(F.rms_norm(x, x.shape[-1:], self.decoder_norm, self.shape.eps), self.embed)

    def forward(self, sources: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        """Logits of decoder inputs, given padded sources."""
        return self.decode(tokens, *self.encode(sources, lengths))

    def losses(self, batch: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted mean loss, the plain one over what counts, and that of the pointers.

        The last is how badly the first head of each cross-attention but the lowest finds the
        place in the source that the next token comes from.
        """
        memory, seen = self.encode(batch.sources, batch.lengths)
        pointers: list[Tensor] = []
        logits = self.decode(batch.tokens, memory, seen, pointers).float().flatten(0, 1)
        each = F.cross_entropy(logits, batch.targets.flatten(), reduction="none")
        weights = batch.weights.flatten()
        real = (weights > 0.0).float()
        places = batch.places.flatten()
        lost = logits.new_zeros(())
        for scores in pointers:
            masked = scores.masked_fill(~seen[:, None], -1e30).flatten(0, 1)
            lost = lost + F.cross_entropy(masked, places, ignore_index=-1)
        plain = (each * real).sum() / real.sum()
        return (each * weights).sum() / weights.sum(), plain, lost

    def _centred(self, length: int) -> Tables:
        cos, sin = self.get_buffer("cos")[:length], self.get_buffer("sin")[:length]
        back = (length - 1) // 2
        # cos(-p) = cos(p), sin(-p) = -sin(p)
        cos = torch.cat((cos[1 : back + 1].flip(0), cos[: length - back]))
        return cos, torch.cat((-sin[1 : back + 1].flip(0), sin[: length - back]))


def from_llama(llama: TorchLlama, shape: MuShape) -> TorchMu:
    """Start from a trained decoder of the same width.

    The encoder takes layers spread over the lower ones, the decoder the upper ones. A decoder
    layer's cross-attention begins as its self-attention, with a tenth of the output.
    """
    model = TorchMu(shape)
    count = len(llama.layers)
    upper = range(count - shape.decoder_layers, count)
    with torch.no_grad():
        model.embed.copy_(llama.embed)
        model.encoder_norm.copy_(llama.norm)
        model.decoder_norm.copy_(llama.norm)
        for index, block in enumerate(model.encoder):
            _copy_layer(llama.layers[index * upper.start // shape.layers], block)
        for index, block in zip(upper, model.decoder, strict=True):
            _copy_layer(llama.layers[index], block)
    return model


def _copy_layer(layer: nn.Module, block: nn.Module) -> None:
    assert isinstance(layer, Layer)
    assert isinstance(block, Block)
    for attention in (block.attention, block.cross):
        if attention is not None:
            attention.q.copy_(layer.qkv[: len(attention.q)])
            attention.kv.copy_(layer.qkv[len(attention.q) :])
            attention.out.copy_(layer.out if attention is block.attention else 0.1 * layer.out)
    for norm in block.norms[:-1]:
        norm.copy_(layer.attention_norm)
    block.norms[-1].copy_(layer.mlp_norm)
    block.mlp.gate_up.copy_(layer.gate_up)
    block.mlp.down.copy_(layer.down)


def to_official(model: TorchMu) -> dict[str, Tensor]:
    """The weights under the official names; all are views into the model's own."""
    tensors: dict[str, Tensor] = {
        "transformer.wte.weight": model.embed,
        "transformer.ln_e.weight": model.encoder_norm,
        "transformer.ln_f.weight": model.decoder_norm,
    }
    for stack, blocks in (("e", model.encoder), ("h", model.decoder)):
        for index, block in enumerate(blocks):
            assert isinstance(block, Block)
            parts = {f"transformer.{stack}.{index}.{n}": p for n, p in _block_parts(block).items()}
            tensors |= parts
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _block_parts(block: Block) -> dict[str, Tensor]:
    gate, up = block.mlp.gate_up.chunk(2)
    parts = {f"ln{index + 1}.weight": norm for index, norm in enumerate(block.norms)}
    parts |= {"mlp.fc1.weight": gate, "mlp.fc3.weight": up, "mlp.fc2.weight": block.mlp.down}
    attentions = {"attn": block.attention}
    if block.cross is not None:
        attentions = {"causal_attn": block.attention, "cross_attn": block.cross}
    for name, attention in attentions.items():
        (k, v), (k_bias, v_bias) = attention.kv.chunk(2), attention.kv_bias.chunk(2)
        matrices = {"q": attention.q, "k": k, "v": v, "out": attention.out}
        biases = {"q": attention.q_bias, "k": k_bias, "v": v_bias, "out": attention.out_bias}
        parts |= {f"{name}.{n}_linear.weight": part for n, part in matrices.items()}
        parts |= {f"{name}.{n}_linear.bias": part for n, part in biases.items()}
    return parts


def load_official(folder: Path) -> TorchMu:
    """Build the model from a folder with `config.json` and `model.safetensors`."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = TorchMu(MuShape.from_config(config))
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, part in to_official(model).items():
            part.copy_(stored[name])
    return model


def save_official(model: TorchMu, folder: Path) -> None:
    """Write `config.json` and fp16 `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(model.shape.config(), indent=1) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {name: part.half().contiguous() for name, part in to_official(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
