"""What an encoder may be given, and the name by which it is known again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
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
    Stack,
    Tokens,
)
from edgedec.errors import InputError, UsageError
from edgedec.runtimes._source import checked, key_of, longest, most_rows

LAYER = Layer(
    self_attention=Attention(heads=1, kv_heads=1, head_dim=8, scale=1.0),
    mlp=Mlp(width=16, activation="silu", gated=True),
    norm=Norm(kind="rms", eps=1e-5),
)
TEXT = Architecture(
    family="test",
    embed=Embedding(vocab=50, dim=8),
    decoder=Stack(layers=(replace(LAYER, cross_attention=LAYER.self_attention),)),
    encoder=Stack(
        layers=(replace(LAYER, self_attention=replace(LAYER.self_attention, causal=False)),)
    ),
    head=Head(tied=True),
    tokens=Tokens(eos=(0,)),
    limits=Limits(context=20, source=10),
)
MEL = Frontend(
    kind="mel",
    features=3,
    convs=(Conv(channels=8, kernel=3, padding=1), Conv(channels=8, kernel=3, stride=2, padding=1)),
)
SOUND = replace(TEXT, frontend=MEL)
WAVE = replace(
    TEXT, frontend=Frontend(kind="waveform", features=1, convs=(Conv(channels=8, kernel=5),))
)
WHOLE = replace(TEXT, frontend=replace(MEL, length=6))


def test_ids_and_features_come_as_the_encoder_reads_them() -> None:
    ids = checked(np.array([1, 49, 0], np.int64), TEXT)
    assert ids.dtype == np.int32 and ids.tolist() == [1, 49, 0]
    sound = checked(np.ones((4, 6), np.float64)[:, ::2], SOUND)
    assert sound.dtype == np.float32 and sound.shape == (4, 3) and sound.flags.c_contiguous


@pytest.mark.parametrize(
    ("source", "architecture", "error", "message"),
    [
        (np.zeros(0, np.int32), TEXT, InputError, "the source is empty"),
        (np.zeros((0, 3), np.float32), SOUND, InputError, "the source is empty"),
        (np.zeros(11, np.int32), TEXT, InputError, "11 tokens, the model reads at most 10"),
        (np.zeros((11, 3), np.float32), SOUND, InputError, "11 frames.*at most 10"),
        (np.zeros((4, 1), np.float32), WAVE, InputError, "too short: 4 frames"),
        (np.full((4, 3), np.nan), SOUND, InputError, "not finite"),
        (np.array([1, 50]), TEXT, UsageError, "the id 50, there are 0 to 49"),
        (np.array([-1]), TEXT, UsageError, "the id -1"),
        (np.zeros((2, 2), np.int32), TEXT, UsageError, r"token ids \[n\]"),
        (np.int32(3), TEXT, UsageError, r"token ids \[n\]"),
        (np.zeros(3, np.float32), TEXT, UsageError, "float32"),
        (np.zeros((4, 2), np.float32), SOUND, UsageError, r"features \[n, 3\]"),
        (np.zeros((4, 3), np.int32), SOUND, UsageError, "int32"),
        (np.zeros((5, 3), np.float32), WHOLE, UsageError, "5 frames, this model reads 6"),
        (
            np.zeros(3, np.int32),
            replace(TEXT, encoder=None, decoder=Stack(layers=(LAYER,))),
            UsageError,
            "no encoder",
        ),
    ],
)
def test_sources_that_cannot_be_read(
    source: Any, architecture: Architecture, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        checked(source, architecture)


def test_the_own_embedding_of_an_encoder_has_its_own_vocabulary() -> None:
    other = replace(TEXT, source_embed=Embedding(vocab=60, dim=8))
    assert checked(np.array([59]), other).tolist() == [59]


def test_a_key_tells_sources_apart() -> None:
    sources = [
        np.array([1, 2], np.int32),
        np.array([2, 1], np.int32),
        np.array([1], np.int32),
        np.array([[1, 2]], np.int32),
        np.array([1, 2], np.int32).view(np.float32),
    ]
    keys = [key_of(source) for source in sources]
    assert len(set(keys)) == len(keys) and {len(key) for key in keys} == {32}
    assert key_of(np.arange(8, dtype=np.int32)[::2]) == key_of(np.array([0, 2, 4, 6], np.int32))


def test_limits() -> None:
    assert longest(TEXT) == 10 and longest(replace(TEXT, limits=Limits(context=20))) == 20
    assert [most_rows(a) for a in (TEXT, SOUND, WAVE)] == [10, 5, 6]
    assert most_rows(replace(TEXT, encoder=None, decoder=Stack(layers=(LAYER,)))) == 0
