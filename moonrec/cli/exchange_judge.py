"""The judge of `moonrec exchange-rate`: `moonrec train-ctr`, with the options that are left to choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from moonrec.ablation.plan import near
from moonrec.errors import UserError
from moonrec.exchange.judge import Judge
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

    options = {**_read(_parsed(given)), **tables, "out": out, "seeds": seeds, "seed": 0}
    if "none" in (options["content"] or ()):
        raise UserError("--judge content=none: reads no vectors, so it cannot judge them; choose content")
    # Checked as it is run, beside vectors that are not there yet.
    config = replace(resolved(TrainConfig(**{**options, "embeddings": f"{out}.vectors"})), embeddings=())
    named = {name: getattr(config, name) for name in _SPECS}
    opened = {name: open_table(path, _SPECS[name]) for name, path in named.items() if path is not None}
    _check_tables(opened)
    return ClickModel(config, opened)


def _check_tables(tables: Mapping[str, Table]) -> None:
    train, test = tables["impressions"], tables["test"]
    if train.fingerprint() == test.fingerprint():
        raise UserError(
            f"--test {test.path}: is the same table as --impressions {train.path}; expected other rows"
        )
    for option, table in (("--impressions", train), ("--test", test)):
        labels = table.read(["label"])["label"].unique().to_pylist()
        if len(labels) < 2:
            raise UserError(
                f"{option} {table.path}: all of its {table.count_rows():,} rows have the label "
                f"{labels[0] if labels else 'none'}; give clicks (1) and rows without one (0)"
            )


def _parsed(given: Sequence[str]) -> dict[str, str]:
    """`content=cube`, `simtier` (the part after a comma) to values by name."""
    known = [name for name in _flags() if name not in _OWN]
    found: dict[str, str] = {}
    last = ""
    for part in given:
        name, equals, value = part.partition("=")
        if not equals and last:
            found[last] += f",{part}"
            continue
        last = name.strip().lstrip("-").replace("-", "_")
        if not equals:
            raise UserError(f"--judge {part}: expected NAME=VALUE, an option of `moonrec train-ctr`")
        if last in _OWN:
            raise UserError(f"--judge {last}: is not set here, since exchange-rate gives it by itself")
        if last not in known:
            raise UserError(f"--judge {last}: `moonrec train-ctr` has no such option; {near(last, known)}")
        if last in found:
            raise UserError(f"--judge {last}: given twice; name it once")
        found[last] = value.strip()
    return found


def _read(flags: Mapping[str, str]) -> dict[str, Any]:
    """Flags as the command line of train-ctr reads them, and the defaults of all others."""
    from moonrec.cli.ranking import train_ctr

    names = _flags()
    required = [text for name in ("impressions", "test", "events", "out") for text in (f"--{name}", "")]
    try:
        context = train_ctr.make_context(
            "train-ctr", required, default_map={names[name]: value for name, value in flags.items()}
        )
    except click.UsageError as error:
        raise UserError(f"--judge: {error.format_message()}") from error
    return {name: value for name, value in context.params.items() if name != "json_"}


def _flags() -> dict[str, str]:
    """Flags, without dashes in front and with underscores, to the names that the options have in Python."""
    from moonrec.cli.ranking import train_ctr

    return {
        flag.removeprefix("--").replace("-", "_"): str(option.name)
        for option in train_ctr.params
        for flag in option.opts
        if flag.startswith("--")
    }
