"""What a model is: parts that contradict each other make none, wherever they come from."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from edgedec import architecture as spec
from edgedec.architecture import (
    Architecture,
    Attention,
    BiasTable,
    Conv,
    Embedding,
    Frontend,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
    Tokens,
)

ATTENTION = Attention(heads=2, kv_heads=1, head_dim=8, scale=1.0)
LAYER = Layer(
    self_attention=ATTENTION,
    mlp=Mlp(width=16, activation="silu", gated=True),
    norm=Norm(kind="rms", eps=1e-5),
)
CROSSING = replace(LAYER, cross_attention=ATTENTION)
SEEING = replace(LAYER, self_attention=replace(ATTENTION, causal=False))
TABLE = BiasTable(buckets=8, max_distance=16, bidirectional=False)
SOUND = Frontend(kind="mel", features=4, convs=(Conv(channels=16, kernel=3, stride=2),))
CENTRED = Rope(theta=10000.0, positions="centred")
DECODER = Architecture(
    family="test",
    embed=Embedding(vocab=10, dim=16),
    decoder=Stack(layers=(LAYER, LAYER)),
    head=Head(tied=True),
    tokens=Tokens(eos=(0,)),
    limits=Limits(context=8),
)
READER = replace(DECODER, decoder=Stack(layers=(CROSSING, LAYER)), encoder=Stack(layers=(SEEING,)))


def with_attention(layer: Layer, **changes: object) -> Layer:
    return replace(layer, self_attention=replace(layer.self_attention, **changes))


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (DECODER, {"encoder": Stack(layers=(SEEING,))}, "no layer of the decoder attends to"),
        (READER, {"encoder": None}, "cross-attention without an encoder"),
        (DECODER, {"frontend": SOUND}, "a source without an encoder"),
        (DECODER, {"source_embed": Embedding(vocab=5, dim=16)}, "a source without an encoder"),
        (
            READER,
            {"frontend": SOUND, "source_embed": Embedding(vocab=5, dim=16)},
            "reads and hears",
        ),
        (READER, {"source_embed": Embedding(vocab=5, dim=32)}, r"different widths \[16, 32\]"),
        (
            READER,
            {"frontend": replace(SOUND, convs=(Conv(channels=8, kernel=3),))},
            r"different widths \[8, 16\]",
        ),
        (READER, {"encoder": Stack(layers=(LAYER,))}, "see only earlier ones"),
        (READER, {"encoder": Stack(layers=(replace(SEEING, cross_attention=ATTENTION),))},
         "cross-attention in an encoder"),
        (DECODER, {"decoder": Stack(layers=(SEEING,))}, "see later ones"),
        (DECODER, {"decoder": Stack(layers=(with_attention(LAYER, rope=CENTRED),))}, "centred"),
        (
            DECODER,
            {"decoder": Stack(layers=(with_attention(LAYER, bias_table=TABLE), LAYER))},
            "do not share",
        ),
        (
            READER,
            {"decoder": Stack(layers=(replace(CROSSING, cross_attention=replace(
                ATTENTION, rope=Rope(theta=1e4))),))},
            "knows positions",
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_together(
    base: Architecture, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(base, **changes)
    fields = {name: getattr(base, name) for name in base.__struct_fields__} | changes
    plain = msgspec.json.encode({k: v for k, v in fields.items() if v is not None})
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(plain, type=Architecture)


@pytest.mark.parametrize(
    "whole",
    [
        DECODER,
        READER,
        replace(READER, frontend=SOUND),
        replace(READER, source_embed=Embedding(vocab=5, dim=16)),
        replace(DECODER, decoder=Stack(layers=(with_attention(LAYER, bias_table=TABLE),) * 2)),
    ],
)
def test_whole_models_round_trip(whole: Architecture) -> None:
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Architecture) == whole


def test_rows_of_sound() -> None:
    """Against counting the places that a kernel fits at."""
    for frames in range(12):
        conv = spec.Conv(channels=16, kernel=3, stride=2, padding=1)
        padded = frames + 2
        places = [start for start in range(0, padded, 2) if start + 3 <= padded]
        assert max(replace(SOUND, convs=(conv,)).rows(frames), 0) == len(places)
