"""Published encoder-decoder configs are read as they are, and count the published weights.

The numbers are transformers' `num_parameters`; the heads of BART's relatives have a bias besides.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest

from edgedec.architecture import Limits
from edgedec.manifest import Decoding
from edgedec.models import decoding, describe
from edgedec.weights import shapes

TASKS = {"summarization": {"early_stopping": True, "length_penalty": 2.0, "max_length": 200,
                           "min_length": 30, "no_repeat_ngram_size": 3, "num_beams": 4,
                           "prefix": "summarize: "}}  # fmt: skip
T5 = {"architectures": ["T5ForConditionalGeneration"], "decoder_start_token_id": 0,
      "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0, "is_encoder_decoder": True,
      "layer_norm_epsilon": 1e-06, "model_type": "t5", "pad_token_id": 0, "use_cache": True,
      "relative_attention_num_buckets": 32}  # fmt: skip
BART = {"activation_dropout": 0.1, "add_bias_logits": False, "add_final_layer_norm": False,
        "attention_dropout": 0.1, "classif_dropout": 0.1, "classifier_dropout": 0.0,
        "decoder_layerdrop": 0.0, "dropout": 0.1, "encoder_layerdrop": 0.0,
        "gradient_checkpointing": False, "id2label": {"0": "LABEL_0"}, "init_std": 0.02,
        "is_encoder_decoder": True, "label2id": {"LABEL_0": 0}, "use_cache": True}  # fmt: skip
GEMMA = {"attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
         "bos_token_id": 2, "dropout_rate": 0.0, "eos_token_id": 1, "final_logit_softcapping": 30.0,
         "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
         "initializer_range": 0.02, "intermediate_size": 9216, "layer_types":
         ["sliding_attention", "full_attention"] * 13, "max_position_embeddings": 8192,
         "model_type": "t5_gemma_module", "num_attention_heads": 8, "num_hidden_layers": 26,
         "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
         "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
         "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 256000}  # fmt: skip

PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "t5-small": (60_506_624, {
        **T5, "d_ff": 2048, "d_kv": 64, "d_model": 512, "n_positions": 512, "num_heads": 8,
        "num_layers": 6, "output_past": True, "task_specific_params": TASKS, "vocab_size": 32128,
    }),
    "flan-t5-small": (76_961_152, {
        **T5, "d_ff": 1024, "d_kv": 64, "d_model": 512, "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu", "is_gated_act": True, "n_positions": 512,
        "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "output_past": True,
        "relative_attention_max_distance": 128, "task_specific_params": TASKS,
        "tie_word_embeddings": False, "vocab_size": 32128,
    }),
    "byt5-small": (299_637_760, {
        **T5, "d_ff": 3584, "d_kv": 64, "d_model": 1472, "feed_forward_proj": "gated-gelu",
        "gradient_checkpointing": False, "num_decoder_layers": 4, "num_heads": 6,
        "num_layers": 12, "tie_word_embeddings": False, "tokenizer_class": "ByT5Tokenizer",
        "vocab_size": 384,
    }),
    "codet5p-220m": (222_882_048, {
        **T5, "bos_token_id": 1, "d_ff": 3072, "d_kv": 64, "d_model": 768, "dense_act_fn": "relu",
        "eos_token_id": 2, "feed_forward_proj": "relu", "gradient_checkpointing": False,
        "id2label": {"0": "LABEL_0"}, "is_gated_act": False, "label2id": {"LABEL_0": 0},
        "n_positions": 512, "num_decoder_layers": 12, "num_heads": 12, "num_layers": 12,
        "output_past": True, "relative_attention_max_distance": 128, "task_specific_params": TASKS,
        "torch_dtype": "float16", "vocab_size": 32100,
    }),
    "mt5-small": (300_176_768, {
        **T5, "model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "d_ff": 1024,
        "d_kv": 64, "d_model": 512, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 8,
        "num_heads": 6, "num_layers": 8, "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer", "vocab_size": 250112,
    }),
    "bart-base": (139_420_416 + 50_265, {
        **BART, "activation_function": "gelu", "architectures": ["BartModel"], "bos_token_id": 0,
        "d_model": 768, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072,
        "decoder_layers": 6, "decoder_start_token_id": 2, "early_stopping": True,
        "encoder_attention_heads": 12, "encoder_ffn_dim": 3072, "encoder_layers": 6,
        "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
        "max_position_embeddings": 1024, "model_type": "bart", "no_repeat_ngram_size": 3,
        "normalize_before": False, "normalize_embedding": True, "num_beams": 4,
        "num_hidden_layers": 6, "pad_token_id": 1, "scale_embedding": False, "vocab_size": 50265,
    }),
    "opus-mt-en-de": (74_410_496 + 58_101, {
        **BART, "_num_labels": 3, "activation_function": "swish", "activation_dropout": 0.0,
        "architectures": ["MarianMTModel"], "bad_words_ids": [[58100]], "bos_token_id": 0,
        "d_model": 512, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048,
        "decoder_layers": 6, "decoder_start_token_id": 58100, "decoder_vocab_size": 58101,
        "encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "encoder_layers": 6,
        "eos_token_id": 0, "forced_eos_token_id": 0, "max_length": 512,
        "max_position_embeddings": 512, "model_type": "marian", "normalize_before": False,
        "normalize_embedding": False, "num_beams": 6, "num_hidden_layers": 6,
        "pad_token_id": 58100, "scale_embedding": True, "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True, "vocab_size": 58101,
    }),
    "pegasus-xsum": (569_748_480 + 96_103, {
        **BART, "activation_function": "relu", "add_final_layer_norm": True,
        "architectures": ["PegasusForConditionalGeneration"], "bos_token_id": 0, "d_model": 1024,
        "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layers": 16,
        "decoder_start_token_id": 0, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
        "encoder_layers": 16, "eos_token_id": 1, "extra_pos_embeddings": 0,
        "force_bos_token_to_be_generated": False, "forced_eos_token_id": 1, "length_penalty": 0.6,
        "max_length": 64, "max_position_embeddings": 512, "model_type": "pegasus",
        "normalize_before": True, "normalize_embedding": False, "num_beams": 8,
        "num_hidden_layers": 16, "pad_token_id": 0, "scale_embedding": True,
        "static_position_embeddings": True, "vocab_size": 96103,
    }),
    "t5gemma-2b-2b": (5_596_853_760, {
        "architectures": ["T5GemmaForConditionalGeneration"], "classifier_dropout_rate": 0.0,
        "decoder": {**GEMMA, "cross_attention_hidden_size": 2304, "is_decoder": True},
        "dropout_rate": 0.0, "encoder": GEMMA, "eos_token_id": [1, 107], "bos_token_id": 2,
        "initializer_range": 0.02, "is_encoder_decoder": True, "model_type": "t5gemma",
        "pad_token_id": 0, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 256000,
    }),
}  # fmt: skip


def counted(config: dict[str, Any]) -> int:
    return sum(math.prod(shape) for shape in shapes(describe(config)[0]).values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_count_the_published_weights(name: str) -> None:
    count, config = PUBLISHED[name]
    architecture, sources = describe(config)
    assert counted(config) == count
    stored = {source.name: math.prod(source.shape) for source in sources.values()}
    assert sum(stored.values()) == count
    assert architecture.tokens.decoder_start is not None


@pytest.mark.full
@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_counts_the_same(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    _, config = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**deepcopy(config)))
    buffers = dict(model.named_buffers())
    theirs = model.num_parameters() + buffers.get("final_logits_bias", torch.zeros(0)).numel()
    if not config.get("tie_word_embeddings", True):
        # transformers 5 ties the heads of new models; published ones have their own.
        theirs += config["vocab_size"] * config["d_model"]
    assert counted(config) == theirs


def test_what_they_say_of_their_output() -> None:
    def read(name: str, **generation: object) -> Any:
        config = PUBLISHED[name][1]
        return decoding(config, describe(config)[0], generation=generation)

    assert read("bart-base") == Decoding(forced={0: 0}, forced_last=2)
    assert read("opus-mt-en-de") == Decoding(forced_last=0, suppressed=(58100,))
    assert read("t5-small") == Decoding()
    assert read("bart-base", forced_eos_token_id=2) == Decoding(forced_last=2)


def test_what_is_special_about_them() -> None:
    architectures = {name: describe(config)[0] for name, (_, config) in PUBLISHED.items()}
    assert architectures["pegasus-xsum"].limits == Limits(context=512, source=512)
    assert architectures["t5gemma-2b-2b"].limits == Limits(context=8192, source=8192)
    byt5 = architectures["byt5-small"]
    assert byt5.encoder is not None
    assert (len(byt5.encoder.layers), len(byt5.decoder.layers)) == (12, 4)
    assert architectures["flan-t5-small"].head.scale == 1.0
