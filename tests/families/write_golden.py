"""Write `golden/*.npz`: transformers' logits for every family and some variants.

    python -m tests.families.write_golden [name ...]

Needs torch and transformers (pip install -e '.[full]'); run it by hand after a change of a TINY
config, and look at what changes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from edgedec.models import families

from . import asking
from .conftest import KEPT, PADDED, PREFILL, STEPS, TREE, Golden, Recipe

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
}
GEMMA_LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
T5GEMMA: dict[str, Any] = importlib.import_module("edgedec.models.t5gemma").TINY

# Changes to a family's TINY config (None removes a field), then to the recipe.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama-llama3": (
        {"rope_theta": None, "rope_parameters": LLAMA3, "tie_word_embeddings": True,
         "attention_bias": True, "mlp_bias": True, "head_dim": 16},
        {"dtype": "BF16"},
    ),
    "llama-linear": (
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"dtype": "F16", "shards": 3},
    ),
    "llama-yarn": ({"rope_theta": None, "rope_parameters": YARN}, {}),
    "smollm3-interval": (
        {"no_rope_layers": None, "layer_types": None, "no_rope_layer_interval": 2,
         "tie_word_embeddings": False, "attention_bias": True},
        {},
    ),
    "qwen3-sliding": (
        {"use_sliding_window": True, "sliding_window": 20, "attention_bias": True,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
         "tie_word_embeddings": False},
        {"dtype": "BF16"},
    ),
    "gemma3_text-nested": (
        {"rope_theta": None, "rope_local_base_freq": None, "rope_scaling": None,
         "rope_parameters": GEMMA_ROPE, "layer_types": GEMMA_LAYERS,
         "sliding_window_pattern": None, "final_logit_softcapping": None},
        {"copies": {"lm_head.weight": "model.embed_tokens.weight"}},
    ),
    "phi3-long": ({"original_max_position_embeddings": 40}, {"context": 512}),
    "phi3-plain": (
        {"rope_scaling": None, "partial_rotary_factor": None, "sliding_window": None,
         "original_max_position_embeddings": None, "tie_word_embeddings": True},
        {"dtype": "F16"},
    ),
    "gpt2-bare": (
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": None, "n_inner": 80,
         "activation_function": "relu"},
        {},
    ),
    "gpt_neox-sequential": (
        {"use_parallel_residual": False, "rotary_emb_base": None, "rotary_pct": None,
         "rope_parameters": {"rope_type": "default", "rope_theta": 2000.0,
                             "partial_rotary_factor": 0.5},
         "tie_word_embeddings": True, "attention_bias": False},
        {"shards": 2},
    ),
    "t5-gated": (
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
         "relative_attention_num_buckets": None, "relative_attention_max_distance": None},
        {"dtype": "BF16", "copies": {"encoder.embed_tokens.weight": "shared.weight"}},
    ),
    "t5-copies": (
        {"num_decoder_layers": None, "d_kv": 8, "n_positions": None},
        {"copies": {"encoder.embed_tokens.weight": "shared.weight",
                    "decoder.embed_tokens.weight": "shared.weight",
                    "lm_head.weight": "shared.weight"}},
    ),
    "bart-plain": (
        {"scale_embedding": False, "activation_function": "gelu_new", "forced_bos_token_id": 0,
         "normalize_before": False},
        {"dtype": "F16", "shards": 3,
         "copies": {"model.encoder.embed_tokens.weight": "model.shared.weight",
                    "model.decoder.embed_tokens.weight": "model.shared.weight",
                    "lm_head.weight": "model.shared.weight"}},
    ),
    "marian-shared": (
        {"share_encoder_decoder_embeddings": True, "vocab_size": 112, "d_model": 40,
         "decoder_vocab_size": None, "activation_function": "relu"},
        {},
    ),
    "t5gemma-full": (
        {"encoder": {**T5GEMMA["encoder"], "layer_types": ["full_attention"] * 4},
         "decoder": {**T5GEMMA["decoder"], "attention_bias": True, "attn_logit_softcapping": None,
                     "final_logit_softcapping": None, "rope_theta": None,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
                     "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
         "tie_word_embeddings": False},
        {"dtype": "BF16"},
    ),
    "mu-gated": (
        {"gated": True, "is_interleaved": True, "n_kv_head": 1, "qkv_embd": 48,
         "tie_word_embeddings": False},
        {"dtype": "F16"},
    ),
}  # fmt: skip

SOURCE, OTHERS = 50, (1, 23)
"""Tokens of the source, and of its beginnings that are padded to it."""
SOUNDS = {"whisper": (120, ()), "moonshine": (3000, (1000, 2222))}
"""The same in frames; Whisper takes one length only. Moonshine's own norm over all frames sees the
padding, so that sounds run one by one."""


def main(wanted: list[str]) -> None:
    """Write the fixtures that are named, or all of them."""
    for name in wanted or [*families(), *VARIANTS]:
        golden = compute(name)
        golden.save()
        spread = golden.steps.std()
        print(f"{name}: {len(golden.recipe.tensors)} tensors, logits of spread {spread:.2f}")


def compute(name: str) -> Golden:
    """Ask transformers, or the model in PyTorch that stands in for it."""
    recipe = make_recipe(name)
    random = np.random.RandomState(11)
    vocab = vocabulary(recipe.config, "decoder")
    tokens = random.randint(0, vocab, PREFILL + STEPS)
    tree = random.randint(0, vocab, len(TREE))
    with tempfile.TemporaryDirectory() as folder:
        model = asking.load(recipe.config, recipe.write(Path(folder)))
    if recipe.config.get("is_encoder_decoder") or recipe.config["model_type"] == "mu":
        return paired(Golden(name, recipe, tokens, tree, *(np.zeros(0),) * 3), model, random)
    logits = asking.ask(model, tokens)[0]
    branches = [asking.ask(model, [*tokens[:PREFILL], *branch(tree, i)])[0, -1]
                for i in range(len(TREE))]  # fmt: skip
    prefill, steps = logits[:PREFILL], logits[PREFILL:]
    return Golden(name, recipe, tokens, tree, prefill[KEPT], steps, np.stack(branches))


def paired(golden: Golden, model: Any, random: np.random.RandomState) -> Golden:
    """The same with a source, and its beginnings as a batch; the text begins with the start."""
    config, tree = golden.recipe.config, golden.tree
    family = config["model_type"]
    tokens = golden.tokens.copy()
    start = config.get("decoder_start_token_id")
    tokens[0] = config["bos_token_id"] if start is None else start
    if family in SOUNDS:
        longest, others = SOUNDS[family]
        source = random.standard_normal((longest, config.get("num_mel_bins", 1)))
        source = source.astype(np.float16).astype(np.float32)
    else:
        longest, others = SOURCE, OTHERS
        source = random.randint(0, vocabulary(config, "encoder"), longest)
    lengths = (longest, *others)
    alone = np.stack([asking.ask(model, tokens[:PADDED], [source[:n]])[0] for n in lengths])
    padded = alone
    if family not in SOUNDS:
        padded = asking.ask(model, tokens[:PADDED], [source[:n] for n in lengths])
    if np.abs(padded - alone).max() > 1e-4:
        raise SystemExit(f"{golden.name}: padding changes what the model computes")
    logits = asking.ask(model, tokens, [source])[0]
    branches = [asking.ask(model, [*tokens[:PREFILL], *branch(tree, i)], [source])[0, -1]
                for i in range(len(TREE))]  # fmt: skip
    return replace(
        golden, tokens=tokens, prefill=logits[:PREFILL][KEPT], steps=logits[PREFILL:],
        branches=np.stack(branches), source=source, lengths=lengths, padded=padded,
    )  # fmt: skip


def vocabulary(config: dict[str, Any], side: str) -> int:
    """The ids of a side."""
    inner = config.get(side, config)
    vocab: int = inner["vocab_size"]
    return inner.get("decoder_vocab_size") or vocab if side == "decoder" else vocab


def make_recipe(name: str) -> Recipe:
    """The variant's config and the names and shapes under which transformers saves it."""
    family = name.partition("-")[0]
    changes, choices = VARIANTS.get(name, ({}, {}))
    config = {**importlib.import_module(f"edgedec.models.{family}").TINY, **changes}
    config = {
        key: value for key, value in config.items() if key not in changes or value is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        asking.save(asking.make(config), Path(folder))
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            tensors = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    recipe = replace(Recipe(config, tensors), **choices)
    return bare(recipe) if name == "gpt2-bare" else recipe


def bare(recipe: Recipe) -> Recipe:
    """As the oldest GPT-2 checkpoints are: no prefix, and masks among the weights."""
    tensors = {name.removeprefix("transformer."): s for name, s in recipe.tensors.items()}
    tensors |= {f"h.{i}.attn.bias": [1, 1, 128, 128] for i in range(recipe.config["n_layer"])}
    return replace(recipe, tensors=tensors)


def branch(tree: np.ndarray, node: int) -> list[int]:
    """The tokens from the root to a node."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, int(tree[node]))
        node = TREE[node]
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
