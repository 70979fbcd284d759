"""The judge of `moonrec exchange-rate`: `moonrec train-ctr`, with the options that are left to choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moonrec.cli.command_flags import flags_of, read_flags
from moonrec.errors import UserError
from moonrec.exchange.judge import Judge
from moonrec.exchange.measure_clicks import FEWEST_IMPRESSIONS
from moonrec.study.settings import check_settings, parse_settings
from moonrec.table_spec import USERS
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, Table, open_table

# What `--judge` may not touch: it is exchange-rate's own, or would be another model per version.
_OWN = (
    "impressions", "test", "events", "items", "embeddings", "query_embeddings", "cross", "seed", "seeds",
    "out", "json", "config",
)  # fmt: skip
# In the judge's identity by content, by the version, or not at all.
_BY_CONTENT = (
    "impressions", "test", "events", "items", "users", "validation", "embeddings", "query_embeddings",
    "seed", "seeds", "out", "checkpoint_minutes",
)  # fmt: skip
_ROW = ["user_id", "item_id", "timestamp"]
# Ours: of coarse times and repeated impressions; more is no accident.
_MOST_SHARED = 0.01
_SPECS = {
    "impressions": IMPRESSIONS, "test": IMPRESSIONS, "events": EVENTS, "items": ITEMS, "users": USERS,
    "validation": IMPRESSIONS,
}  # fmt: skip


@dataclass(frozen=True)
class ClickModel:
    """The judge with its tables open.

    Attributes:
        config: a `ctr.config.TrainConfig` without vectors.
        tables: all that it reads, by option.
    """

    config: Any
    tables: Mapping[str, Table]

    def judge(self) -> Judge:
        """What decides its results, as reports tell it."""
        options = {name: value for name, value in vars(self.config).items() if name not in _BY_CONTENT}
        return Judge(
            options=json.loads(json.dumps(options, default=str)),
            inputs={name: table.fingerprint() for name, table in self.tables.items()},
            seeds=self.config.seeds,
        )

    def run(self, vectors: Path | None, out: Path) -> None:
        """Train it on the vectors of a version, or on ids alone."""
        from ctr.train import train_ctr

        content = self.config.content if vectors is not None else ("none",)
        embeddings = str(vectors) if vectors is not None else ()
        train_ctr(replace(self.config, embeddings=embeddings, content=content, out=str(out)))


def click_model(tables: Mapping[str, str], out: str, seeds: int, given: Sequence[str]) -> ClickModel:
    """The judge from its tables and the texts `NAME=VALUE` of `--judge`.

    Raises:
        UserError: an option that train-ctr does not have or that is not free, a value that cannot be, tables
            that cannot be opened, a test table that is the training's, or test rows of one class.
    """
    from ctr.config import TrainConfig, resolved

    flags = parse_settings(given, "--judge", "train-ctr")
    check_settings(flags, "--judge", flags_of("train-ctr"), _OWN, "train-ctr", "exchange-rate")
    options = {**read_flags("train-ctr", flags, "--judge"), **tables, "out": out, "seeds": seeds, "seed": 0}
    if "none" in (options["content"] or ()):
        raise UserError("--judge content=none: reads no vectors, so it cannot judge them; choose content")
    # Checked as it is run, beside vectors that are not there yet.
    config = replace(resolved(TrainConfig(**{**options, "embeddings": f"{out}.vectors"})), embeddings=())
    named = {name: getattr(config, name) for name in _SPECS}
    opened = {name: open_table(path, _SPECS[name]) for name, path in named.items() if path is not None}
    _check_tables(opened)
    return ClickModel(config, opened)


def leak_notes(tables: Mapping[str, Table]) -> list[str]:
    """Warnings where the judge learns from the time of its own test.

    Raises:
        UserError: many of the test rows are training rows.
    """
    train, test = tables["impressions"], tables["test"]
    learnt, tested = train.time_range, test.time_range
    if learnt is None or tested is None or learnt[1] < tested[0]:
        return []
    notes = [
        "Training impressions reach into the time of the test impressions: what the judge reaches may be "
        "optimistic for all versions alike."
    ]
    rows, shared = test.count_rows(), _shared_rows(train, test, tested)
    if shared > _MOST_SHARED * rows:
        raise UserError(
            f"--test {test.path}: {shared:,} of its {rows:,} rows (user, item, time) stand in --impressions "
            f"{train.path} too, so the judge would be tested on what it learnt; hold test rows out"
        )
    if shared:
        notes.append(f"{shared:,} of the {rows:,} test rows (user, item, time) are training rows too.")
    return notes


def _shared_rows(train: Table, test: Table, tested: tuple[int, int]) -> int:
    """How many rows of the test are the training's, by user, item and time; `tested` is the test's times."""
    rows = test.read(_ROW)
    begin, end = (pa.scalar(time, pa.int64()).cast(rows.schema.field("timestamp").type) for time in tested)
    late = [
        batch.filter(
            pc.and_(pc.greater_equal(batch["timestamp"], begin), pc.less_equal(batch["timestamp"], end))
        )
        for batch in train.batches(_ROW)
    ]
    learnt = pa.Table.from_batches(late, rows.schema)
    return len(rows.join(learnt, _ROW, join_type="left semi"))


def _check_tables(tables: Mapping[str, Table]) -> None:
    train, test = tables["impressions"], tables["test"]
    if train.fingerprint() == test.fingerprint():
        raise UserError(
            f"--test {test.path}: is the same table as --impressions {train.path}; expected other rows"
        )
    if test.count_rows() < FEWEST_IMPRESSIONS:
        raise UserError(
            f"--test {test.path}: has {test.count_rows():,} rows, too few for an AUC; give at least "
            f"{FEWEST_IMPRESSIONS}"
        )
    for option, table in (("--impressions", train), ("--test", test)):
        labels = table.read(["label"])["label"].unique().to_pylist()
        if len(labels) < 2:
            raise UserError(
                f"{option} {table.path}: all of its {table.count_rows():,} rows have the label "
                f"{labels[0] if labels else 'none'}; give clicks (1) and rows without one (0)"
            )
