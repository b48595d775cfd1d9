"""Write `golden/*.npz`: transformers' logits for every family and some variants.

    python tests/families/write_golden.py [name ...]

Needs torch and transformers (pip install -e '.[full]'); run it by hand after a change of a TINY
config, and look at what changes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import KEPT, PREFILL, STEPS, TREE, Golden, Recipe
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from edgedec.models import families

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
}  # fmt: skip


def main(wanted: list[str]) -> None:
    """Write the fixtures that are named, or all of them."""
    for name in wanted or [*families(), *VARIANTS]:
        golden = compute(name)
        golden.save()
        spread = golden.steps.std()
        print(f"{name}: {len(golden.recipe.tensors)} tensors, logits of spread {spread:.2f}")


def compute(name: str) -> Golden:
    """Ask transformers."""
    recipe = make_recipe(name)
    random = np.random.RandomState(11)
    tokens = random.randint(0, recipe.config["vocab_size"], PREFILL + STEPS)
    tree = random.randint(0, recipe.config["vocab_size"], len(TREE))
    with tempfile.TemporaryDirectory() as folder:
        model = load(recipe, Path(folder))
    logits = run(model, tokens)
    branches = [run(model, [*tokens[:PREFILL], *branch(tree, i)])[-1] for i in range(len(TREE))]
    prefill, steps = logits[:PREFILL], logits[PREFILL:]
    return Golden(name, recipe, tokens, tree, prefill[KEPT], steps, np.stack(branches))


def make_recipe(name: str) -> Recipe:
    """The variant's config and the names and shapes under which transformers saves it."""
    family = name.partition("-")[0]
    changes, choices = VARIANTS.get(name, ({}, {}))
    config = {**importlib.import_module(f"edgedec.models.{family}").TINY, **changes}
    config = {
        key: value for key, value in config.items() if key not in changes or value is not None
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = AutoConfig.for_model(**deepcopy(config))  # it edits nested settings
        model = AutoModelForCausalLM.from_config(settings)
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            tensors = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    recipe = replace(Recipe(config, tensors), **choices)
    return bare(recipe) if name == "gpt2-bare" else recipe


def bare(recipe: Recipe) -> Recipe:
    """As the oldest GPT-2 checkpoints are: no prefix, and masks among the weights."""
    tensors = {name.removeprefix("transformer."): s for name, s in recipe.tensors.items()}
    tensors |= {f"h.{i}.attn.bias": [1, 1, 128, 128] for i in range(recipe.config["n_layer"])}
    return replace(recipe, tensors=tensors)


def load(recipe: Recipe, folder: Path) -> torch.nn.Module:
    """Open the rebuilt checkpoint; every weight must find its place."""
    model, report = AutoModelForCausalLM.from_pretrained(
        recipe.write(folder), dtype=torch.float32, attn_implementation="eager",
        output_loading_info=True,
    )  # fmt: skip
    if report["missing_keys"] or report["mismatched_keys"]:
        raise SystemExit(f"transformers did not find {report}")
    return model.eval()


def run(model: torch.nn.Module, tokens: Any) -> np.ndarray:
    """The logits of a whole text, without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor(np.asarray(tokens))[None], use_cache=False).logits
    return logits[0].numpy()


def branch(tree: np.ndarray, node: int) -> list[int]:
    """The tokens from the root to a node."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, int(tree[node]))
        node = TREE[node]
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
