"""Whisper and Moonshine as they really come: published configs, ids, and live parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError, UnsupportedError
from edgedec.models import describe, moonshine, whisper
from edgedec.models._config import Config
from edgedec.weights import shapes

LARGE = {
    "model_type": "whisper", "is_encoder_decoder": True, "architectures":
    ["WhisperForConditionalGeneration"], "activation_dropout": 0.0, "activation_function": "gelu",
    "apply_spec_augment": False, "attention_dropout": 0.0, "begin_suppress_tokens": [220, 50257],
    "bos_token_id": 50257, "classifier_proj_size": 256, "d_model": 1280,
    "decoder_attention_heads": 20, "decoder_ffn_dim": 5120, "decoder_layerdrop": 0.0,
    "decoder_layers": 32, "decoder_start_token_id": 50258, "dropout": 0.0,
    "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "encoder_layerdrop": 0.0,
    "encoder_layers": 32, "eos_token_id": 50257, "init_std": 0.02, "mask_feature_length": 10,
    "mask_feature_min_masks": 0, "mask_feature_prob": 0.0, "mask_time_length": 10,
    "mask_time_min_masks": 2, "mask_time_prob": 0.05, "max_length": 448,
    "max_source_positions": 1500, "max_target_positions": 448, "median_filter_width": 7,
    "num_hidden_layers": 32, "num_mel_bins": 128, "pad_token_id": 50256,
    "scale_embedding": False, "torch_dtype": "float16", "use_cache": True,
    "use_weighted_layer_sum": False, "vocab_size": 51866,
}  # fmt: skip

MOONSHINE = {
    "model_type": "moonshine", "architectures": ["MoonshineForConditionalGeneration"],
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "decoder_hidden_act": "silu", "decoder_num_attention_heads": 8,
    "decoder_num_hidden_layers": 8, "decoder_num_key_value_heads": 8,
    "decoder_start_token_id": 1, "encoder_hidden_act": "gelu", "encoder_num_attention_heads": 8,
    "encoder_num_hidden_layers": 8, "encoder_num_key_value_heads": 8, "eos_token_id": 2,
    "hidden_size": 416, "initializer_range": 0.02, "intermediate_size": 1664,
    "is_encoder_decoder": True, "max_position_embeddings": 194, "pad_head_dim_to_multiple_of": 8,
    "partial_rotary_factor": 0.62, "rope_scaling": None, "rope_theta": 10000.0,
    "torch_dtype": "float32", "use_cache": True, "vocab_size": 32768,
}  # fmt: skip

GENERATION = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 20, "<|de|>": 21},
    "task_to_id": {"transcribe": 24, "translate": 23},
    "no_timestamps_token_id": 28,
    "max_initial_timestamp_index": 50,
    "prev_sot_token_id": 26,
}


def parameters(architecture: Architecture) -> int:
    return sum(int(np.prod(shape)) for shape in shapes(architecture).values())


def test_the_large_whisper_of_128_mels() -> None:
    architecture, sources = describe(LARGE)
    frontend = architecture.frontend
    assert frontend is not None
    assert (frontend.features, frontend.length) == (128, 3000)
    assert frontend.rows(3000) == 1500
    assert architecture.limits.source == 3000
    assert architecture.limits.context == 448
    # What its authors count, 1.54 billion.
    assert parameters(architecture) == 1_543_490_560
    assert sources["frontend.1.kernel"].shape == (1280, 1280, 3)


def test_the_base_moonshine() -> None:
    architecture, _ = describe(MOONSHINE)
    frontend = architecture.frontend
    assert frontend is not None
    assert frontend.kind == "waveform"
    # One row for 384 samples, as its authors say.
    assert frontend.rows(16_000 * 30) == 1248
    rope = architecture.decoder.layers[0].self_attention.rope
    assert rope is not None
    assert rope.layout == "interleaved"
    assert int(rope.fraction * 52) == 32
    assert 61_000_000 < parameters(architecture) < 62_000_000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale_embedding": True}, "scale_embedding"),
        ({"d_model": 47}, "does not divide"),
        ({"activation_function": "mish"}, "mish"),
    ],
)
def test_a_whisper_that_is_none(changes: dict[str, Any], says: str) -> None:
    with pytest.raises((UnsupportedError, CheckpointError), match=says):
        describe({**whisper.TINY, **changes})


def test_heads_that_differ_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="encoder_num_attention_heads is 2; it must"):
        describe({**moonshine.TINY, "encoder_num_attention_heads": 2})


def test_what_a_checkpoint_says_of_speech() -> None:
    found = whisper.speech(Config(whisper.TINY), GENERATION)
    assert found is not None
    assert found.languages == {"en": 20, "de": 21}
    assert found.tasks == {"transcribe": 24, "translate": 23}
    assert (found.no_speech, found.no_timestamps, found.first_timestamp) == (27, 28, 29)
    assert (found.latest_first, found.previous) == (50, 26)


def test_a_checkpoint_of_one_language() -> None:
    given = {"is_multilingual": False, "no_timestamps_token_id": 28, "lang_to_id": {"<|en|>": 20}}
    found = whisper.speech(Config(whisper.TINY), given)
    assert found is not None
    assert found.languages == {}
    assert found.tasks == {}
    assert found.latest_first is None


def test_a_checkpoint_that_says_nothing() -> None:
    assert whisper.speech(Config(whisper.TINY), {"eos_token_id": 1}) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lang_to_id": {"<|en|>": 500}}, "the id 500"),
        ({"task_to_id": {"transcribe": -1}}, "the id -1"),
        ({"no_timestamps_token_id": 111}, "the id 112"),
        ({"no_timestamps_token_id": "x"}, "must be of type int"),
        ({"lang_to_id": [1]}, "must be an object"),
        ({"max_initial_timestamp_index": -3}, "must be 0 or more"),
    ],
)
def test_ids_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError) as error:
        whisper.speech(Config(whisper.TINY), {**GENERATION, **changes})
    assert says in str(error.value)


VARIANTS: list[tuple[str, dict[str, Any], int]] = [
    ("whisper", {}, 120),
    ("whisper", {"num_mel_bins": 128, "activation_function": "relu"}, 120),
    ("moonshine", {}, 1000),
    ("moonshine", {}, 9137),
    ("moonshine", {"attention_bias": True, "partial_rotary_factor": 0.5}, 2500),
]


@pytest.mark.full
@pytest.mark.parametrize(("family", "changes", "frames"), VARIANTS)
def test_logits_are_those_of_transformers(
    family: str, changes: dict[str, Any], frames: int, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSpeechSeq2Seq

    from edgedec.export.checkpoint import Checkpoint, Weights
    from edgedec.export.reference import forward

    config = {**(whisper.TINY if family == "whisper" else moonshine.TINY), **changes}
    torch.manual_seed(3)
    model = AutoModelForSpeechSeq2Seq.from_config(
        AutoConfig.for_model(**config), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.2 if weight.ndim == 1 else 1 / np.sqrt(weight[0].numel())
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + spread * torch.randn(weight.shape))
    model.save_pretrained(tmp_path)
    architecture, sources = describe(config)
    weights = Weights(Checkpoint.open(tmp_path), architecture, sources)

    random = np.random.RandomState(5)
    frontend = architecture.frontend
    assert frontend is not None
    sound = random.randn(frames, frontend.features).astype(np.float32)
    tokens = random.randint(0, architecture.vocab, 20)
    features = (
        {"input_features": sound.T[None]} if family == "whisper" else {"input_values": sound.T}
    )
    with torch.no_grad():
        theirs = model(
            **{name: torch.tensor(np.ascontiguousarray(x)) for name, x in features.items()},
            decoder_input_ids=torch.tensor(tokens)[None],
        ).logits[0]
    ours = forward(architecture, weights, tokens, source=sound)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=0)
