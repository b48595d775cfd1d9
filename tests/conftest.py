"""Every test gets a cache folder of its own: nothing outside the test run is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edgedec import bundle
from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
    Tokens,
)
from edgedec.manifest import Format, Forms, Manifest, Provenance

CONTEXT = 96
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDEC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without weights, for the fake runtime: 96 tokens of context, one token per byte."""
    return _write(tmp_path_factory.mktemp("bundles") / "bytes")


@pytest.fixture(scope="session")
def chat_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a chat template."""
    return _write(tmp_path_factory.mktemp("bundles") / "talk", template=CHAT)


@pytest.fixture(scope="session")
def endless_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with room for a text that takes minutes."""
    return _write(tmp_path_factory.mktemp("bundles") / "endless", context=1 << 20, eos=())


@pytest.fixture(scope="session")
def source_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an encoder that reads up to 64 bytes."""
    return _write(tmp_path_factory.mktemp("bundles") / "reader", encoder=True)


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device "fake" be there."""
    monkeypatch.setenv("EDGEDEC_FAKE", "1")


def _write(
    target: Path,
    *,
    template: str | None = None,
    context: int = CONTEXT,
    eos: tuple[int, ...] = (0,),
    encoder: bool = False,
) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": 0} | {letter: index + 1 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    with bundle.write_bundle(target) as writer:
        tokenizer.save(str(writer.path / "tokenizer.json"))
        if template is not None:
            (writer.path / "chat_template.jinja").write_text(template)
        writer.finish(
            Manifest(
                name=target.name,
                architecture=_architecture(len(vocab), context, eos, encoder),
                quantisation={"q": Format(kind="int4", block=32)},
                forms=Forms(),
                files={},
                provenance=Provenance(source="a test", created="2026", exporter="a test"),
            )
        )
    return target


def _architecture(
    vocab: int, context: int, eos: tuple[int, ...], encoder: bool = False
) -> Architecture:
    layer = Layer(
        self_attention=Attention(heads=1, kv_heads=1, head_dim=8, scale=1.0),
        mlp=Mlp(width=16, activation="silu", gated=True),
        norm=Norm(kind="rms", eps=1e-5),
    )
    if encoder:
        layer = replace(layer, cross_attention=layer.self_attention)
    seeing = replace(
        layer, self_attention=replace(layer.self_attention, causal=False), cross_attention=None
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=vocab, dim=8),
        decoder=Stack(layers=(layer,) * 4),
        head=Head(tied=True),
        tokens=Tokens(eos=eos, decoder_start=0 if encoder else None),
        limits=Limits(context=context, source=64 if encoder else None),
        encoder=Stack(layers=(seeing,)) if encoder else None,
    )
