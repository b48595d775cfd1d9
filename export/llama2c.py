"""Checkpoints and tokenizers in the format of llama2.c (version 0).

A file is a header of seven int32 (width, MLP width, layers, heads, key/value heads, vocabulary,
context) and then float32 tensors in a fixed order. A negative vocabulary says that the head has a
matrix of its own. Knows nothing about bundles.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
    Tokens,
)
from edgedec.errors import CheckpointError
from edgedec.export.sentencepiece_model import SPACE, Kind, Piece, Vocabulary, tokenizer_of
from edgedec.export.tokenizer_files import TokenizerFiles, add_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

HEADER = struct.Struct("<7i")
UNKNOWN, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3


def read_model(path: Path) -> tuple[Architecture, dict[str, Floats]]:
    """The architecture and the tensors under our names, as views of the mapped file.

    Raises:
        CheckpointError: the header makes no sense, or the file has another size than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise CheckpointError(f"{path.name} has only {size} bytes: no llama2.c checkpoint")
    header = HEADER.unpack(head)
    architecture = _architecture(path, header)
    places = _tensors(architecture, tied=header[5] > 0)
    wanted = HEADER.size + 4 * sum(math.prod(shape) for _, shape in places)
    if size != wanted:
        raise CheckpointError(
            f"{path.name} has {size} bytes, its header asks for {wanted}: it is cut off or no "
            "llama2.c checkpoint of version 0"
        )
    values = np.memmap(path, "<f4", "r", HEADER.size)
    return architecture, _named(values, places)


def read_tokenizer(path: Path, vocab: int) -> TokenizerFiles:
    """The tokenizer of a `tokenizer.bin` with `vocab` entries: scored pieces, joined as BPE.

    Raises:
        CheckpointError: the file is damaged or has another number of entries.
    """
    content = path.read_bytes()
    pieces, at = [], 4
    try:
        for index in range(vocab):
            score, length = struct.unpack_from("<fi", content, at)
            if length < 0 or at + 8 + length > len(content):
                raise ValueError(length)
            text = content[at + 8 : at + 8 + length].decode()
            pieces.append(_piece(index, text, score))
            at += 8 + length
    except (struct.error, ValueError):
        raise CheckpointError(
            f"{path.name} is no llama2.c tokenizer of {vocab} entries, which the model has"
        ) from None
    if at != len(content):
        raise CheckpointError(f"{path.name} has more than the {vocab} entries of the model")
    tokenizer = tokenizer_of(Vocabulary(tuple(pieces), "bpe"))
    add_ends(tokenizer, (True, BOS))
    return TokenizerFiles(tokenizer.to_str())


def _architecture(path: Path, header: tuple[int, ...]) -> Architecture:
    dim, width, layers, heads, kv_heads, vocab, context = header
    sizes = (dim, width, layers, heads, kv_heads, abs(vocab), context)
    if min(sizes) < 1 or max(sizes) > 1 << 24 or dim % heads or heads % kv_heads or layers > 4096:
        raise CheckpointError(f"{path.name} is no llama2.c checkpoint of version 0: {header}")
    head_dim = dim // heads
    layer = Layer(
        self_attention=Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=head_dim**-0.5,
            rope=Rope(theta=10000.0, layout="interleaved"),
        ),
        mlp=Mlp(width=width, activation="silu", gated=True),
        norm=Norm(kind="rms", eps=1e-5),
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=abs(vocab), dim=dim),
        decoder=Stack(layers=(layer,) * layers, final_norm=layer.norm),
        head=Head(tied=vocab > 0),
        # These models were trained on texts that each begin with bos: it also says that one ended.
        tokens=Tokens(bos=BOS, eos=(EOS, BOS)),
        limits=Limits(context=context),
    )


Place = tuple[str, tuple[int, ...]]


def _tensors(architecture: Architecture, tied: bool) -> list[Place]:
    """The tensors in file order with their shapes; `{}` stands for the layer, "" is skipped."""
    dim, vocab, layers = architecture.embed.dim, architecture.vocab, architecture.layers
    attention = architecture.decoder.layers[0].self_attention
    queries, keys = (n * attention.head_dim for n in (attention.heads, attention.kv_heads))
    width, context = architecture.decoder.layers[0].mlp.width, architecture.limits.context
    places: list[Place] = [
        ("embed.weight", (vocab, dim)),
        ("decoder.layers.{}.self_attention_norm.weight", (layers, dim)),
        ("decoder.layers.{}.self_attention.q.weight", (layers, queries, dim)),
        ("decoder.layers.{}.self_attention.k.weight", (layers, keys, dim)),
        ("decoder.layers.{}.self_attention.v.weight", (layers, keys, dim)),
        ("decoder.layers.{}.self_attention.o.weight", (layers, dim, queries)),
        ("decoder.layers.{}.mlp_norm.weight", (layers, dim)),
        ("decoder.layers.{}.mlp.gate.weight", (layers, width, dim)),
        ("decoder.layers.{}.mlp.down.weight", (layers, dim, width)),
        ("decoder.layers.{}.mlp.up.weight", (layers, width, dim)),
        ("decoder.final_norm.weight", (dim,)),
        # Tables of cosines and sines, which follow from the positions.
        ("", (2, context, attention.head_dim // 2)),
    ]
    return places if tied else [*places, ("head.weight", (vocab, dim))]


def _named(values: Floats, places: list[Place]) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {}
    at = 0
    for name, shape in places:
        tensor = values[at : at + math.prod(shape)].reshape(shape)
        at += tensor.size
        if "{}" in name:
            tensors.update({name.format(layer): part for layer, part in enumerate(tensor)})
        elif name:
            tensors[name] = tensor
    return tensors


def _piece(index: int, text: str, score: float) -> Piece:
    """The file shows spaces as such, and puts line ends around bos and eos."""
    kinds: dict[int, tuple[str, Kind]] = {
        UNKNOWN: ("<unk>", "unknown"),
        BOS: ("<s>", "control"),
        EOS: ("</s>", "control"),
    }
    if index in kinds:
        return Piece(kinds[index][0], score, kinds[index][1])
    is_byte = text == f"<0x{index - FIRST_BYTE:02X}>"
    return Piece(text.replace(" ", SPACE), score, "byte" if is_byte else "normal")
