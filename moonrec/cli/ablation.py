"""`moonrec ablate` wired to the encoders: flags to options, and how a cell is trained and tested.

It stands beside the command line because it reads the flags of `posttrain` as that command does.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from moonrec.ablation.cells import Trained
from moonrec.ablation.plan import chosen_studies, near, parse_settings
from moonrec.ablation.run import Request, Steps, run_ablation
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, Table, open_table

# What `--set` may not touch: it is ablate's own.
_OWN = (
    "items",
    "searches",
    "events",
    "holdout",
    "out",
    "seed",
    "device",
    "cache",
    "no_cache",
    "json",
    "config",
)
# What is in a cell's identity by content rather than by name, or not at all.
_BY_CONTENT = ("items", "searches", "events", "holdout", "impressions", "from_", "out", "cache")
_SPECS = {"items": ITEMS, "searches": SEARCHES, "events": EVENTS, "holdout": IMPRESSIONS}


@dataclass(frozen=True)
class AblateConfig:
    """Options of `moonrec ablate`, with the names of the flags."""

    items: str
    test: str
    out: str
    searches: str | None = None
    events: str | None = None
    holdout: str | None = None
    test_items: str | None = None
    study: str = "moon2"
    seeds: int = 3
    set: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    device: str = "auto"
    cache: str | None = None


def ablate(config: AblateConfig) -> dict[str, Any]:
    """Train and test every row of a study under every seed, and write tables, plots and a report.

    Raises:
        UserError: an unknown study, row or option, tables that do not fit, a test that was trained on, cells
            in the output that were made otherwise, or a cell that fails.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("moonrec ablate is one process; start it without torchrun")
    settings = parse_settings(config.set)
    studies = chosen_studies(config.study)
    _check_settings(settings)
    tables = {
        name: open_table(path, spec)
        for name, spec in _SPECS.items()
        if (path := getattr(config, name)) is not None
    }
    test = open_table(config.test, SEARCHES)
    test_items = open_table(config.test_items, ITEMS) if config.test_items else tables["items"]
    if "searches" in tables:
        _refuse_leak(tables["searches"], test)
    if "impressions" in settings:
        tables["impressions"] = open_table(settings["impressions"], IMPRESSIONS)
    inputs = {name: table.fingerprint() for name, table in tables.items()}
    inputs |= {"test": test.fingerprint(), "test_items": test_items.fingerprint()}
    inputs["from"] = _start_fingerprint(settings.get("from", ""))
    given = [(f"--{name}", table.path) for name, table in tables.items()]
    refuse_inside_inputs(config.out, [*given, ("--test", test.path), ("--test-items", test_items.path)])
    request = Request(
        out=Path(config.out),
        studies=studies,
        rows=config.rows,
        settings=settings,
        seeds=config.seeds,
        inputs=inputs,
        item_columns=tables["items"].column_names,
        config=json.loads(json.dumps(asdict(config))),
        notes=_notes(tables, test),
    )
    cells = _EncoderCells(config)
    return run_ablation(request, Steps(cells.resolve, cells.train, cells.test))


class _EncoderCells:
    """How cells of encoders are made."""

    def __init__(self, config: AblateConfig) -> None:
        from encoders.precision import pick_device

        self._config = config
        # `auto` is another device on another machine, and numbers differ with the device.
        self._device = pick_device(config.device).type

    def resolve(self, flags: Mapping[str, str]) -> dict[str, Any]:
        """All options that decide a training's result, but for tables and seed.

        Raises:
            UserError: posttrain does not take them.
        """
        from encoders.posttrain import PosttrainConfig, check_options

        options = self._options(flags, seed=0, out=self._config.out)
        check_options(PosttrainConfig(**options))
        options["device"] = self._device
        named = {name: value for name, value in options.items() if name not in (*_BY_CONTENT, "seed")}
        return dict(json.loads(json.dumps(named)))

    def train(self, flags: Mapping[str, str], seed: int, out: Path) -> Trained:
        """Post-train into `out`."""
        from encoders.posttrain import PosttrainConfig, posttrain

        started = time.monotonic()
        metrics = posttrain(PosttrainConfig(**self._options(flags, seed, str(out))))
        seconds = time.monotonic() - started
        resumed = json.loads((out / "provenance.json").read_text(encoding="utf-8"))["resumed"]
        idle = tuple(r["name"] for r in metrics["rounds"] if r["best_epoch"] == 0)
        return Trained(None if resumed else seconds, idle)

    def test(self, encoder: Path, out: Path) -> Mapping[str, Any]:
        """Evaluate a trained encoder on the test searches."""
        from encoders.evaluate import EvaluateConfig, evaluate

        config = self._config
        return evaluate(
            EvaluateConfig(
                encoder=str(encoder),
                items=config.test_items or config.items,
                searches=config.test,
                out=str(out),
                device=config.device,
                cache=config.cache,
            )
        )

    def _options(self, flags: Mapping[str, str], seed: int, out: str) -> dict[str, Any]:
        """The options of `PosttrainConfig`."""
        config = self._config
        own = {
            "items": config.items,
            "searches": config.searches,
            "events": config.events,
            "holdout": config.holdout,
            "seed": seed,
            "device": config.device,
            "cache": config.cache,
            "out": out,
        }
        return read_flags(flags) | own


def read_flags(flags: Mapping[str, str]) -> dict[str, Any]:
    """Flags of posttrain as its command line reads them, and the defaults of all others.

    Raises:
        UserError: a value that the flag does not take.
    """
    from moonrec.cli.training import posttrain

    names = _posttrain_flags()
    try:
        context = posttrain.make_context(
            "posttrain",
            ["--items", "", "--out", ""],
            default_map={names[name]: value for name, value in flags.items()},
        )
    except click.UsageError as error:
        raise UserError(f"options of posttrain: {error.format_message()}") from error
    return {name: value for name, value in context.params.items() if name not in ("json_", "no_cache")}


def _posttrain_flags() -> dict[str, str]:
    """Flags, without dashes in front and with underscores, to the names that the options have in Python."""
    from moonrec.cli.training import posttrain

    return {
        flag.removeprefix("--").replace("-", "_"): str(option.name)
        for option in posttrain.params
        for flag in option.opts
        if flag.startswith("--")
    }


def _check_settings(settings: Mapping[str, str]) -> None:
    known = [name for name in _posttrain_flags() if name not in _OWN]
    for name in settings:
        if name in _OWN:
            raise UserError(f"--set {name}: is not set here, since ablate gives it to every row by itself")
        if name not in known:
            raise UserError(f"--set {name}: `moonrec posttrain` has no such option; {near(name, known)}")


def _refuse_leak(searches: Table, test: Table) -> None:
    """Files are compared by content: a copy under another name is the same searches."""
    if _contents(searches) & _contents(test):
        raise UserError(
            f"--test {test.path}: holds a file of --searches {searches.path}, so rows would be tested on "
            "what they learnt; hold some searches out"
        )


def _notes(tables: Mapping[str, Table], test: Table) -> list[str]:
    """A warning where rows may have learnt from the time of the test."""
    if test.time_range is None:
        return []
    begins = test.time_range[0]
    cut = tables["holdout"].time_range if "holdout" in tables else None
    if cut is not None and cut[0] <= begins:
        return []
    late = [
        f"--{name}"
        for name in ("searches", "events")
        if name in tables and (found := tables[name].time_range) and found[1] >= begins
    ]
    if not late:
        return []
    reason = "no --holdout was named" if cut is None else "--holdout begins only after the test does"
    return [
        f"{' and '.join(late)} reach into the time of the test searches and {reason}: the rows may have "
        "learnt from the future, and all numbers are optimistic."
    ]


def _contents(table: Table) -> set[str]:
    return {_digest(part.path) for part in table.parts}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _start_fingerprint(start: str) -> str:
    """Of the folder that rows start from, by content; a name stands for itself."""
    folder = Path(start)
    # Unlike Path.is_dir, this does not raise where a name is too long.
    if not start or not os.path.isdir(folder):
        return start
    # A run's log and report say nothing about its weights.
    weights = folder / "model" if (folder / "model").is_dir() else folder
    files = sorted(path for path in weights.rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(weights).as_posix()}:{_digest(path)}\n".encode())
    return total.hexdigest()
