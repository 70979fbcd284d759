"""`moonrec ablate` wired to the encoders: flags to options, and how a cell is trained and tested.

It stands beside the command line because it reads the flags of `posttrain` as that command does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.ablation.cells import Trained
from moonrec.ablation.plan import chosen_studies
from moonrec.ablation.run import Request, Steps, run_ablation
from moonrec.cli.command_flags import flags_of, read_flags
from moonrec.cli.study_inputs import (
    late_notes,
    one_process,
    open_training,
    plain_options,
    start_fingerprint,
)
from moonrec.output_place import refuse_inside_inputs
from moonrec.study.settings import check_settings, parse_settings
from moonrec.tables import IMPRESSIONS, ITEMS, open_table

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
    one_process("ablate")
    settings = parse_settings(config.set, "--set", "posttrain")
    studies = chosen_studies(config.study)
    check_settings(settings, "--set", flags_of("posttrain"), _OWN, "posttrain", "ablate")
    tables, test = open_training(config)
    test_items = open_table(config.test_items, ITEMS) if config.test_items else tables["items"]
    if "impressions" in settings:
        tables["impressions"] = open_table(settings["impressions"], IMPRESSIONS)
    inputs = {name: table.fingerprint() for name, table in tables.items()}
    inputs |= {"test": test.fingerprint(), "test_items": test_items.fingerprint()}
    inputs["from"] = start_fingerprint(settings.get("from", ""))
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
        config=plain_options(config),
        notes=late_notes(tables, test),
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
        return read_flags("posttrain", flags) | own
