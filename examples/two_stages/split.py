"""What all stages may learn from and what they are asked, by one cut in time per user, made beforehand.

A user's cut is the moment of his first test impression; users without one are cut at the earliest of all.
What is written holds nothing from the cut on but the answers:

before    events earlier than their user's cut: histories, what encoder and towers learn from
shown     impressions of the training table earlier than the cut: what the click model learns from
answers   what a user took from his cut on and had not had before, each item once, dated at the cut, label 1
requests  the users who have an answer, at their cuts

Legend: R rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from encoders.pairs import HeldOut
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.ids import codes_of
from moonrec.tables import EVENTS, IMPRESSIONS, Table, open_table

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Split:
    """Where the tables stand."""

    before: Path
    shown: Path
    answers: Path
    requests: Path


def split_at_the_test(data: Path, out: Path, targets: Sequence[str]) -> Split:
    """Write the four tables.

    Args:
        data: a folder with `events`, `impressions_train` and `impressions_test`.
        out: the folder to write into.
        targets: kinds of `event` that count as taking; none: all.

    Raises:
        UserError: a table is missing or damaged, or nobody took anything new in the test period.
    """
    events = open_table(data / "events.parquet", EVENTS)
    train = open_table(data / "impressions_train.parquet", IMPRESSIONS)
    cuts = HeldOut(open_table(data / "impressions_test.parquet", IMPRESSIONS))
    kinds = ["event"] if "event" in events.column_names else []
    log = events.read(["user_id", "item_id", "timestamp", *kinds])
    cut_R = cuts.limits(log["user_id"])
    early_R = log["timestamp"].to_numpy() < cut_R
    answers = _answers(log, early_R, _is_wanted(events, log, targets), cut_R)
    impressions = train.read(["user_id", "item_id", "timestamp", "label"])
    old_R = impressions["timestamp"].to_numpy() < cuts.limits(impressions["user_id"])

    out.mkdir(parents=True, exist_ok=True)
    before, shown, answers_path, requests = (out / f"{name}.parquet" for name in _NAMES)
    split = Split(before, shown, answers_path, requests)
    _write(split.before, log.filter(pa.array(early_R)))
    _write(split.shown, impressions.filter(pa.array(old_R)))
    _write(split.answers, answers)
    _write(
        split.requests,
        answers.select(["user_id", "timestamp"]).group_by(["user_id", "timestamp"]).aggregate([]),
    )
    return split


_NAMES = ("before", "shown", "answers", "requests")


def _is_wanted(events: Table, log: pa.Table, targets: Sequence[str]) -> NDArray[np.bool_]:
    if not targets:
        return np.ones(len(log), bool)
    if "event" not in log.column_names:
        raise UserError(f"{events.path}: has no column 'event' to find --targets {','.join(targets)} in")
    found = pc.is_in(log["event"].cast(pa.string()), value_set=pa.array(targets, pa.string()))
    return np.asarray(found.to_numpy())


def _answers(
    log: pa.Table, early_R: NDArray[np.bool_], wanted_R: NDArray[np.bool_], cut_R: NDArray[np.int64]
) -> pa.Table:
    """The new items that each user took from his cut on."""
    user_R, _ = codes_of(log["user_id"])
    item_R, items = codes_of(log["item_id"])
    pair_R = user_R * len(items) + item_R
    (late,) = np.nonzero(~early_R & wanted_R)
    fresh = late[~np.isin(pair_R[late], pair_R[early_R])]
    _, first = np.unique(pair_R[fresh], return_index=True)
    chosen = fresh[first]
    if not len(chosen):
        raise UserError("nobody took anything new in the test period; see --targets, or give more events")
    columns: Mapping[str, object] = {
        "user_id": log["user_id"].take(chosen),
        "item_id": log["item_id"].take(chosen),
        "timestamp": cut_R[chosen],
        "label": np.ones(len(chosen), np.int64),
    }
    return pa.table(columns)


def _write(path: Path, table: pa.Table) -> None:
    place = table.schema.get_field_index("timestamp")
    table = table.set_column(place, "timestamp", table["timestamp"].cast(_TIME))
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)
