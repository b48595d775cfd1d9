"""Small tokenizers of the kinds that real models have, made here, written as bundles' files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

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
from edgedec.text import Text

CORPUS = [
    "Once upon a time there was a little fox who lived in a wood.",
    "naïve café, żółć, 日本語のテキスト, 👩‍👩‍👧‍👦 👍🏽 ☃ e\u0301",
    "don't; it's 3.14 — “quoted” … and    spaces\n\nlines\ttabs",
]


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen: bytes written as characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=360,
        show_progress=False,
        special_tokens=["<|end|>", "<|bos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["日本", "  ", "<tool>"])
    return tokenizer


def _pieces() -> dict[str, int]:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [*"▁abcdefghijklmnopqrstuvwxyzé日本.,", "▁a", "▁on", "ce", "▁▁", "▁▁▁"]
    return {name: number for number, name in enumerate(names)}


def _byte_fallback(decoder: decoders.Decoder, normalizer: normalizers.Normalizer) -> Tokenizer:
    merges = [("▁", "a"), ("c", "e"), ("▁", "▁"), ("▁▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE(_pieces(), merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def llama() -> Tokenizer:
    """Llama 2, Mistral, Phi-3: a space goes before the text and comes off again."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _byte_fallback(
        decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)]),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    )


def gemma() -> Tokenizer:
    """Gemma: the same without the space in front."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _byte_fallback(decoders.Sequence(steps), normalizers.Replace(" ", "▁"))


def metaspace() -> Tokenizer:
    """T5: a unigram model with metaspaces."""
    names = ["<unk>", *"▁abcdefghijklmnopqrstuvwxyzOWé日本語.,'-0123456789", "▁a", "ing", "▁▁"]
    tokenizer = Tokenizer(models.Unigram([(name, -2.0) for name in names], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>"])
    return tokenizer


def words() -> Tokenizer:
    """No decoder: tokens are joined by spaces."""
    names = ["[UNK]", "once", "upon", "a", "time", "日本"]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


KINDS = {kind.__name__: kind for kind in (byte_level, llama, gemma, metaspace, words)}


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """An architecture whose bos is 1 and whose eos is 2, as in the tokenizers above."""
    norm = Norm(kind="rms", eps=1e-5)
    layer = Layer(
        self_attention=Attention(heads=1, kv_heads=1, head_dim=4, scale=0.5),
        mlp=Mlp(width=4, activation="silu", gated=True),
        norm=norm,
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=400, dim=4),
        decoder=Stack(layers=(layer,), final_norm=norm),
        head=Head(tied=True),
        tokens=Tokens(eos=(2,), bos=1),
        limits=Limits(context=64),
    )


Open = Callable[..., Text]


@pytest.fixture(scope="session")
def library() -> dict[str, Tokenizer]:
    """The tokenizers themselves, as the library runs them."""
    return {name: kind() for name, kind in KINDS.items()}


@pytest.fixture(scope="session")
def texts(
    library: dict[str, Tokenizer], tiny: Architecture, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Text]:
    """The same, opened by edgedec."""
    opened = {}
    for name, tokenizer in library.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer.save(str(folder / "tokenizer.json"))
        opened[name] = Text.open(folder, tiny)
    return opened


@pytest.fixture
def open_text(library: dict[str, Tokenizer], tiny: Architecture, tmp_path: Path) -> Open:
    """Open a folder with given files; the tokenizer is `llama` if none is given."""

    def opened(tokenizer: bytes | None = None, template: str | bytes | None = None) -> Text:
        data = library["llama"].to_str().encode() if tokenizer is None else tokenizer
        (tmp_path / "tokenizer.json").write_bytes(data)
        if template is not None:
            raw = template.encode() if isinstance(template, str) else template
            (tmp_path / "chat_template.jinja").write_bytes(raw)
        return Text.open(tmp_path, tiny)

    return opened
