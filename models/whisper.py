"""Whisper (2212.04356): log-mel frames through two convolutions, then an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Positions,
    Stack,
)
from edgedec.errors import CheckpointError
from edgedec.manifest import Speech
from edgedec.models import _llama_like as like
from edgedec.models._bart_like import LAYER
from edgedec.models._config import Config
from edgedec.models._source import Source, Table, rename, twin

TINY = {
    "model_type": "whisper",
    "is_encoder_decoder": True,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 128,
    "activation_function": "gelu",
    "vocab_size": 112,
    "num_mel_bins": 20,
    "max_source_positions": 60,
    "max_target_positions": 128,
    "scale_embedding": False,
    "decoder_start_token_id": 2,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "suppress_tokens": [7, 8],
    "begin_suppress_tokens": [9, 1],
}

EPS = 1e-5

OUTER: Table = {
    "embed": ("model.decoder.embed_tokens", twin("proj_out.weight")),
    "head": "proj_out",
    "frontend.0.kernel": "model.encoder.conv1.weight",
    "frontend.0.bias": "model.encoder.conv1.bias",
    "frontend.1.kernel": "model.encoder.conv2.weight",
    "frontend.1.bias": "model.encoder.conv2.bias",
    "encoder.positions": "model.encoder.embed_positions.weight",
    "encoder.final_norm": "model.encoder.layer_norm",
    "decoder.positions": "model.decoder.embed_positions.weight",
    "decoder.final_norm": "model.decoder.layer_norm",
}


def architecture(config: Config, context: int | None = None) -> Architecture:
    """Read the config; every source has the same length."""
    # transformers reads it and does nothing with it; no published checkpoint sets it.
    config.expect("scale_embedding", False)
    config.expect("is_encoder_decoder", True)
    # The number of encoder layers once more.
    config.find("num_hidden_layers", int)
    limit = like.limit(config, context, "max_target_positions")
    dim, vocab = config.size("d_model"), config.size("vocab_size")
    rows = config.size("max_source_positions", most=1 << 20)
    frontend = Frontend(
        kind="mel",
        features=config.size("num_mel_bins"),
        convs=(
            Conv(channels=dim, kernel=3, padding=1),
            Conv(channels=dim, kernel=3, stride=2, padding=1),
        ),
        length=2 * rows,
    )
    norm = Norm(kind="layer", eps=EPS, bias=True)
    return Architecture(
        family="whisper",
        embed=Embedding(vocab=vocab, dim=dim),
        encoder=Stack(
            layers=(_layer(config, "encoder", dim),) * like.layer_count(config, "encoder_layers"),
            positions=Positions(kind="sinusoidal", count=rows),
            final_norm=norm,
        ),
        decoder=Stack(
            layers=(_layer(config, "decoder", dim),) * like.layer_count(config, "decoder_layers"),
            positions=Positions(kind="learned", count=config.size("max_target_positions")),
            final_norm=norm,
        ),
        head=Head(tied=config.take("tie_word_embeddings", bool, True)),
        tokens=like.tokens(config, vocab, start=True),
        limits=Limits(context=limit, source=2 * rows),
        frontend=frontend,
    )


def tensors(architecture: Architecture, config: Config) -> dict[str, Source]:
    """Their names, which are Bart's."""
    outer = OUTER if architecture.head.tied else {**OUTER, "embed": "model.decoder.embed_tokens"}
    layers = "model.decoder.layers.{}.", "model.encoder.layers.{}."
    return rename(architecture, layers[0], LAYER, outer, (layers[1], LAYER))


def speech(config: Config, generation: Mapping[str, object]) -> Speech | None:
    """What `generation_config.json` says of languages, tasks and timestamps.

    None where it says nothing. A checkpoint of one language has neither languages nor tasks.

    Raises:
        CheckpointError: a field is of the wrong type, or an id is outside the vocabulary.
    """
    settings = Config(generation, place="generation_config.json")
    plain = settings.find("no_timestamps_token_id", int)
    several = settings.take("is_multilingual", bool, True)
    languages = _named(settings, "lang_to_id", generation) if several else {}
    tasks = _named(settings, "task_to_id", generation) if several else {}
    latest = settings.find("max_initial_timestamp_index", int)
    previous = settings.find("prev_sot_token_id", int)
    if plain is None and not languages and not tasks:
        return None
    found = Speech(
        languages=languages,
        tasks=tasks,
        no_timestamps=plain,
        # In every vocabulary they stand in this order: no speech, no timestamps, 0.00 s and on.
        no_speech=None if plain is None else plain - 1,
        first_timestamp=None if plain is None else plain + 1,
        latest_first=latest,
        previous=previous,
    )
    _check(found, config.size("vocab_size"))
    return found


def _named(settings: Config, name: str, generation: Mapping[str, object]) -> dict[str, int]:
    """A table of ids, the names without the <| and |> of a token."""
    section, fields = settings.section(name), generation.get(name)
    if section is None or not isinstance(fields, dict):
        return {}
    return {str(word).strip("<|>"): section.take(str(word), int) for word in fields}


def _check(speech: Speech, vocab: int) -> None:
    ids = [*speech.languages.values(), *speech.tasks.values()]
    ids += [
        each
        for each in (speech.no_speech, speech.first_timestamp, speech.previous)
        if each is not None
    ]
    outside = [each for each in ids if not 0 <= each < vocab]
    if outside:
        raise CheckpointError(
            f"generation_config.json has the id {outside[0]}, outside the vocabulary of {vocab} "
            "tokens: it belongs to another model"
        )
    if speech.latest_first is not None and speech.latest_first < 0:
        raise CheckpointError(
            f"generation_config.json: max_initial_timestamp_index is {speech.latest_first}, "
            "must be 0 or more"
        )


def _layer(config: Config, side: Literal["encoder", "decoder"], dim: int) -> Layer:
    heads = config.size(f"{side}_attention_heads")
    if dim % heads:
        raise CheckpointError(
            f"{config.place}: d_model {dim} does not divide by {side}_attention_heads {heads}"
        )
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        scale=(dim // heads) ** -0.5,
        biases=("q", "v", "o"),
        causal=side == "decoder",
    )
    return Layer(
        self_attention=attention,
        cross_attention=replace(attention, causal=False) if side == "decoder" else None,
        mlp=Mlp(
            width=config.size(f"{side}_ffn_dim"),
            activation=config.choice("activation_function", like.ACTIVATIONS, "gelu"),
            gated=False,
            bias=True,
        ),
        norm=Norm(kind="layer", eps=EPS, bias=True),
    )
