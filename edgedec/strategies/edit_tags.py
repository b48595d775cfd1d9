"""Copy the source as it will be edited: tags foreseen from what the encoder made of it.

A model that rewrites copies most of its source, and a copy only fails where something changes. An
encoder that reads all of the source knows much of what will: a small network on its rows says of
each token whether it is kept, dropped or replaced and what comes behind it, as taggers do that edit
without a decoder (GECToR 2005.12592, PIE 1910.02893). Here the guess is only a draft: once for a
source, followed as `aggressive` follows the source itself, and checked like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgedec import parts, tagging
from edgedec.contracts import Host, Needs, Source
from edgedec.copyist import Copying, Copyist
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.heads import LIKELY, level, silu
from edgedec.parts import Trained
from edgedec.passage import Passage, Words

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.parts import Part

NAME = "edit_tags"
MOST = 8
"""More tokens put in at one place than anybody trains."""


@dataclass(frozen=True, slots=True)
class EditTags(Copying, Trained):
    """Copies at most `tokens` tokens of the guess; where it was wrong, from up to `branches` places
    within `reach` words."""

    replaces: ClassVar[tuple[str, ...]] = ("aggressive", "prompt_lookup")

    def needs(self, host: Host) -> Needs:
        """A source in the decoder's own tokens, and its encoder's rows.

        Raises:
            UnsupportedError: the model has no such encoder, its runtime does not show the rows, or
                the bundle has no part for it.
            StateError: the part does not say how many tokens it puts in.
        """
        model = host.architecture
        if model.encoder is None or model.frontend is not None or model.source_embed is not None:
            raise UnsupportedError(
                f"the strategy {NAME} edits what an encoder reads, in the decoder's own tokens; "
                "this model has no such encoder: use auto"
            )
        if not host.capabilities.source_states:
            raise UnsupportedError(
                f"the strategy {NAME} reads the encoder's rows, which this runtime does not show: "
                "use native"
            )
        parts.number(host, NAME, "inserted", 1, MOST)
        return Needs()

    def open(self, host: Host) -> Editor:
        """Begin with no source.

        Raises:
            UnsupportedError: the bundle has no part for it.
            StateError: the part is not what it reads.
        """
        tagger = Tagger(parts.wanted(host, NAME), parts.number(host, NAME, "inserted", 1, MOST))
        tagger.rehearse(host.architecture.embed.dim)
        return Editor(self, None if host.text is None else Words(host.text), host, tagger)


class Editor(Copyist):
    """A place in the guess, or the places where it may be."""

    def __init__(self, options: EditTags, words: Words | None, host: Host, tagger: Tagger) -> None:
        self._host, self._tagger = host, tagger
        self._states: Floats | None = None
        self._edited: Edited | None = None
        super().__init__(options, words)

    def reset(self) -> None:
        """Forget the source, unless the encoder still holds it: then what was guessed is known.

        Guessing is done here, where a text begins, rather than in a turn that is measured.
        """
        super().reset()
        states = self._host.source_states
        if states is not self._states:
            self._states = states
            self._edited = None if states is None else self._tagger.tag(states)

    def copied(self, source: Source, words: Words) -> tuple[Passage, Sequence[float]]:
        """The source as it will be edited; as it is, where the encoder's rows are not known."""
        edited = self._edited
        if edited is None or len(edited.tags.kinds) != len(source.tokens):
            return super().copied(source, words)
        guess = tagging.rewritten(source.tokens, edited.tags, edited.replaced, edited.inserted)
        passage, shown = words.written(guess[0])
        return passage, [score for score, is_text in zip(guess[1], shown, strict=True) if is_text]


@dataclass(frozen=True, slots=True)
class Edited:
    """The tags of a source, with the tokens that replace others and those that are put in."""

    tags: tagging.Tags
    replaced: Sequence[tuple[int, float]]
    inserted: Sequence[tuple[int, float]]


class Tagger:
    """The part's network: two layers, each reading a row and the two beside it."""

    def __init__(self, part: Part, inserted: int) -> None:
        self._part, self._most = part, inserted

    def rehearse(self, dim: int) -> None:
        """Use all that the part must have once.

        Raises:
            StateError: something in it has another size than it should.
        """
        states = np.zeros((1, dim), np.float32)
        try:
            mixed = self._mixed(states)
            tags = self._part.linear("tags", mixed).shape[1]
            added = self._put_in(mixed).shape[1:]
            replaced = self._in_place(mixed, states).shape[1]
        except (UsageError, ValueError) as error:
            raise StateError(f"a matrix of the part of {NAME}: {error}: train it again") from None
        wanted = tagging.KINDS * (self._most + 1), (self._most, dim), dim
        if (tags, added, replaced) != wanted:
            raise StateError(
                f"the part of {NAME} gives {(tags, added, replaced)}, not {wanted}: train it again"
            )

    def tag(self, states: Floats) -> Edited:
        """What becomes of each row of the encoder [s, D]."""
        rows = level(states)
        mixed = self._mixed(rows)
        tags = tagging.read(self._part.linear("tags", mixed))
        places, order = tags.inserted
        changed = tags.replaced
        ahead = [self._in_place(mixed[changed], rows[changed])] if len(changed) else []
        if len(places):
            ahead.append(self._put_in(mixed[places])[np.arange(len(places)), order])
        likely = self._likeliest(np.concatenate(ahead)) if ahead else []
        return Edited(tags, likely[: len(changed)], likely[len(changed) :])

    def _mixed(self, rows: Floats) -> Floats:
        """What the network makes of rows [s, D] at a mean square of one: [s, H]."""
        first = silu(self._part.linear("mix", beside(rows)))
        found: Floats = first + silu(self._part.linear("widen", beside(first)))
        return found

    def _in_place(self, mixed: Floats, rows: Floats) -> Floats:
        """What enters the model's head for tokens that replace others [r, D]."""
        return self._part.linear("replace", np.concatenate([mixed, rows], axis=1))

    def _put_in(self, mixed: Floats) -> Floats:
        """The same for tokens that are put in [i, most, D]."""
        return self._part.linear("insert", mixed).reshape(len(mixed), self._most, -1)

    def _likeliest(self, ahead: Floats) -> list[tuple[int, float]]:
        ids, logits = self._part.likely(ahead, min(LIKELY, len(self._part.ids)))
        shares = np.exp(logits - logits[:, :1])
        return list(zip(ids[:, 0].tolist(), (1 / shares.sum(1)).tolist(), strict=True))


def beside(rows: Floats) -> Floats:
    """Each row between the ones before and behind it, zeros at the ends: [s, 3 K]."""
    found = np.zeros((len(rows), 3 * rows.shape[1]), np.float32)
    width = rows.shape[1]
    found[1:, :width] = rows[:-1]
    found[:, width : 2 * width] = rows
    found[:-1, 2 * width :] = rows[1:]
    return found
