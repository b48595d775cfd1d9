"""From the text of a config to an architecture: picks the family by `model_type`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from edgedec import rooms
from edgedec.architecture import Architecture
from edgedec.errors import CheckpointError, UnsupportedError
from edgedec.manifest import Speech
from edgedec.models._config import Config
from edgedec.models._llama_like import tokens
from edgedec.models._source import Source
from edgedec.rope import inverse_frequencies

ROOM = "edgedec.models"


def families() -> list[str]:
    """The supported values of `model_type`; one file each."""
    return [name for name in rooms.names(ROOM) if name != "reference"]


def describe(
    config_json: Mapping[str, object],
    *,
    generation: Mapping[str, object] | None = None,
    context: int | None = None,
    ignore: frozenset[str] = frozenset(),
) -> tuple[Architecture, dict[str, Source]]:
    """What the model is, and where each of its tensors lies in the checkpoint.

    `generation` is the content of `generation_config.json`, whose special ids come first;
    `context` the longest text to support (default: what the model was made for); `ignore` names
    fields of the config that do not matter.

    Raises:
        UnsupportedError: an unknown `model_type`, or a field or value that we do not support.
        CheckpointError: a field is missing, ill-typed or contradicts another.
        UsageError: a context that the model does not have.
    """
    config = Config(config_json, ignore=ignore)
    model_type = config.take("model_type", str)
    if model_type not in families():
        raise UnsupportedError(
            f"model_type {model_type!r} is not supported; supported: {', '.join(families())}"
        )
    family = rooms.load(ROOM, model_type)
    try:
        architecture: Architecture = family.architecture(config, context)
        _check_positions(architecture)
    except (ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{config.place} makes no model: {error}") from None
    sources: dict[str, Source] = family.tensors(architecture, config)
    config.finish()
    architecture = _with_ids_of(architecture, generation or {})
    if architecture.encoder is not None and architecture.tokens.decoder_start is None:
        raise CheckpointError(
            f"{config.place} does not say what the decoder begins with: add "
            f'"decoder_start_token_id", an id from 0 to {architecture.vocab - 1}'
        )
    return architecture, sources


def speech(
    config_json: Mapping[str, object], generation: Mapping[str, object] | None = None
) -> Speech | None:
    """What a model of speech writes beside words; None for all others.

    Raises:
        CheckpointError: `generation` has a field of the wrong type, or an id that is none.
    """
    config = Config(config_json)
    family = rooms.load(ROOM, config.take("model_type", str))
    read = getattr(family, "speech", None)
    return None if read is None else read(config, generation or {})


def _check_positions(architecture: Architecture) -> None:
    """Refuse rotary settings without angles here rather than in the middle of an export."""
    stacks = [stack for stack in (architecture.encoder, architecture.decoder) if stack]
    attentions = [layer.self_attention for stack in stacks for layer in stack.layers]
    for rope, head_dim in {(a.rope, a.head_dim) for a in attentions}:
        if rope is not None:
            inverse_frequencies(rope, head_dim)


def _with_ids_of(architecture: Architecture, generation: Mapping[str, object]) -> Architecture:
    settings = Config(generation, place="generation_config.json")
    found = tokens(settings, architecture.vocab, start=architecture.encoder is not None)
    old = architecture.tokens
    return replace(
        architecture,
        tokens=replace(
            old,
            eos=found.eos or old.eos,
            bos=old.bos if found.bos is None else found.bos,
            pad=old.pad if found.pad is None else found.pad,
            decoder_start=(
                old.decoder_start if found.decoder_start is None else found.decoder_start
            ),
        ),
    )
