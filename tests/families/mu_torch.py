"""Return of the Encoder in PyTorch, from the paper and its authors' tensor names: an oracle.

transformers has no such model, so this stands in for it. It takes padded and masked batches as
theirs does, and knows nothing of edgedec.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Mu(nn.Module):
    """The whole model; its `state_dict` has the names of a checkpoint."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, self.eps = config["n_embd"], config["rms_norm_eps"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], dim),
                "e": nn.ModuleList(Block(config, 2) for _ in range(config["n_encoder_layer"])),
                "ln_e": Norm(dim, self.eps),
                "h": nn.ModuleList(Block(config, 3) for _ in range(config["n_decoder_layer"])),
                "ln_f": Norm(dim, self.eps),
            }
        )
        self.lm_head = None
        if not config["tie_word_embeddings"]:
            self.lm_head = nn.Linear(dim, config["vocab_size"], bias=False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        decoder_input_ids: Tensor,
        **_: object,
    ) -> SimpleNamespace:
        """Logits [B, T, V]; the mask is 1 where a source has a token."""
        parts, length = self.transformer, decoder_input_ids.shape[1]
        seen = attention_mask[:, None, None, :].bool()
        memory = parts["wte"](input_ids)
        for block in parts["e"]:
            memory = memory + block.attn(block.ln1(memory), block.ln1(memory), seen, "centred")
            memory = memory + block.mlp(block.ln2(memory))
        memory = parts["ln_e"](memory)
        x = parts["wte"](decoder_input_ids)
        past = torch.ones(length, length).tril().bool()[None, None]
        for block in parts["h"]:
            x = x + block.causal_attn(block.ln1(x), block.ln1(x), past, "absolute")
            x = x + block.cross_attn(block.ln2(x), memory, seen, None)
            x = x + block.mlp(block.ln3(x))
        x = parts["ln_f"](x)
        head = parts["wte"].weight if self.lm_head is None else self.lm_head.weight
        return SimpleNamespace(logits=x @ head.T)


class Block(nn.Module):
    """An encoder's block has two norms, a decoder's three."""

    def __init__(self, config: dict[str, Any], norms: int) -> None:
        super().__init__()
        for index in range(1, norms + 1):
            setattr(self, f"ln{index}", Norm(config["n_embd"], config["rms_norm_eps"]))
        names = ["attn"] if norms == 2 else ["causal_attn", "cross_attn"]
        for name in names:
            setattr(self, name, Attention(config))
        self.mlp = Mlp(config)


class Norm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


class Mlp(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim, width, self.gated = config["n_embd"], config["hidden_dim"], config["gated"]
        self.fc1 = nn.Linear(dim, width, bias=not self.gated)
        self.fc2 = nn.Linear(width, dim, bias=not self.gated)
        if self.gated:
            self.fc3 = nn.Linear(dim, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            return self.fc2(nn.functional.silu(self.fc1(x)) * self.fc3(x))
        return self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))


class Attention(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.groups = config["n_head"], config["n_kv_head"]
        self.width = config["qkv_embd"] // self.heads
        self.interleaved, self.theta = config["is_interleaved"], config["rope_theta"]
        dim, inner = config["n_embd"], self.groups * self.width
        self.q_linear = nn.Linear(dim, config["qkv_embd"])
        self.k_linear, self.v_linear = nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.out_linear = nn.Linear(config["qkv_embd"], dim)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor, positions: str | None) -> Tensor:
        q = self.q_linear(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        k = self.k_linear(memory).unflatten(-1, (self.groups, self.width)).transpose(1, 2)
        v = self.v_linear(memory).unflatten(-1, (self.groups, self.width)).transpose(1, 2)
        if positions is not None:
            place = torch.arange(x.shape[1], dtype=torch.float64)
            place = place - (x.shape[1] - 1) // 2 if positions == "centred" else place
            q, k = self.turn(q, place), self.turn(k, place)
        reads = torch.arange(self.heads)
        times = self.heads // self.groups
        reads = reads // times if self.interleaved else reads % self.groups
        scores = q @ k[:, reads].transpose(-1, -2) / self.width**0.5
        shares = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.out_linear((shares @ v[:, reads]).transpose(1, 2).flatten(2))

    def turn(self, x: Tensor, place: Tensor) -> Tensor:
        half = self.width // 2
        angles = place[:, None] * self.theta ** -(torch.arange(half, dtype=torch.float64) / half)
        turns = torch.polar(torch.ones_like(angles), angles)
        pairs = torch.complex(x[..., :half].double(), x[..., half:].double()) * turns
        return torch.cat([pairs.real, pairs.imag], -1).float()
