"""llama.cpp through llama-cpp-python's low-level calls, and GGUF files for it.

Knows nothing of edgedec's runtimes. Files hold no tokenizer: token ids are fed directly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.export.checkpoint import WeightSource

BLOCK, BLOCK_BYTES = 32, 18
"""Q4_0: a float16 scale and 32 numbers of 4 bit."""

NAMES = {
    "self_attention.q": "attn_q",
    "self_attention.k": "attn_k",
    "self_attention.v": "attn_v",
    "self_attention.o": "attn_output",
    "self_attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
}
OUTSIDE = {"embed": "token_embd", "decoder.final_norm": "output_norm", "head": "output"}


# --- files ---------------------------------------------------------------------------------------


def write_random(path: Path, model: Architecture) -> None:
    """Q4_0 in every matrix, the numbers random."""
    random = np.random.default_rng(0)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        blocks = random.integers(0, 256, (shape[0], shape[1] // BLOCK, BLOCK_BYTES), np.uint8)
        blocks[:, :, :2] = np.array([0.008], np.float16).view(np.uint8)
        return blocks.reshape(shape[0], -1)

    _write(path, model, tensor)


def write_weights(path: Path, model: Architecture, weights: WeightSource, kind: str) -> None:
    """The weights of a model, every matrix in `kind` ("Q4_0", "Q8_0", "F32"), norms in fp32."""
    from gguf import GGMLQuantizationType, quants

    attention = model.decoder.layers[0].self_attention
    heads = {".q.weight": attention.heads, ".k.weight": attention.kv_heads}

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = weights.load(name)
        count = next((heads[end] for end in heads if name.endswith(end)), None)
        if count is not None:  # llama.cpp turns neighbours, the checkpoint halves of a head
            values = values.reshape(count, 2, -1, shape[1]).swapaxes(1, 2).reshape(shape)
        if len(shape) == 1 or kind == "F32":
            return values
        return quants.quantize(values, GGMLQuantizationType[kind])

    _write(path, model, tensor, kind)


def _write(
    path: Path,
    model: Architecture,
    tensor: Callable[[str, tuple[int, ...]], np.ndarray],
    kind: str = "Q4_0",
) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    from edgedec.weights import shapes

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    _describe(writer, model)
    for name, shape in shapes(model).items():
        values = tensor(name, shape)
        packed = GGMLQuantizationType[kind] if values.dtype == np.uint8 else None
        writer.add_tensor(_name(name), values, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _describe(writer: Any, model: Architecture) -> None:
    layer = model.decoder.layers[0]
    attention, rope = layer.self_attention, layer.self_attention.rope
    writer.add_context_length(model.limits.context)
    writer.add_embedding_length(model.embed.dim)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(layer.mlp.width)
    writer.add_head_count(attention.heads)
    writer.add_head_count_kv(attention.kv_heads)
    writer.add_layer_norm_rms_eps(layer.norm.eps)
    writer.add_rope_dimension_count(attention.head_dim)
    writer.add_rope_freq_base(rope.theta if rope else 10000.0)
    writer.add_vocab_size(model.vocab)
    writer.add_tokenizer_model("no_vocab")


def _name(ours: str) -> str:
    stem = ours.removesuffix(".weight")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.weight"
    index, _, part = stem.removeprefix("decoder.layers.").partition(".")
    return f"blk.{index}.{NAMES[part]}.weight"


# --- running -------------------------------------------------------------------------------------


class Llama:
    """A contestant (`_worker.py`): contexts of one model, one for each length of past."""

    def __init__(self, order: dict[str, Any]) -> None:
        import llama_cpp

        self._api = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = Path(order["path"])
        if not path.exists():
            _make(path, order)
        self._threads = order["threads"]
        model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._model = model
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._contexts: dict[int, Any] = {}
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.about = {
            "runtime": f"llama-cpp-python {llama_cpp.__version__}",
            "isa": llama_cpp.llama_print_system_info().decode().strip(),
            "size": path.stat().st_size,
        }

    def prepare(self, past: int) -> Callable[[int], None]:
        fresh = past not in self._contexts
        context = self._context(past)
        if fresh and past:
            for first in range(0, past, 512):
                self._decode(context, [7] * min(512, past - first), first, "none")

        def step(count: int) -> None:
            self._decode(context, [7] * count, past, "all")
            self._api.llama_get_logits(context)
            memory = self._api.llama_get_memory(context)
            self._api.llama_memory_seq_rm(memory, 0, past, -1)

        return step

    def prefill(self, rows: int, chunk: int) -> None:
        """`chunk` is ours; llama.cpp takes up to 512 rows at once."""
        context = self._context(-1)
        self._api.llama_memory_clear(self._api.llama_get_memory(context), False)
        for first in range(0, rows, 512):
            count = min(512, rows - first)
            last = first + count == rows
            self._decode(context, [7] * count, first, "last" if last else "none")
        self._api.llama_get_logits(context)

    def logits(self, tokens: list[int]) -> np.ndarray:
        context = self._context(-1)
        self._api.llama_memory_clear(self._api.llama_get_memory(context), False)
        parts = []
        for first in range(0, len(tokens), 512):
            part = tokens[first : first + 512]
            self._decode(context, part, first, "all")
            found = self._api.llama_get_logits(context)
            parts.append(np.ctypeslib.as_array(found, (len(part), self._vocab)).copy())
        return np.concatenate(parts)

    def _context(self, past: int) -> Any:
        if past not in self._contexts:
            parameters = self._api.llama_context_default_params()
            parameters.n_ctx = max(past, 512) + 64
            parameters.n_batch = parameters.n_ubatch = 512
            parameters.n_threads = parameters.n_threads_batch = self._threads
            parameters.no_perf = True
            context = self._api.llama_init_from_model(self._model, parameters)
            if not context:
                raise SystemExit("llama.cpp gives no context")
            self._contexts[past] = context
        return self._contexts[past]

    def _decode(self, context: Any, tokens: list[int], start: int, logits: str) -> None:
        batch, count = self._batch, len(tokens)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = logits == "all" or (logits == "last" and i == count - 1)
        status = self._api.llama_decode(context, batch)
        if status:
            raise SystemExit(f"llama_decode gives {status}")


def _make(path: Path, order: dict[str, Any]) -> None:
    """The file that the order describes: a random one of a shape, or a checkpoint's weights."""
    if "shape" in order:
        from edgedec.benchmark.shapes import architecture

        write_random(path, architecture(order["shape"]))
        return
    from edgedec.export.source import open_source

    source = open_source(order["checkpoint"])
    write_weights(path, source.architecture, source.weights, order["type"])
