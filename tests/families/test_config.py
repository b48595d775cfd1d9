"""What a config may say: the layouts we read, and everything else refused by name."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import Any

import pytest
from msgspec.structs import replace

from edgedec import rooms
from edgedec.architecture import (
    Head,
    Limits,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
)
from edgedec.errors import CheckpointError, EdgedecError, UnsupportedError, UsageError
from edgedec.models import decoding, describe, families


def tiny(family: str, **changes: object) -> dict[str, Any]:
    return {**rooms.load("edgedec.models", family).TINY, **changes}


def read(config: dict[str, Any]) -> None:
    architecture, _ = describe(config)
    decoding(config, architecture)


def rope_of(config: dict[str, Any], layer: int = 0, context: int | None = None) -> Any:
    architecture, _ = describe(config, context=context)
    return architecture.decoder.layers[layer].self_attention.rope


@pytest.mark.parametrize("name", ["bert", "reference", "_config", "", "LLAMA"])
def test_an_unknown_model_type_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnsupportedError, match="model_type") as caught:
        describe({"model_type": name})
    assert all(family in str(caught.value) for family in families())


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "hidden_act", "swiglu"),
        ("llama", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("llama", "quantization_config", {"bits": 4}),
        ("llama", "num_local_experts", 8),
        ("llama", "clip_qkv", 0),
        ("mistral", "layer_types", ["full_attention"] * 3),
        ("qwen3", "layer_types", ["full_attention", "linear_attention", "full_attention"]),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("phi3", "interpolate_factor", 2),
        ("phi3", "lm_head_bias", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "mish"),
        ("gpt_neox", "rotary_ndims", 3),
        ("t5", "feed_forward_proj", "fast-relu"),
        ("t5", "feed_forward_proj", "gated-mish"),
        ("t5", "is_gated_act", True),
        ("t5", "is_encoder_decoder", False),
        ("t5", "dense_act_fn", "mish"),
        ("mt5", "scale_decoder_outputs", True),
        ("bart", "tie_word_embeddings", False),
        ("bart", "normalize_before", True),
        ("bart", "add_final_layer_norm", True),
        ("marian", "normalize_embedding", True),
        ("pegasus", "normalize_before", False),
        ("mu", "is_encoder_decoder", False),
    ],
)
def test_what_we_do_not_support_is_named(family: str, field: str, value: object) -> None:
    with pytest.raises(UnsupportedError) as caught:
        describe(tiny(family, **{field: value}))
    inner = value.get("rope_type", field) if isinstance(value, dict) else field
    assert inner in str(caught.value)


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_field_that_says_nothing_is_fine(value: object) -> None:
    describe(tiny("llama", strange=value))


def test_an_unknown_field_can_be_ignored_by_name() -> None:
    with pytest.raises(UnsupportedError, match="strange"):
        describe(tiny("llama", strange=1))
    describe(tiny("llama", strange=1), ignore=frozenset({"strange"}))


def test_a_nested_unknown_field_is_refused_too() -> None:
    scaling = {"rope_type": "linear", "factor": 2.0, "strange": 3}
    with pytest.raises(UnsupportedError, match=r"rope_scaling.*strange"):
        describe(tiny("llama", rope_scaling=scaling))


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"]
)
@pytest.mark.parametrize("value", [None, "64", 1.5, True, 0, -3, [1]])
def test_sizes_must_be_whole_and_positive(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field):
        describe(tiny("llama", **{field: value}))


@pytest.mark.parametrize("family", families())
def test_no_field_can_be_broken_without_a_clear_error(family: str) -> None:
    """Every field in turn takes a value of a wrong type."""
    for field in tiny(family):
        if field == "model_type":
            continue
        for value in ({"a": 1}, [None], "x", -1):
            try:
                read(tiny(family, **{field: value}))
            except EdgedecError:
                continue
            assert value == -1, f"{field} = {value} went through"


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(CheckpointError, match="heads"):
        describe(tiny("llama", num_key_value_heads=4))
    with pytest.raises(CheckpointError, match="hidden_size"):
        describe(tiny("llama", num_attention_heads=7))


def test_a_context_may_be_shorter_but_not_longer() -> None:
    assert describe(tiny("llama"), context=100)[0].limits.context == 100
    with pytest.raises(UsageError, match="257"):
        describe(tiny("llama"), context=257)


def test_a_window_as_long_as_the_context_is_none() -> None:
    def window(context: int) -> int | None:
        architecture, _ = describe(tiny("mistral"), context=context)
        return architecture.decoder.layers[0].self_attention.window

    assert window(25) == 24
    assert window(24) is None


def test_a_missing_window_is_the_family_s_and_null_is_none() -> None:
    def window(**changes: object) -> int | None:
        config = tiny("mistral", max_position_embeddings=8192)
        del config["sliding_window"]
        architecture, _ = describe({**config, **changes})
        return architecture.decoder.layers[0].self_attention.window

    assert window() == 4096
    assert window(sliding_window=None) is None


def test_ids_come_from_the_generation_config_first() -> None:
    config = tiny("llama", eos_token_id=[2, 3])
    assert describe(config)[0].tokens.eos == (2, 3)
    both = describe(config, generation={"eos_token_id": [5, 6], "temperature": 0.6})[0].tokens
    assert both.eos == (5, 6)
    assert both.bos == 1
    outside = describe(tiny("llama", eos_token_id=999, pad_token_id=-1))[0].tokens
    assert (outside.eos, outside.pad) == ((), None)


def test_both_layouts_of_rope_settings_mean_the_same() -> None:
    old = {"type": "linear", "factor": 2}
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    one = rope_of(tiny("llama", rope_theta=5000, rope_scaling=old))
    other = rope_of(tiny("llama", rope_theta=None, rope_parameters=new))
    assert one == other
    assert one.theta == 5000
    assert one.scaling == LinearScaling(factor=2.0)


def test_pythia_may_name_its_rope_settings_twice() -> None:
    """As transformers 4.4x saves it."""
    twice = tiny("gpt_neox", rope_theta=10000, partial_rotary_factor=0.25)
    assert rope_of(twice) == rope_of(tiny("gpt_neox"))
    for name in ("rope_theta", "partial_rotary_factor"):
        with pytest.raises(UnsupportedError, match=name):
            describe({**twice, name: 0.5})


def test_llama3_needs_its_numbers() -> None:
    settings = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    assert rope_of(tiny("llama", rope_scaling=settings)).scaling == Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=32
    )
    del settings["high_freq_factor"]
    with pytest.raises(CheckpointError, match="high_freq_factor"):
        describe(tiny("llama", rope_scaling=settings))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {"original_max_position_embeddings": 1}),
        ("phi3", {"partial_rotary_factor": 0.5}),
        ("phi3", {"partial_rotary_factor": 1.5}),
        ("llama", {"rope_theta": 0}),
        ("llama", {"rope_theta": -5.0}),
        ("llama", {"rope_theta": math.nan}),
        ("llama", {"rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 2}}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 0}}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": math.inf}}),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                                    "high_freq_factor": 4}}),
        ("llama", {"head_dim": 7}),
        ("llama", {"head_dim": 2**31 - 2}),
        ("llama", {"hidden_size": 2**31 - 2, "num_attention_heads": 1}),
        ("llama", {"rms_norm_eps": 0}),
        ("llama", {"num_hidden_layers": 10**9}),
        ("gpt2", {"n_layer": 10**9}),
        ("mistral", {"sliding_window": 0}),
        ("gemma3_text", {"query_pre_attn_scalar": 0}),
        ("t5", {"relative_attention_num_buckets": 3}),
        ("t5", {"relative_attention_max_distance": 6}),
        ("t5", {"num_decoder_layers": 10**9}),
        ("t5", {"d_kv": 2**31 - 2}),
        ("bart", {"decoder_attention_heads": 5}),
        ("marian", {"share_encoder_decoder_embeddings": True}),
        ("mu", {"n_kv_head": 3}),
        ("mu", {"qkv_embd": 30}),
        ("mu", {"qkv_embd": 12, "n_kv_head": 4}),
        ("mu", {"rope_theta": 0}),
        ("t5gemma", {"encoder": None}),
    ],
)  # fmt: skip
def test_numbers_that_make_no_model_are_refused(family: str, changes: dict[str, Any]) -> None:
    with pytest.raises((CheckpointError, UnsupportedError)):
        describe(tiny(family, **changes))


def test_yarn_defaults_are_those_of_the_paper() -> None:
    settings = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    scaling = rope_of(tiny("qwen3", rope_scaling=settings)).scaling
    assert isinstance(scaling, YarnScaling)
    assert (scaling.beta_fast, scaling.beta_slow, scaling.truncate) == (32, 1, True)
    assert scaling.magnitude == pytest.approx(0.1 * math.log(4) + 1)


def test_longrope_goes_by_the_exported_context() -> None:
    config = tiny("phi3")
    settings = config["rope_scaling"]

    def factors(context: int | None) -> tuple[float, ...]:
        scaling = rope_of(config, context=context).scaling
        assert isinstance(scaling, LongRopeScaling)
        assert scaling.magnitude == pytest.approx(math.sqrt(1 + math.log(4) / math.log(128)))
        return scaling.factors

    assert factors(None) == factors(128) == tuple(settings["short_factor"])
    assert factors(129) == factors(512) == tuple(settings["long_factor"])
    assert describe(config)[0].limits.context == 128


def test_gemma_has_two_kinds_of_positions() -> None:
    config = tiny("gemma3_text")
    assert rope_of(config, layer=0).theta == 10000
    assert rope_of(config, layer=0).scaling is None
    assert rope_of(config, layer=2).theta == 1000000
    assert rope_of(config, layer=2).scaling == LinearScaling(factor=8.0)


def test_phi_4_mini_s_own_fields_pass() -> None:
    describe(tiny("phi3", full_attn_mod=1, interpolate_factor=1, lm_head_bias=False))


TWO_SIDED = [name for name in families() if describe(tiny(name))[0].encoder is not None]


@pytest.mark.parametrize("family", TWO_SIDED)
def test_a_decoder_that_begins_with_nothing_is_refused(family: str) -> None:
    config = tiny(family, decoder_start_token_id=None)
    if family == "t5gemma":  # its decoder begins with bos
        assert describe(config)[0].tokens.decoder_start == config["bos_token_id"]
        return
    with pytest.raises(CheckpointError, match='add "decoder_start_token_id"'):
        describe(config)
    begun = describe(config, generation={"decoder_start_token_id": 3})[0]
    assert begun.tokens.decoder_start == 3
    with pytest.raises(CheckpointError, match="from 0 to 111"):
        describe(tiny(family, decoder_start_token_id=4000))


def test_sides_of_different_widths_are_refused() -> None:
    config = tiny("t5gemma")
    config["encoder"] = {**config["encoder"], "hidden_size": 64}
    with pytest.raises(UnsupportedError, match=r"decoder: hidden_size is 48; the encoder has 64"):
        describe(config)


def test_a_null_cap_is_none_and_a_missing_one_the_family_s() -> None:
    config = tiny("t5gemma")
    config["decoder"] = {**config["decoder"], "attn_logit_softcapping": None}
    del config["decoder"]["final_logit_softcapping"]
    found, _ = describe(config)
    assert found.head.softcap == 30.0
    assert found.decoder.layers[0].self_attention.softcap is None
    assert found.encoder is not None
    assert found.encoder.layers[0].self_attention.softcap == 50.0


def test_an_encoder_s_window_counts_each_side() -> None:
    found, _ = describe(tiny("t5gemma"))
    assert found.encoder is not None
    windows = [layer.self_attention.window for layer in found.encoder.layers]
    assert windows == [13, None, 13, None]
    assert [layer.self_attention.window for layer in found.decoder.layers] == [20, None, 20]
    assert {layer.cross_attention.window for layer in found.decoder.layers
            if layer.cross_attention} == {None}  # fmt: skip


def test_t5_takes_any_length_up_to_a_bound() -> None:
    assert describe(tiny("t5"))[0].limits == Limits(context=2048, source=2048)
    assert describe(tiny("t5"), context=5000)[0].limits == Limits(context=5000, source=5000)
    with pytest.raises(UsageError, match="1 to 32768"):
        describe(tiny("t5"), context=32769)
    assert describe(tiny("bart"), context=60)[0].limits == Limits(context=60, source=128)


def test_the_head_of_t5_is_scaled_where_it_is_tied() -> None:
    assert describe(tiny("t5"))[0].head == Head(tied=True, scale=48**-0.5)
    untied = Head(tied=False)
    assert describe(tiny("t5", tie_word_embeddings=False))[0].head == untied
    assert describe(tiny("t5", scale_decoder_outputs=False))[0].head == untied
    assert describe(tiny("mt5", tie_word_embeddings=True))[0].head == untied


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [name for name in families() if name != "mu"])
def test_what_a_config_leaves_out_is_what_transformers_takes(family: str) -> None:
    """Each field in turn is left out; transformers fills it in, and both must mean the same."""
    from transformers import AutoConfig

    accepted = []
    for field in tiny(family):
        config = {name: value for name, value in tiny(family).items() if name != field}
        try:
            ours, _ = describe(config)
        except EdgedecError:  # it is needed
            continue
        filled = AutoConfig.for_model(**deepcopy(config)).to_json_string(use_diff=False)
        theirs, _ = describe(json.loads(filled))
        assert replace(ours, tokens=theirs.tokens) == theirs, field
        accepted.append(field)
    assert len(accepted) > 4
