"""The three axes that `moonrec scaling` knows: what is varied, what x is, and what is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from moonrec.errors import UserError
from moonrec.study.settings import near

_TASKS = ("image_to_item", "text_to_item", "item_to_item", "image_to_text", "text_to_image")
_KINDS = (*(f"{name}@{k}" for name in ("hit", "recall") for k in (1, 5, 10, 50)), "mrr", "ndcg@10")
_RETRIEVAL = tuple(f"retrieval.{task}.{kind}" for task in _TASKS for kind in _KINDS)
# Levels and attributes are named by the catalogue.
_OPEN_GROUPS = ("classification.", "attributes.")
_OPEN_KINDS = (".accuracy", ".f1")
FEWEST = 3
"""Points without which there is nothing to fit."""


@dataclass(frozen=True)
class Axis:
    """What is varied and what is measured.

    Attributes:
        name: in `--axis`.
        command: the moonrec command that makes a cell, and whose options `--set` takes.
        x_label: of tables and plots.
        points_are: what `--points` counts.
        metrics: measured if no other is asked for.
        known: all that can be asked for, but for those named by the catalogue.
        recipe: options that differ from the command's defaults.
        own: options that the axis sets by itself.
        tables: flags of the tables that must be given, and those that may be.
        reading: for readers: how x is counted, and what was held constant.
    """

    name: str
    command: str
    x_label: str
    points_are: str
    metrics: tuple[str, ...]
    known: tuple[str, ...]
    own: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    reading: str
    recipe: Mapping[str, str] = field(default_factory=dict)


_ALWAYS = (
    "items", "searches", "events", "holdout", "impressions", "test", "embeddings", "out", "seed", "seeds",
    "device", "cache", "no_cache", "json", "config",
)  # fmt: skip
_TRAINING = ("patience", "keep_epochs", "heatmaps")
_LAST = (
    "Early stopping is off: every cell trains all of its epochs at a constant learning rate, and its last "
    "weights are tested, not those of the best epoch."
)

TOKENS = Axis(
    name="tokens",
    command="posttrain",
    x_label="training tokens",
    points_are="training pairs",
    metrics=("retrieval.image_to_item.hit@10",),
    known=_RETRIEVAL,
    own=(*_ALWAYS, *_TRAINING, "epochs", "pairs_per_epoch"),
    required=("items", "test"),
    optional=("searches", "events", "holdout"),
    recipe={"rounds": "1"},
    reading="x counts the tokens (cells or patches of pictures, word pieces) that went through the encoder "
    "with gradients, of both sides of every pair and of hard negatives, repeated passes included; validation "
    f"is not counted. {_LAST}",
)
NEGATIVES = Axis(
    name="negatives",
    command="posttrain",
    x_label="negatives per query",
    points_are="negatives per query",
    metrics=("retrieval.image_to_item.hit@10",),
    known=_RETRIEVAL,
    own=(*_ALWAYS, *_TRAINING, "queue"),
    required=("items", "test"),
    optional=("searches", "events", "holdout"),
    recipe={"rounds": "2", "batch_size": "64", "epochs": "4"},
    reading="x counts the other pairs of the batch, the hard negatives of the whole batch, and the queue "
    "when it is full; those that are the query's own product or were taken by the same user are among them, "
    "though the loss leaves them out. The queue is what is varied: a larger batch would also change the "
    f"number of steps. Pairs seen are the same in all cells. {_LAST}",
)
HISTORY = Axis(
    name="history",
    command="train-ctr",
    x_label="longest history",
    points_are="behaviours",
    metrics=("test.auc", "test.gauc"),
    known=("test.auc", "test.gauc"),
    own=(*_ALWAYS, "history", "users", "query_embeddings", "cross", "validation"),
    required=("impressions", "test", "events", "embeddings"),
    optional=("items",),
    reading="x is the longest history that a row may see (`train-ctr --history`); rows of users with fewer "
    "behaviours see fewer, so the mean history really seen grows more slowly than x.",
)
AXES: Mapping[str, Axis] = {axis.name: axis for axis in (TOKENS, NEGATIVES, HISTORY)}


def chosen_axis(name: str) -> Axis:
    """The axis of that name.

    Raises:
        UserError: there is none.
    """
    if name not in AXES:
        raise UserError(f"--axis {name}: no such axis; expected one of {', '.join(AXES)}")
    return AXES[name]


def chosen_metrics(axis: Axis, names: Sequence[str]) -> tuple[str, ...]:
    """The metrics asked for, or the axis's own.

    Raises:
        UserError: one that the axis does not measure, or one that is given twice.
    """
    for name in names:
        if name not in axis.known and not (axis.command == "posttrain" and _of_catalogue(name)):
            raise UserError(f"--metric {name}: {axis.name} has no such metric; {near(name, axis.known)}")
        if names.count(name) > 1:
            raise UserError(f"--metric {name}: given twice; name it once")
    return tuple(names) or axis.metrics


def check_tables(axis: Axis, given: Iterable[str]) -> None:
    """Raise a `UserError` for a table that the axis needs and lacks, or one that it does not read.

    Args:
        axis: what is varied.
        given: flags of the tables given, without dashes.
    """
    given = set(given)
    for name in axis.required:
        if name not in given:
            raise UserError(f"--axis {axis.name} needs --{name}; give it")
    for name in sorted(given - {*axis.required, *axis.optional}):
        raise UserError(
            f"--{name}: is not read with --axis {axis.name}, which takes "
            f"{', '.join(f'--{one}' for one in (*axis.required, *axis.optional))}; leave it out"
        )
    if axis.command == "posttrain" and not {"searches", "events"} & given:
        raise UserError(f"--axis {axis.name} needs --searches, --events, or both, to train on")


def check_points(axis: Axis, points: Sequence[int]) -> None:
    """Raise a `UserError` for points that are not increasing whole numbers of at least 1, or too few."""
    for point in points:
        if point < 1:
            raise UserError(f"--points {point}: expected whole numbers of at least 1 ({axis.points_are})")
    for before, after in pairwise(points):
        if after <= before:
            raise UserError(f"--points {before},{after}: expected increasing numbers ({axis.points_are})")
    if len(points) < FEWEST:
        raise UserError(
            f"--points {','.join(map(str, points))}: expected at least {FEWEST} points for the log law and 4 "
            "for the power law; name more"
        )


def _of_catalogue(name: str) -> bool:
    return name.startswith(_OPEN_GROUPS) and name.endswith(_OPEN_KINDS)
