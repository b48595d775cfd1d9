"""Sizes of the models trained here, and how a `config.json` says them. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama with a tied head."""

    layers: int = 10
    hidden: int = 256
    ffn: int = 768
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 4096
    context: int = 512
    eps: float = 1e-5
    theta: float = 10000.0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape:
        """Read the shape from a Hugging Face `config.json`."""
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            ffn=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim", config["hidden_size"] // heads),
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            eps=config["rms_norm_eps"],
            theta=config.get("rope_theta", 10000.0),
        )

    def config(self) -> dict[str, Any]:
        """Return the Hugging Face `config.json` of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "float16",
        }


@dataclass(frozen=True)
class MuShape(Shape):
    """The sizes of an encoder-decoder; `layers` are the encoder's."""

    layers: int = 6
    decoder_layers: int = 3
    context: int = 320
    eps: float = 1e-6

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MuShape:
        """Read the shape from a `config.json` of model type `mu`."""
        return cls(
            layers=config["n_encoder_layer"],
            decoder_layers=config["n_decoder_layer"],
            hidden=config["n_embd"],
            ffn=config["hidden_dim"],
            heads=config["n_head"],
            kv_heads=config["n_kv_head"],
            head_dim=config["qkv_embd"] // config["n_head"],
            vocab=config["vocab_size"],
            context=config["block_size"],
            eps=config["rms_norm_eps"],
            theta=config["rope_theta"],
        )

    def config(self) -> dict[str, Any]:
        """Return the `config.json` of this shape."""
        return {
            "architectures": ["Mu"],
            "model_type": "mu",
            "n_encoder_layer": self.layers,
            "n_decoder_layer": self.decoder_layers,
            "n_embd": self.hidden,
            "qkv_embd": self.heads * self.head_dim,
            "hidden_dim": self.ffn,
            "n_head": self.heads,
            "n_kv_head": self.kv_heads,
            "is_interleaved": True,
            "block_size": self.context,
            "rope_theta": self.theta,
            "rope_factor": 1.0,
            "rms_norm_eps": self.eps,
            "gated": True,
            "vocab_size": self.vocab,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "decoder_start_token_id": 0,
            "tie_word_embeddings": True,
            "is_encoder_decoder": True,
            "torch_dtype": "float16",
        }
