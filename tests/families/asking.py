"""Models in PyTorch and what they answer: transformers', or ours where it has none.

Only for `write_golden.py` and the live tests; importing it needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from .mu_torch import Mu

SPEECH = ("whisper", "moonshine")


def make(config: dict[str, Any], **settings: Any) -> Any:
    """A new model with random weights."""
    config = deepcopy(config)  # transformers edits nested settings
    if config["model_type"] == "mu":
        return Mu(config).eval()
    chosen = AutoConfig.for_model(**config, **settings)
    model = _kind(config).from_config(chosen, attn_implementation="eager").float().eval()
    if config["model_type"] == "t5" and not config.get("tie_word_embeddings", True):
        # transformers 5 ties every new T5; version 1.1 has a head of its own.
        model.lm_head.weight = torch.nn.Parameter(0.7 * model.shared.weight.flip(0))
    return model


def save(model: Any, folder: Path, **settings: Any) -> None:
    """Write its weights, and the config if it is one of transformers'."""
    if isinstance(model, Mu):
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
    else:
        model.save_pretrained(folder, **settings)


def load(config: dict[str, Any], folder: Path) -> Any:
    """Open a checkpoint in float32; every weight must find its place."""
    if config["model_type"] == "mu":
        model = Mu(config)
        tensors = load_file(folder / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
        return model.eval()
    model, report = _kind(config).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        raise SystemExit(f"transformers did not find {report}")
    return model.eval()


def ask(
    model: Any, tokens: Any, sources: Sequence[np.ndarray] | None = None, **more: Any
) -> np.ndarray:
    """Logits [B, T, V] of one text [T], without a cache.

    Several sources [s] or [frames, F] run as one batch, padded with what must not matter and
    masked; the decoder is given the text for each.
    """
    text = torch.tensor(np.asarray(tokens))[None]
    with torch.no_grad():
        if sources is None:
            return model(text, use_cache=False, **more).logits.numpy()
        text = text.expand(len(sources), -1)
        given = inputs(model, sources)
        return model(
            **given, decoder_input_ids=text, decoder_attention_mask=torch.ones_like(text),
            use_cache=False, **more,
        ).logits.numpy()  # fmt: skip


def inputs(model: Any, sources: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """What an encoder is given."""
    longest = max(map(len, sources))
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sources])
    if sources[0].ndim == 1:
        padded = [np.pad(source, (0, longest - len(source)), constant_values=5)
                  for source in sources]  # fmt: skip
        return {"input_ids": torch.tensor(np.stack(padded)), "attention_mask": mask}
    padded = [np.pad(source, ((0, longest - len(source)), (0, 0))) for source in sources]
    features = torch.tensor(np.stack(padded), dtype=torch.float32)
    if model.config.model_type == "whisper":
        return {"input_features": features.transpose(1, 2).contiguous()}
    return {"input_values": features[..., 0], "attention_mask": mask}


def _kind(config: dict[str, Any]) -> Any:
    if config["model_type"] in SPEECH:
        return transformers.AutoModelForSpeechSeq2Seq
    if config.get("is_encoder_decoder"):
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM
