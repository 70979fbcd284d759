"""The options of a retrieval run, with the names of the flags, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs

# The names of ctr/retrieval/index/ are not imported here: that package loads numerical libraries.
INDEX_KINDS = ("exact", "hnsw", "ivfpq")
LARGEST_SEED = 2**63 - 1
_NARROWEST, _WIDEST = 4, 4_096


@dataclass(frozen=True)
class RetrievalConfig:
    """Options of a run.

    Attributes:
        events: what users did: histories, and what is learnt and measured.
        out: the run folder to write.
        items: the catalogue: what can be retrieved, and its categories. Without it, what the embedding set
            holds; without that, the items of the training period.
        users: a table that context columns may stand in.
        embeddings: an embedding set of items; none for ids (and categories) only.
        test: a table of events, or of impressions (those with label 1), to measure on. Nothing that a user
            did from his first row in it on is learnt from.
        test_share: without `test`: the latest share of what could be learnt from, split at one moment for
            everybody.
        validation_share: the share to stop by, before the test period: the latest rows, or with `test` the
            last rows of some users.
        targets: kinds of `event` that are learnt and measured (also in a `test` of events with kinds),
            the others stand in histories only; empty: all kinds.
        categorical, numeric: context columns of events or users, known when candidates are asked for.
        mask_history: whether candidates that the user had before are left out, in training, in measuring and
            later.
        history: the longest history that the user tower sees.
        dim: width of the vectors that users and items meet in.
        embedding_dim: width of the trained ids.
        min_count: ids seen less often in training share the unknown row.
        unknown_share: share of the ids that each step takes for unknown, so that new items, whose ids say
            nothing, are retrieved by their content.
        uniform_share: share of uniform draws among the negatives; the others are the batch's other targets.
        batch_size: rows of a step, over all processes together. None means 1,024, or less on little data.
        epochs: passes at most.
        patience: how many epochs in a row may bring no better validation recall.
        learning_rate: of the dense parts (Adam).
        sparse_learning_rate: of the trained tables (row-wise Adagrad).
        index: the kind of index to build over the items: `exact`, `hnsw` or `ivfpq`.
        requests: the most test requests; more are sampled.
        seed: of initial values and of all draws.
        seeds: how many seeds to train, from `seed` on; metrics are their means.
        checkpoint_minutes: the least time between two checkpoints.
    """

    events: Path | str
    out: Path | str
    items: Path | str | None = None
    users: Path | str | None = None
    embeddings: Path | str | None = None
    test: Path | str | None = None
    test_share: float = 0.1
    validation_share: float = 0.05
    targets: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    mask_history: bool = True
    history: int = 50
    dim: int = 64
    embedding_dim: int = 32
    min_count: int = 1
    unknown_share: float = 0.1
    uniform_share: float = 0.5
    batch_size: int | None = None
    epochs: int = 20
    patience: int = 2
    learning_rate: float = 2e-3
    sparse_learning_rate: float = 0.05
    index: str = "exact"
    requests: int = 20_000
    seed: int = 0
    seeds: int = 1
    checkpoint_minutes: float = 5.0


def check(config: RetrievalConfig) -> None:
    """Check the options.

    Raises:
        UserError: an option that cannot be used, or an output among the inputs.
    """
    for name in ("history", "dim", "embedding_dim", "min_count", "epochs", "patience", "requests", "seeds"):
        _at_least(config, name, 1)
    if config.batch_size is not None:
        # A target's negatives are the others of its batch.
        _at_least(config, "batch_size", 2)
    _at_least(config, "seed", 0)
    if config.seed + config.seeds - 1 > LARGEST_SEED:
        raise UserError(f"--seed {config.seed} --seeds {config.seeds}: expected seeds below 2^63")
    for name in ("dim", "embedding_dim"):
        if getattr(config, name) > _WIDEST:
            raise UserError(f"{_flag(name)} {getattr(config, name)}: expected at most {_WIDEST}")
    if config.dim < _NARROWEST:
        # Two coordinates are popularity's.
        raise UserError(f"--dim {config.dim}: expected at least {_NARROWEST}")
    if config.embedding_dim % 4:
        # A limit of fbgemm's kernels; a model should not train in one engine only.
        raise UserError(f"--embedding-dim {config.embedding_dim}: expected a multiple of 4")
    for name in ("test_share", "validation_share"):
        if not 0 < getattr(config, name) < 1:
            raise UserError(f"{_flag(name)} {getattr(config, name)}: expected a share between 0 and 1")
    for name in ("unknown_share", "uniform_share"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{_flag(name)} {getattr(config, name)}: expected a number from 0 to below 1")
    for name in ("learning_rate", "sparse_learning_rate"):
        if not 0 < getattr(config, name) < float("inf"):
            raise UserError(f"{_flag(name)} {getattr(config, name)}: expected a number above 0")
    if not 0 <= config.checkpoint_minutes < float("inf"):
        raise UserError(f"--checkpoint-minutes {config.checkpoint_minutes}: expected a number of at least 0")
    check_kind(config.index)
    inputs = ("events", "items", "users", "embeddings", "test")
    refuse_inside_inputs(config.out, [(_flag(name), getattr(config, name)) for name in inputs])


def check_kind(kind: str) -> None:
    """Refuse a kind of index that there is not.

    Raises:
        UserError: names those that there are.
    """
    if kind not in INDEX_KINDS:
        raise UserError(f"--index {kind}: expected one of {', '.join(INDEX_KINDS)}")


def plain_options(config: RetrievalConfig) -> Mapping[str, object]:
    """The options as JSON and YAML can hold them."""
    return {name: _plain(value) for name, value in vars(config).items()}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _at_least(config: RetrievalConfig, name: str, least: int) -> None:
    if getattr(config, name) < least:
        raise UserError(f"{_flag(name)} {getattr(config, name)}: expected a whole number of at least {least}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
