"""Cells of the axes `tokens` and `negatives`: post-training to the last epoch, then `moonrec evaluate`."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonrec.atomic import write_json
from moonrec.cli.command_flags import read_flags
from moonrec.cli.scaling_metrics import check_measurable
from moonrec.cli.scaling_tokens import counted_tokens
from moonrec.cli.study_inputs import late_notes, open_training, start_fingerprint
from moonrec.errors import UserError
from moonrec.scaling.axis import TOKENS, Axis
from moonrec.scaling.cells import Measured

if TYPE_CHECKING:
    from moonrec.cli.scaling_study import ScalingConfig

_GROUPS = ("retrieval", "classification", "attributes")
# An epoch holds about so many pairs, and there are at most so many of them: each is validated and kept. Ours.
_EPOCH_PAIRS, _MOST_EPOCHS = 1_024, 16
_OCTAVES = 5
# The largest default point: so many passes of the tables' rows, between these bounds. Ours.
_PASSES, _SMALLEST_TOP, _LARGEST_TOP = 8, 8_192, 131_072
# What a cell costs besides training, in pairs, and seconds per pair of the compact encoder on one core
# (measured).
_FIXED_PAIRS, _PAIR_SECONDS = 2_500, 0.006


class EncoderStudy:
    """How cells of encoders are made; see `moonrec.cli.scaling_study.Study`.

    Args:
        config: the command's options.
        axis: tokens or negatives.
        flags: of posttrain, as text.

    Raises:
        UserError: tables that cannot be opened, or a test that was trained on.
    """

    unit_seconds = _PAIR_SECONDS

    def __init__(self, config: ScalingConfig, axis: Axis, flags: Mapping[str, str]) -> None:
        from encoders.precision import pick_device

        self._config, self._axis, self._flags = config, axis, dict(flags)
        # `auto` is another device on another machine, and numbers differ with the device.
        self._device = pick_device(config.device).type
        tables, test = open_training(config)
        self.inputs = {name: table.fingerprint() for name, table in (tables | {"test": test}).items()}
        self.inputs["from"] = start_fingerprint(self._flags.get("from", ""))
        self.places = [*((f"--{name}", table.path) for name, table in tables.items()), ("--test", test.path)]
        self.notes = late_notes(tables, test)
        check_measurable(config.metric or axis.metrics, tables["items"], test)
        self._items = tables["items"].count_rows()
        self._rows = sum(tables[name].count_rows() for name in ("searches", "events") if name in tables)

    def default_points(self) -> list[int]:
        """Doublings: of pairs up to eight passes of the tables; of negatives up to the whole catalogue."""
        if self._axis is TOKENS:
            top = min(max(_PASSES * self._rows, _SMALLEST_TOP), _LARGEST_TOP)
            top = 1 << (top.bit_length() - 1)
            return [top >> octave for octave in range(_OCTAVES, -1, -1)]
        least = self._least_negatives()
        most = least + self._items
        doubled = [least << octave for octave in range(_OCTAVES + 2) if least << octave <= most]
        return doubled if len(doubled) > _OCTAVES - 1 else _even_steps(least, most)

    def options(self, points: Sequence[int]) -> dict[str, Any]:
        """See `Study`."""
        from encoders.posttrain import PosttrainConfig, check_options

        rounds = read_flags("posttrain", self._flags)["rounds"]
        takes = ("1", "joint", "2") if self._axis is TOKENS else ("joint", "2")
        if len(rounds) != 1 or rounds[0] not in takes:
            raise UserError(
                f"--set rounds={','.join(rounds)}: --axis {self._axis.name} trains a single round, one of "
                f"{', '.join(takes)}; start from a run with --set from=RUN if other rounds come before"
            )
        if self._axis is not TOKENS and points[0] < self._least_negatives():
            raise UserError(
                f"--points {points[0]}: the batch and its hard negatives alone are {self._least_negatives()} "
                "negatives per query; name larger points, or make the batch smaller with --set batch_size"
            )
        for point in points:
            options = self._options(point, seed=0, out=self._config.out)
            check_options(PosttrainConfig(**options))
        left_out = {*self._axis.own, "from_"}
        named = {name: value for name, value in options.items() if name not in left_out}
        return dict(json.loads(json.dumps(named | {"device": self._device})))

    def work(self, point: int) -> float:
        """Pairs, and what a cell costs besides."""
        options = self._options(point, seed=0, out=self._config.out)
        return float(_FIXED_PAIRS + options["epochs"] * options["pairs_per_epoch"])

    def compute(self, point: int, seed: int, folder: Path) -> Measured:
        """Train to the last epoch, and evaluate that."""
        started = time.monotonic()
        note = folder / "training.json"
        resumed = note.exists()
        trained = (
            json.loads(note.read_text(encoding="utf-8")) if resumed else self._train(point, seed, folder)
        )
        write_json(note, trained)
        tested = self._test(_only_last_epoch(folder / "encoder"), folder / "test")
        whole = not resumed and not trained["resumed"]
        return Measured(
            x=trained["tokens"] if self._axis is TOKENS else trained["negatives"],
            metrics=_numbers(tested),
            seconds=time.monotonic() - started if whole else None,
            facts=trained["facts"],
        )

    def _train(self, point: int, seed: int, folder: Path) -> dict[str, Any]:
        from encoders.posttrain import PosttrainConfig, posttrain

        options = self._options(point, seed, str(folder / "encoder"))
        config = PosttrainConfig(**options)
        with counted_tokens() as count:
            metrics = posttrain(config)
            if not count.pairs:
                # A killed training whose epochs were all done: nothing was left to count on.
                metrics = posttrain(config)
        provenance = json.loads((folder / "encoder" / "provenance.json").read_text(encoding="utf-8"))
        (round_,) = metrics["rounds"]
        pairs = round(round_["train"]["seconds"] * round_["train"]["pairs_per_second"])
        known = sum(source["training"] for source in round_["pairs"].values())
        facts = {
            "pairs": float(pairs),
            "passes over the pairs": pairs / max(known, 1),
            "tokens per pair": count.per_pair,
            "epochs": float(round_["epochs"]),
            "best epoch on held-out pairs": float(round_["best_epoch"]),
        }
        held = round_.get("queue", {}).get("held", 0)
        batch = round_["batch"]["largest"]
        return {
            # Of a training that went on after a kill, the tokens of a pair are those of its later steps.
            "tokens": pairs * count.per_pair,
            "negatives": batch - 1 + options["hard_negatives"] * batch + held,
            "facts": facts,
            "resumed": provenance["resumed"],
        }

    def _test(self, encoder: Path, out: Path) -> Mapping[str, Any]:
        from encoders.evaluate import EvaluateConfig, evaluate

        config = self._config
        return evaluate(
            EvaluateConfig(
                encoder=str(encoder),
                items=config.items,
                searches=config.test,
                out=str(out),
                device=config.device,
                cache=config.cache,
            )
        )

    def _options(self, point: int, seed: int, out: str) -> dict[str, Any]:
        """The options of `PosttrainConfig` at a point."""
        config = self._config
        options = read_flags("posttrain", self._flags) | {
            "items": config.items,
            "searches": config.searches,
            "events": config.events,
            "holdout": config.holdout,
            "device": config.device,
            "cache": config.cache,
            "keep_epochs": True,
            "heatmaps": 0,
            "seed": seed,
            "out": out,
        }
        if self._axis is TOKENS:
            epochs = min(max(1, point // _EPOCH_PAIRS), _MOST_EPOCHS)
            options |= {"epochs": epochs, "pairs_per_epoch": -(-point // epochs)}
        else:
            options |= {"queue": max(0, point - self._least_negatives())}
        return options | {"patience": max(1, options["epochs"])}

    def _least_negatives(self) -> int:
        """Those of the batch alone: its other pairs, and the hard negatives of all of them."""
        options = read_flags("posttrain", self._flags)
        return int(options["batch_size"] * (1 + options["hard_negatives"]) - 1)


def _only_last_epoch(run: Path) -> Path:
    """The folder of the last epoch's encoder; those of earlier epochs are deleted."""
    # The number after the last dash: of a hundred epochs and more, names do not sort.
    *earlier, last = sorted((run / "epochs").iterdir(), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for folder in earlier:
        shutil.rmtree(folder)
    return last


def _even_steps(least: int, most: int) -> list[int]:
    """Five points, as far apart as they can be on a log scale, where there is no room for doublings."""
    ratio = (most / least) ** (1 / 4)
    return list(dict.fromkeys(round(least * ratio**step) for step in range(5)))


def _numbers(tested: Mapping[str, Any]) -> dict[str, float]:
    """All numbers of an evaluation's tasks, by dotted name; intervals and undefined ones are left out."""
    return {
        f"{group}.{name}.{metric}": float(value)
        for group in _GROUPS
        for name, values in tested.get(group, {}).items()
        if isinstance(values, Mapping)
        for metric, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
