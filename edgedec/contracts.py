"""The seams of edgedec: what a runtime offers, what a drafter is, and what passes between them.

Read this first, then `decode.py`, the loop that stands between runtimes and strategies: neither
knows the other. What a model *is* stands in `architecture.py`, what export *writes* in
`manifest.py`, what runtimes look like in `devices.py`.

A session is a tree of rows. Committed rows are the trunk; rows since then are *living* and have
handles 0, 1, 2, ... in the order in which they were stepped: a step of n rows takes the next n.
`keep` ends that numbering: survivors become trunk or are renumbered from 0, the rest is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgedec.architecture import Architecture
    from edgedec.parts import Part
    from edgedec.text import Text

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]

TRUNK = -1
"""The handle of the last trunk row, as a parent."""

Layers = tuple[range, ...]
"""The layers a row runs through: (range(0, 3),) exits early, two ranges skip the middle."""

Exactness = Literal["bitwise", "token"]
"""`bitwise`: a row's numbers do not depend on its neighbours; `token`: but for near ties."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The input of one step: n rows, parents before children.

    `tokens` [n] are ids (V and above are learned ids); with `hidden` [n, D] the rows enter with
    those vectors instead. `parents` [n] are handles, or TRUNK. `positions` [n] default to the
    parent's + 1. `visible[i]` names living rows that row i sees besides trunk, path and itself.
    """

    tokens: Ints
    parents: Ints
    positions: Ints | None = None
    hidden: Floats | None = None
    visible: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True, slots=True)
class Want:
    """What a step must be able to answer; what is not asked for is not computed.

    `logits`: the rows (indices in the step) that get logits, None for all of them.
    `hidden`: layers whose outputs are wanted (0: the embedding, L: the last, before the norm).
    """

    logits: tuple[int, ...] | None = None
    hidden: tuple[int, ...] = ()


class StepResult(Protocol):
    """The outcome of one step; arrays are views, valid until the session's next step.

    `i` and `rows` count the rows of the step; those without logits raise an IndexError.
    """

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step."""

    @property
    def astray(self) -> Set[int]:
        """Rows that may differ a little from those of plain decoding, and are better not kept."""

    def argmax(self) -> Ints:
        """The most likely token of each row [n]; -1 where no logits were wanted."""

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row with logits, largest first: ids and values [m, k]."""

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""

    def hidden(self, layer: int) -> Floats:
        """The hidden states of all rows at a layer that was wanted [n, D]."""


class Session(Protocol):
    """One conversation with one model: a trunk, living rows, and their keys and values."""

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids of the trunk."""

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> StepResult:
        """Run new rows through the model (`layers` None: all of it); the trunk is not touched.
        Rows that ran a skipping set of layers are scratch: seen only by rows of the same set.

        Raises:
            InputError: the rows do not fit into the context that is left.
            UsageError: a parent, position, layer range or id that does not exist.
        """

    def resume(
        self, handles: Sequence[int], layers: Layers, want: Want | None = None
    ) -> StepResult:
        """Run living rows, which ran the layers before, through further layers."""

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Let the leaves and their ancestors live on and drop all other living rows.

        What is common to all leaves becomes trunk. Returns the leaves' new handles (TRUNK for the
        trunk's end). The only way to grow the trunk; `keep([TRUNK])` drops every living row.

        Raises:
            UsageError: a kept row has not run every layer.
        """

    def truncate(self, length: int) -> None:
        """Cut the trunk to its first `length` rows and drop all living rows."""

    @property
    def source_rows(self) -> int:
        """How many rows the encoder gave; 0 before `encode` and without an encoder."""

    @property
    def source_key(self) -> str:
        """A digest of what `encode` was given; empty before."""

    @property
    def source_states(self) -> Floats | None:
        """The encoder's rows [n, D] before its final norm; None where they are not kept."""

    def encode(self, source: Ints | Floats) -> None:
        """Run the encoder over a source (ids, or features [n, F]) and keep what it gives.

        The trunk begins anew, as after `truncate(0)`; the source that is held costs nothing again.

        Raises:
            InputError: an empty source, or one longer than the model's limit.
            UsageError: no encoder, or a source of another form than it reads.
        """

    def save(self, path: Path) -> None:
        """Write trunk, keys, values and encoder output to a safetensors file."""

    def load(self, path: Path) -> None:
        """Take over a saved trunk.

        Raises:
            StateError: it belongs to another bundle, runtime, layout or key/value type.
        """

    def fork(self) -> Session:
        """A second session with a copy of this trunk; the weights are shared."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runtime can do with the model it has open.

    `prompt_rows`: how many rows of a prompt a step should take (more are not faster, or too big).
    `row_widths`: the only numbers of rows a step may have (the loop pads), None for any. `cuts`:
    layers at which a range may begin or end. `hidden_layers`: layers whose output can be wanted.
    `source_states`: an encoder's is there to read. `kv_types`: storage of keys and values, the
    default first.
    """

    max_rows: int
    prompt_rows: int = 32
    row_widths: tuple[int, ...] | None = None
    cuts: tuple[int, ...] = ()
    resume: bool = False
    hidden_layers: tuple[int, ...] = ()
    learned_ids: bool = False
    encoder: bool = False
    source_states: bool = False
    roots: int = 1
    exactness: Exactness = "token"
    kv_types: tuple[str, ...] = ("fp32",)


class Engine(Protocol):
    """A bundle opened by a runtime: the weights, shared by its sessions."""

    @property
    def capabilities(self) -> Capabilities:
        """What this runtime can do with this bundle."""

    def steady(self) -> bool:
        """Whether rows are the same whatever shares their step, as far as trying shows."""

    def session(self) -> Session:
        """A new, empty session."""

    def learn(self, vectors: Floats) -> int:
        """Embeddings [count, D] for new ids, V and above; the first. The same have the same ids."""

    def close(self) -> None:
        """Give the weights back; its sessions end with it."""


@dataclass(frozen=True, slots=True)
class Began:
    """Living rows that ran the first `layer` layers, from where the step resumes.

    `handles[0]` is the row of the last token, `handles[i + 1]` that of node i; -1: it has none.
    """

    layer: int
    handles: Sequence[int]


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed continuations as a tree of n nodes, parents first (-1: follows the last token).

    `score[n]` is the drafter's uncalibrated probability of a node given its parent, `rank[n]` its
    place among its siblings. `began`: some of its rows have run their early layers.

    Riders are learned ids that hang below a node as a chain, are never emitted, and prepare the
    next draft: `riders[0]` below the last token, `riders[i + 1]` below node i. `gains[j]` is what
    the j-th rider of the node accepted last is expected to add to the next turn, in tokens. The
    planner checks as many as pay, those of the last token also below nodes of others. With `lanes`
    they are as many chains: rider j hangs below rider j - lanes.

    A `whole` draft is checked as it is, neither merged nor pruned. `law` [n + 1, V], from which the
    children of the root and of each node were drawn without replacement, lets it be accepted by
    recursive rejection.
    """

    tokens: Ints
    parents: Ints
    score: Floats
    rank: Ints
    riders: Sequence[Sequence[int]] | None = None
    gains: Sequence[float] = ()
    whole: bool = False
    law: Floats | None = None
    lanes: int = 1
    began: Began | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the loop must collect for a drafter: top-k per row, hidden layers, cuts to run at."""

    topk: int = 0
    hidden: tuple[int, ...] = ()
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What an encoder has read, as ids and as text; both are empty where it has read sound."""

    tokens: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a drafter may look at: all tokens so far, and how many of them were the prompt (with an
    encoder: what the decoder begins with, `source` being what the encoder has read).

    The session has not run the last `pending` of the tokens: one, or a prompt's end. They only grow
    between two calls of `Drafter.reset`. At a `temperature` above 0 they are drawn with the noise
    that `edgedec.gumbel` makes of seed and output index; a drafter with probabilities q of its own
    guesses best by the largest log q / temperature + noise.
    """

    tokens: list[int]
    prompt_length: int
    seed: int
    temperature: float = 0.0
    source: Source | None = None
    pending: int = 1

    @property
    def index(self) -> int:
        """The output index of the next token."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True, slots=True)
class Outcome:
    """One turn of the loop, told to every drafter.

    `tree` is what was checked, its node i being step row i + 1 (row 0 is the last token before),
    its riders the rows after the nodes, in the order of their lists; `accepted` the nodes on the
    accepted path; `emitted` the tokens that came after those of `context`. `topk` [rows, k] and
    `hidden` [rows, D] hold what the strategies' `Needs` asked for. `worth[i]`, if riders were
    offered, is what checking node i promised those who offered them: its probability less the price
    of its row, in tokens, and of that their share. The arrays are views.
    """

    tree: Draft
    context: Context
    accepted: tuple[int, ...]
    emitted: tuple[int, ...]
    topk: tuple[Ints, Floats] | None = None
    hidden: dict[int, Floats] = field(default_factory=dict)
    worth: Sequence[float] = ()


class Host(Protocol):
    """The only door from a drafter to a model: scratch work, and other models. It cannot keep."""

    @property
    def text(self) -> Text | None:
        """The tokenizer of what the decoder writes; None where a model runs without text."""

    @property
    def architecture(self) -> Architecture:
        """The model being decoded."""

    @property
    def capabilities(self) -> Capabilities:
        """What its runtime can do."""

    @property
    def rows(self) -> int:
        """How many scratch rows there are in this turn: the next one gets this handle."""

    @property
    def source_states(self) -> Floats | None:
        """That of the session."""

    def data(self, strategy: str) -> Path | None:
        """The bundle's `strategies/<strategy>.safetensors`, if there is one."""

    def part(self, strategy: str) -> Part | None:
        """What a strategy had trained for this bundle, opened; None where there is none.

        Raises:
            StateError: it is damaged, or was made for another bundle.
            UnsupportedError: nothing here can run it.
        """

    def learn(self, vectors: Floats) -> int:
        """Learned ids for these embeddings [count, D]; the first. The same have the same ids."""

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> StepResult:
        """Scratch rows in the session that decodes."""

    def load(self, bundle: str) -> Engine:
        """Open a draft model."""


class Drafter(Protocol):
    """The state of one strategy in one conversation.

    One that needs hidden states has `read(start, hidden)` as well: it is told those of the rows
    `start`, `start + 1`, ... that ran without its being asked: a prompt's, and of turns in which
    others were. Turns in which nobody was asked it never hears of.
    """

    def propose(self, context: Context, budget: int) -> Draft:
        """Up to `budget` nodes that may follow the context; none is a fine answer."""

    def observe(self, outcome: Outcome) -> None:
        """Learn from what was checked, in a turn in which it was asked to propose."""

    def reset(self) -> None:
        """Forget the conversation."""


class Strategy(Protocol):
    """A way of drafting with its options: a frozen dataclass, one file in `strategies/`.

    `automatic` says whether the strategy `auto` includes it: it needs no option to be given. One
    that has a `trained = True` is included where its part in the bundle says so.
    """

    automatic: ClassVar[bool]

    @property
    def lossy(self) -> bool:
        """Whether its output may differ from plain decoding."""

    def needs(self, host: Host) -> Needs:
        """What it needs from the loop.

        Raises:
            UnsupportedError: this model, bundle or runtime lacks something; the message names it.
        """

    def open(self, host: Host) -> Drafter:
        """Begin a conversation."""
