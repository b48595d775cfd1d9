"""A bundle opened by ONNX Runtime: its graphs, shared by all sessions. It knows no tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from edgedec import __version__
from edgedec.bundle import Bundle
from edgedec.contracts import Capabilities
from edgedec.errors import BundleError, UsageError
from edgedec.runtimes._learned import Learned

from .bindings import Parts
from .encoder import Encoder
from .inplace import in_place
from .segments import (
    Loaded,
    blocks,
    check_chain,
    check_size,
    crossing,
    layer_names,
    load,
    windows,
)
from .session import OnnxSession
from .trying import is_steady

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Floats
    from edgedec.manifest import OnnxForm, Segment

MAX_ROWS = 512

PROMPT_ROWS = 32
"""At the 135M shape and 1900 tokens 32 rows took 4.2 s, and 512 rows 6.0 s and 150 MB more."""


class Onnx:
    """See `edgedec.contracts.Engine`.

    Raises:
        BundleError: no ONNX form, or graphs that are not steps of the manifest's architecture.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        form = bundle.manifest.forms.onnx
        if form is None:
            raise BundleError(f"{bundle.path.name} holds no ONNX form: export it with --form onnx")
        self.threads = threads
        self.architecture = bundle.manifest.architecture
        self.identity = {"bundle": bundle.hash, "runtime": "onnx", "keys_and_values": "fp32"}
        check_chain(form, self.architecture.layers)
        options = session_options(threads)
        if self.architecture.encoder is not None:
            # It keeps a plan of the memory for every shape, and each source has another length: 300
            # sources left 190 MB behind. Steps and encoder are as fast without.
            options.enable_mem_pattern = False
        self._segments: list[Loaded] | None = [
            _segment(spec, bundle, options, form.hidden) for spec in form.segments
        ]
        self._encoder = _encoder(bundle, form, options)
        check_size(bundle.manifest)
        self.learned = Learned(self.architecture.vocab, self.architecture.embed.dim)
        self._sessions: WeakSet[OnnxSession] = WeakSet()
        self._steady: bool | None = None
        self.capabilities = _capabilities(form, self.architecture)

    @property
    def parts(self) -> Parts:
        """What sessions bind.

        Raises:
            UsageError: the engine was closed.
        """
        if self._segments is None:
            raise UsageError("the model was closed: load it again")
        return Parts(
            self._segments,
            windows(self.architecture),
            self.architecture.decoder.layers[0].self_attention.bias_table,
            self.architecture.embed.dim,
            self.architecture.vocab,
        )

    @property
    def encoder(self) -> Encoder | None:
        """The encoder, if the model has one.

        Raises:
            UsageError: the engine was closed.
        """
        if self.closed:
            raise UsageError("the model was closed: load it again")
        return self._encoder

    @property
    def closed(self) -> bool:
        """Whether the weights were given back."""
        return self._segments is None

    @property
    def version(self) -> str:
        """Another one may take another time for a step: edgedec's and ONNX Runtime's."""
        import onnxruntime

        return f"{__version__} onnxruntime {onnxruntime.__version__}"

    def steady(self) -> bool:
        """Whether rows are the same bits in steps of any width: tried once, in some steps."""
        if self._steady is None:
            self._steady = not self.capabilities.encoder and is_steady(self.session())
        return self._steady

    def session(self) -> OnnxSession:
        """A new, empty session."""
        session = OnnxSession(self)
        self._sessions.add(session)
        return session

    def learn(self, vectors: Floats) -> int:
        """Embeddings [count, D] for new ids; returns the first. The same have the same ids.

        Raises:
            UsageError: another width than the model's, or no vector.
        """
        return self.learned.learn(vectors)

    def close(self) -> None:
        """Give the weights back."""
        self._segments = None
        self._encoder = None
        for session in self._sessions:
            session.close()


def session_options(threads: int) -> Any:
    """Options for a short step, alone or as one of several segments."""
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads spin while a segment runs; spinning on, they would hold back the next segment's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _encoder(bundle: Bundle, form: OnnxForm, options: Any) -> Encoder | None:
    architecture = bundle.manifest.architecture
    if architecture.encoder is None and crossing(architecture):
        raise BundleError(
            f"{bundle.path.name}: the decoder looks at an encoder that is not there: export again"
        )
    if (form.encoder is None) != (architecture.encoder is None):
        there, missing = ("model", "ONNX form") if form.encoder is None else ("ONNX form", "model")
        raise BundleError(
            f"{bundle.path.name}: the {there} has an encoder, the {missing} has none: export again"
        )
    if form.encoder is None:
        return None
    return Encoder(form.encoder, _session(bundle.file(form.encoder), options), architecture)


def _segment(spec: Segment, bundle: Bundle, options: Any, hidden: tuple[int, ...]) -> Loaded:
    path, architecture = bundle.file(spec.file), bundle.manifest.architecture
    held = layer_names("past", blocks(spec, architecture))
    try:
        graph = in_place(path.read_bytes(), {name: held[name][0].heads for name in held})
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError) as error:
        raise BundleError(
            f"{path.name} cannot be loaded by ONNX Runtime, it is no step of this model "
            f"({error}): export again"
        ) from None
    # The weights lie in a file beside the graph's.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    return load(spec, _session(path, options, graph), architecture, hidden)


def _session(path: Path, options: Any, graph: bytes | None = None) -> Any:
    from onnxruntime import InferenceSession

    try:
        return InferenceSession(
            graph or str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common class of their own.
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path.name} cannot be loaded by ONNX Runtime: {reason}") from None


def _capabilities(form: OnnxForm, architecture: Architecture) -> Capabilities:
    layers = architecture.layers
    edges = {segment.last for segment in form.segments if not segment.head}
    return Capabilities(
        # The rotary tables end with the context, and ONNX Runtime refuses more rows than they have.
        max_rows=min(MAX_ROWS, architecture.limits.context),
        prompt_rows=PROMPT_ROWS,
        cuts=tuple(sorted(edges - {layers})),
        resume=len(form.segments) > 1,
        hidden_layers=tuple(sorted({*form.hidden, *edges})),
        learned_ids=True,
        encoder=architecture.encoder is not None,
        exactness="token",
        kv_types=("fp32",),
    )
