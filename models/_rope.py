"""Rotary settings, in the layouts that transformers 4 and 5 write.

4: `rope_theta` and `rope_scaling` beside the other fields. 5: all in `rope_parameters`, nested
per layer type where layers differ. Knows no family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgedec.architecture import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from edgedec.errors import CheckpointError
from edgedec.models._config import Config

KINDS = {name: name for name in ("default", "linear", "llama3", "yarn", "longrope")} | {
    "su": "longrope"
}


@dataclass(frozen=True, slots=True)
class Fields:
    """Where a family keeps its settings outside the section, and what holds without them."""

    theta: str = "rope_theta"
    fraction: str = "partial_rotary_factor"
    default_theta: float = 10000.0
    default_fraction: float = 1.0
    default_original: int | None = None
    scaling: str | None = "rope_scaling"


DEFAULT = Fields()


class Settings:
    """The section with the settings of (one type of) layers, and the fields around it."""

    def __init__(
        self, config: Config, fields: Fields = DEFAULT, layer_type: str | None = None
    ) -> None:
        self.config = config
        self.fields = fields
        section = config.section(fields.scaling) if fields.scaling else None
        if section is None:
            section = config.section("rope_parameters") or Config({})
            if layer_type is not None:
                section = section.section(layer_type) or Config({})
        self.section = section

    @property
    def kind(self) -> str:
        """The kind of scaling, one of KINDS' values."""
        old = self.section.choice("type", KINDS, "default")
        return self.section.choice("rope_type", KINDS, old)

    @property
    def original_context(self) -> int:
        """The context before it was extended; a field outside the section comes first."""
        name = "original_max_position_embeddings"
        inside = self.section.size(name, self.config.size("max_position_embeddings"))
        return self.config.size(name, self.fields.default_original or inside)

    @property
    def factor(self) -> float:
        """How many times longer the context has become."""
        longest = self.config.size("max_position_embeddings")
        return self.section.positive("factor", longest / self.original_context)


def rope(
    config: Config, context: int, fields: Fields = DEFAULT, layer_type: str | None = None
) -> Rope:
    """The rotary positions of (one type of) layers for texts of up to `context` tokens.

    Raises:
        UnsupportedError: a kind of scaling that we do not have.
        CheckpointError: a setting is missing, ill-typed or out of range.
    """
    settings = Settings(config, fields, layer_type)
    theta = config.positive(fields.theta, fields.default_theta)
    fraction = config.positive(fields.fraction, fields.default_fraction)
    fraction = settings.section.positive("partial_rotary_factor", fraction)
    if fraction > 1:
        raise CheckpointError(f"{config.place}: {fields.fraction} is {fraction}, must be 0 to 1")
    return Rope(
        theta=settings.section.positive("rope_theta", theta),
        fraction=fraction,
        scaling=_scaling(settings, context),
    )


def _scaling(settings: Settings, context: int) -> Scaling | None:
    match settings.kind:
        case "linear":
            return LinearScaling(factor=settings.section.positive("factor"))
        case "llama3":
            return _llama3(settings)
        case "yarn":
            return _yarn(settings)
        case "longrope":
            return _longrope(settings, context)
    return None


def _llama3(settings: Settings) -> Llama3Scaling:
    section = settings.section
    low, high = section.positive("low_freq_factor"), section.positive("high_freq_factor")
    if low >= high:
        section.refuse("low_freq_factor", f"it must be below high_freq_factor, which is {high}")
    return Llama3Scaling(
        factor=section.positive("factor"),
        low_frequency_factor=low,
        high_frequency_factor=high,
        original_context=settings.original_context,
    )


def _yarn(settings: Settings) -> YarnScaling:
    section = settings.section
    return YarnScaling(
        factor=settings.factor,
        beta_fast=section.positive("beta_fast", 32.0),
        beta_slow=section.positive("beta_slow", 1.0),
        original_context=settings.original_context,
        magnitude=_yarn_magnitude(section, settings.factor),
        truncate=section.take("truncate", bool, True),
    )


def _yarn_magnitude(section: Config, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    over, under = section.find("mscale", float), section.find("mscale_all_dim", float)
    usual = magnitude(over) / magnitude(under) if over and under else magnitude(1.0)
    return section.positive("attention_factor", usual)


def _longrope(settings: Settings, context: int) -> LongRopeScaling:
    """Short factors up to the original context, long ones beyond.

    transformers chooses anew for every text, which would change keys already written; here the
    choice is made once, by the context that is exported.
    """
    section, original, factor = settings.section, settings.original_context, settings.factor
    short, long = section.items("short_factor", float), section.items("long_factor", float)
    if min((*short, *long), default=0) <= 0:
        raise CheckpointError(f"{section.place}: short_factor and long_factor must be above 0")
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRopeScaling(
        factors=long if context > original else short,
        magnitude=section.positive("attention_factor", usual),
    )
