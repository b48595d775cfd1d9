"""A bundle's model in PyTorch as it was quantised, frozen: what drafters are trained against.

Real rows run once and without a gradient (`trunk`); rows that are inserted between them, which see
some of them, run with one (`rows`). Knows nothing about what is trained.

Shapes: b texts, T real rows, R inserted rows, s source rows, D width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from msgspec.structs import replace
from torch import Tensor

from edgedec.errors import UnsupportedError
from edgedec.export.from_native import NativeWeights
from edgedec.training.layers import Crossed, Own, Pair, Sight, block, norm, read_source
from edgedec.weights import shapes

if TYPE_CHECKING:
    from edgedec.architecture import Architecture, Embedding, Layer, Stack
    from edgedec.bundle import Bundle
    from edgedec.export.checkpoint import WeightSource
    from edgedec.training.trainee import Batch


@dataclass(frozen=True)
class Trunk:
    """Real rows that were run: what they were and what they left, all without a gradient.

    `states` are L + 1 arrays [b, T, D], the first what enters layer 0, the last before the final
    norm; `pairs` each layer's keys and values [b, G, T, d]; `crossed` what each layer's
    cross-attention reads (keys, values [b, G, s, d] and a mask), None without one.
    """

    tokens: Tensor
    lengths: Tensor
    positions: Tensor
    states: list[Tensor]
    pairs: list[Pair]
    crossed: list[Crossed | None]

    @property
    def keys(self) -> list[Tensor]:
        """The keys of each layer [b, G, T, d]."""
        return [pair[0] for pair in self.pairs]

    @property
    def values(self) -> list[Tensor]:
        """The values of each layer [b, G, T, d]."""
        return [pair[1] for pair in self.pairs]


class Frozen:
    """A model whose weights [edgedec names -> tensor] never change.

    Raises:
        UnsupportedError: it hears: only models of texts draft.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, Tensor]) -> None:
        if architecture.frontend is not None:
            raise UnsupportedError("this model hears: only models of texts can be trained to draft")
        self.architecture = architecture
        self.weights = weights
        stacks = {"decoder": architecture.decoder, "encoder": architecture.encoder}
        self._layers = {
            prefix: [_of_layer(weights, prefix, index) for index in range(len(stack.layers))]
            for prefix, stack in stacks.items()
            if stack is not None
        }

    @classmethod
    def of(cls, bundle: Bundle) -> Frozen:
        """The model of a bundle, with the weights that the native runtime runs.

        Raises:
            BundleError: no native form, or a damaged one.
            UnsupportedError: it hears, or the native form cannot carry it.
        """
        return cls.from_source(bundle.manifest.architecture, NativeWeights(bundle))

    @classmethod
    def from_source(cls, architecture: Architecture, source: WeightSource) -> Frozen:
        """A model with the weights of any source, on torch's default device."""
        named = {name: torch.as_tensor(source.load(name)) for name in shapes(architecture)}
        return cls(architecture, named)

    @property
    def dim(self) -> int:
        """D."""
        return self.architecture.embed.dim

    @property
    def layers(self) -> int:
        """L."""
        return self.architecture.layers

    @property
    def vocab(self) -> int:
        """V."""
        return self.architecture.vocab

    # --- what goes in and comes out --------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of ids [..., D], scaled, without positions."""
        return _embedded(ids, self.weights["embed.weight"], self.architecture.embed)

    def enter(self, x: Tensor, positions: Tensor) -> Tensor:
        """What layer 0 reads of embeddings [b, n, D] at their positions [b, n]."""
        return self._enter("decoder", self.architecture.decoder, x, positions)

    def normed(self, x: Tensor) -> Tensor:
        """The final norm, if there is one."""
        return self._after("decoder", self.architecture.decoder, x)

    def head(self, x: Tensor) -> Tensor:
        """The logits [..., V] of the last layer's output [..., D]."""
        return self.logits(self.normed(x))

    def logits(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """The logits of rows that are normed already, of all ids or of some [V']."""
        spec = self.architecture.head
        weight = self.weights["embed.weight" if spec.tied else "head.weight"]
        bias = self.weights.get("head.bias")
        if ids is not None:
            weight, bias = weight[ids], None if bias is None else bias[ids]
        logits = F.linear(x, weight, bias)
        if spec.scale != 1.0:
            logits = logits * spec.scale
        return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)

    # --- rows ------------------------------------------------------------------------------------

    @torch.no_grad()
    def trunk(self, batch: Batch) -> Trunk:
        """Run the texts of a batch once."""
        tokens = batch.tokens
        positions = torch.arange(tokens.shape[1])[None].expand(tokens.shape[0], -1)
        crossed = self._crossed(batch)
        x, sight = self.enter(self.embed(tokens), positions), Sight(positions)
        states, pairs = [x], []
        for index, layer in enumerate(self.architecture.decoder.layers):
            x, pair = block(x, layer, self.layer(index), sight, crossed=crossed[index])
            states.append(x)
            pairs.append(pair)
        return Trunk(tokens, batch.lengths, positions, states, pairs, crossed)

    def rows(
        self,
        trunk: Trunk,
        x: Tensor,
        positions: Tensor,
        seen: Tensor,
        layers: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Run inserted rows [b, R, D] through some layers, with a gradient.

        `seen` bool [b or 1, R, T + R]: the real rows they see, then those of their own (a row has
        to see itself). `layers` rise, None for all; x is what enters the first of them. Returns x
        and what each layer gives: a list one longer than `layers`.
        """
        real = trunk.positions.expand(len(x), -1)
        sight = Sight(positions, seen, torch.cat((real, positions), 1))
        states = [x]
        for index in range(self.layers) if layers is None else layers:
            layer = self.architecture.decoder.layers[index]
            x, _ = block(
                x, layer, self.layer(index), sight, trunk.pairs[index], trunk.crossed[index]
            )
            states.append(x)
        return states

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a layer of the decoder, for `layers.block`."""
        return self._layers["decoder"][index]

    def copy(self, index: int, count: int = 1) -> Own:
        """Learned layers that begin as copies of one of the decoder's, without its cross-attention
        and without T5's bias."""
        layer = alone(self.architecture.decoder.layers[index])
        start = {
            f"layers.{each}.{name}": value
            for each in range(count)
            for name, value in self.layer(index).items()
        }
        return Own((layer,) * count, self.dim, start)

    # --- the encoder -----------------------------------------------------------------------------

    def _crossed(self, batch: Batch) -> list[Crossed | None]:
        """What each layer's cross-attention reads of the batch's sources."""
        layers = self.architecture.decoder.layers
        if self.architecture.encoder is None:
            return [None] * len(layers)
        rows, seen = self.encoded(batch)
        memory = self._after("encoder", self.architecture.encoder, rows)
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None, None]
        found: list[Crossed | None] = []
        for index, layer in enumerate(layers):
            spec = layer.cross_attention
            read = None if spec is None else read_source(memory, spec, self.layer(index))
            found.append(None if read is None else (*read, mask))
        return found

    def encoded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The encoder's rows before its final norm [b, s, D], and which of them [b, s] are not just
        filling up."""
        stack, ids, lengths = self.architecture.encoder, batch.sources, batch.source_lengths
        assert stack is not None and ids is not None and lengths is not None
        own, spec = self.weights.get("encoder.embed.weight"), self.architecture.source_embed
        x = self.embed(ids) if own is None or spec is None else _embedded(ids, own, spec)
        positions = torch.arange(ids.shape[1])[None].expand(ids.shape[0], -1)
        # What fills up sees itself, so that its softmax is of something.
        real = positions < lengths[:, None]
        sight = Sight(positions, real[:, None, :] | torch.eye(ids.shape[1], dtype=torch.bool))
        x = self._enter("encoder", stack, x, positions)
        for layer, w in zip(stack.layers, self._layers["encoder"], strict=True):
            x, _ = block(x, layer, w, sight)
        return x, real

    def _enter(self, prefix: str, stack: Stack, x: Tensor, positions: Tensor) -> Tensor:
        if stack.positions is not None:
            table = self.weights[f"{prefix}.positions"]
            x = x + table[positions + stack.positions.offset]
        if stack.embed_norm is None:
            return x
        return norm(x, stack.embed_norm, self.weights, f"{prefix}.embed_norm")

    def _after(self, prefix: str, stack: Stack, x: Tensor) -> Tensor:
        if stack.final_norm is None:
            return x
        return norm(x, stack.final_norm, self.weights, f"{prefix}.final_norm")


def alone(layer: Layer) -> Layer:
    """A layer as one that stands alone: without cross-attention and without T5's bias table."""
    own = replace(layer.self_attention, bias_table=None)
    return replace(layer, cross_attention=None, self_attention=own)


def _embedded(ids: Tensor, table: Tensor, spec: Embedding) -> Tensor:
    found = F.embedding(ids, table)
    return found if spec.scale == 1.0 else found * spec.scale


def _of_layer(weights: Mapping[str, Tensor], prefix: str, index: int) -> dict[str, Tensor]:
    """The tensors of one layer by their names in it, and the stack's bias table."""
    start, table = f"{prefix}.layers.{index}.", f"{prefix}.bias_table"
    own = {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
    return own | ({"bias_table": weights[table]} if table in weights else {})
