"""A checkpoint's `config.json`, read so that nothing is overlooked.

A field is either read by the family, known to have no influence on the numbers, or refused by
name. Knows nothing about any family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn, TypeVar, cast, overload

from edgedec.errors import CheckpointError, UnsupportedError

Kind = TypeVar("Kind", int, float, bool, str)
Value = TypeVar("Value")

WITHOUT_INFLUENCE = frozenset(
    """
    _name_or_path architectures auto_map cache_implementation chunk_size_feed_forward dtype
    id2label initializer_range is_decoder is_llama_config label2id max_sequence_length model_type
    num_labels pretraining_tp classifier_proj_size use_weighted_layer_sum apply_spec_augment
    mask_time_prob mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length
    mask_feature_min_masks median_filter_width problem_type return_dict sep_token_id torch_dtype
    tokenizer_class transformers.js_config transformers_version unsloth_fixed unsloth_version
    use_cache _num_labels gradient_checkpointing init_std initializer_factor output_past
    attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout embd_pdrop
    hidden_dropout hidden_dropout_prob resid_pdrop dropout dropout_rate activation_dropout
    classif_dropout classifier_dropout_rate decoder_layerdrop encoder_layerdrop
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    do_sample max_length max_new_tokens min_length num_beams repetition_penalty
    task_specific_params temperature top_k top_p diversity_penalty early_stopping length_penalty
    no_repeat_ngram_size num_beam_groups num_return_sequences prefix
    bad_words_ids begin_suppress_tokens forced_bos_token_id forced_decoder_ids forced_eos_token_id
    suppress_tokens
    """.split()  # noqa: SIM905 (a list of 60 quoted words reads worse)
)


class Config:
    """The fields of `config.json`, or of a section of it; every read is recorded.

    Fields named in `ignore` are not refused by `finish` though nothing reads them. A null field
    counts as absent.
    """

    def __init__(
        self,
        fields: Mapping[str, object],
        *,
        ignore: frozenset[str] = frozenset(),
        place: str = "config.json",
    ) -> None:
        self.place = place
        self._fields = fields
        self._ignore = ignore
        self._seen: set[str] = set()
        self._sections: dict[str, Config] = {}

    def __contains__(self, name: str) -> bool:
        """Whether the field has a value other than null."""
        return self._fields.get(name) is not None

    def states(self, name: str) -> bool:
        """Whether the field is there at all, be it null: families may default to a number."""
        return name in self._fields

    @overload
    def take(self, name: str, kind: type[Kind]) -> Kind: ...
    @overload
    def take(self, name: str, kind: type[Kind], default: Kind) -> Kind: ...
    def take(self, name: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """Read a field.

        Raises:
            CheckpointError: it is missing and has no default, or is not of this kind.
        """
        value = self.find(name, kind)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.place} has no {name}, which this model type needs")
        return value

    def find(self, name: str, kind: type[Kind]) -> Kind | None:
        """Read a field that may be absent."""
        self._seen.add(name)
        value = self._fields.get(name)
        return None if value is None else self._typed(name, value, kind)

    def size(self, name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """Read a whole number from 1 to `most`."""
        value = self.take(name, int) if default is None else self.take(name, int, default)
        if not 1 <= value <= most:
            raise CheckpointError(f"{self.place}: {name} is {value}, must be 1 to {most}")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        """Read a number above zero."""
        value = self.take(name, float) if default is None else self.take(name, float, default)
        if value <= 0:
            raise CheckpointError(f"{self.place}: {name} is {value}, must be above 0")
        return value

    def items(self, name: str, kind: type[Kind], count: int | None = None) -> tuple[Kind, ...]:
        """Read a list, of `count` items if said; empty if absent.

        Raises:
            CheckpointError: not a list, an item of another kind, or another number of items.
        """
        self._seen.add(name)
        value = self._fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise CheckpointError(f"{self.place}: {name} is {_short(value)}, must be a list")
        if count is not None and len(value) != count:
            raise CheckpointError(f"{self.place}: {name} has {len(value)} items, must have {count}")
        return tuple(self._typed(f"{name}[{i}]", item, kind) for i, item in enumerate(value))

    def lists(self, name: str, kind: type[Kind]) -> tuple[tuple[Kind | None, ...], ...]:
        """Read a list of lists, whose items may be null; empty if absent.

        Raises:
            CheckpointError: not a list of lists, or an item of another kind.
        """
        self._seen.add(name)
        rows = self._fields.get(name)
        if rows is None:
            return ()
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise CheckpointError(
                f"{self.place}: {name} is {_short(rows)}, must be a list of lists"
            )
        return tuple(
            tuple(None if item is None else self._typed(name, item, kind) for item in row)
            for row in rows
        )

    def choice(
        self, name: str, supported: Mapping[str, Value], default: str | None = None
    ) -> Value:
        """Read a word that stands for one of the supported values.

        Raises:
            UnsupportedError: another word; the message lists those that are supported.
        """
        word = self.take(name, str) if default is None else self.take(name, str, default)
        if word not in supported:
            self.refuse(name, f"supported: {', '.join(sorted(supported))}")
        return supported[word]

    def expect(self, name: str, value: int | float | bool | str) -> None:
        """Allow a field only with the one value that we support (or absent)."""
        found = self.find(name, cast("type[str]", type(value)))
        if found is not None and found != value:
            self.refuse(name, f"supported: {value!r}")

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Say that a field's value cannot be used.

        Raises:
            UnsupportedError: always.
        """
        value = _short(self._fields.get(name))
        raise UnsupportedError(f"{self.place}: {name} is {value}; {reason}")

    def section(self, name: str) -> Config | None:
        """A nested object, to be read in the same way, or None if absent."""
        self._seen.add(name)
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.place}: {name} is {_short(value)}, must be an object")
        if name not in self._sections:
            place = f"{self.place}: {name}"
            self._sections[name] = Config(value, ignore=self._ignore, place=place)
        return self._sections[name]

    def ids(self, name: str) -> tuple[int, ...]:
        """Read a token id or a list of them; empty if absent."""
        if isinstance(self._fields.get(name), list):
            return self.items(name, int)
        value = self.find(name, int)
        return () if value is None else (value,)

    def finish(self) -> None:
        """Refuse what nobody has read.

        Raises:
            UnsupportedError: a field with a value that may change the numbers; named.
        """
        for section in self._sections.values():
            section.finish()
        known = self._seen | self._ignore | WITHOUT_INFLUENCE
        unread = [
            f"{name} = {_short(value)}"
            for name, value in self._fields.items()
            if name not in known and not _empty(value)
        ]
        if unread:
            raise UnsupportedError(
                f"{self.place} has fields that are not supported here: {', '.join(unread)}; "
                "if they do not matter, ignore them by name (--ignore FIELD)"
            )

    def _typed(self, name: str, value: object, kind: type[Kind]) -> Kind:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if kind is float and whole and abs(cast("int", value)) < 2**53:
            return kind(cast("int", value))
        finite = not isinstance(value, float) or math.isfinite(value)
        if isinstance(value, kind) and (kind is not int or whole) and finite:
            return value
        raise CheckpointError(
            f"{self.place}: {name} is {_short(value)}, must be of type {kind.__name__}"
        )


def _empty(value: object) -> bool:
    return value is None or value is False or value in ("", [], {})


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
