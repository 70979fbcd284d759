"""Cells of the axis `history`: the click model over frozen embeddings, with histories of another length.

Legend: E events, R impressions.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moonrec.cli.command_flags import read_flags
from moonrec.errors import UserError
from moonrec.ids import codes_of, rows_of
from moonrec.scaling.axis import Axis
from moonrec.scaling.cells import Measured
from moonrec.tables import Table

if TYPE_CHECKING:
    from moonrec.cli.scaling_study import ScalingConfig

_OCTAVES, _QUANTILE = 6, 0.95
# Behaviours that take as long as the rest of a row, and seconds per such row on two cores (measured).
_ROW_BEHAVIOURS, _ROW_SECONDS = 100, 0.0001
# Beyond so many, train-ctr keeps the behaviours that are most like the target.
_SEARCHED = 200


class HistoryStudy:
    """How cells of click models are made; see `moonrec.cli.scaling_study.Study`.

    Args:
        config: the command's options.
        axis: history.
        flags: of train-ctr, as text.

    Raises:
        UserError: tables or embedding sets that cannot be opened.
    """

    unit_seconds = _ROW_SECONDS

    def __init__(self, config: ScalingConfig, axis: Axis, flags: Mapping[str, str]) -> None:
        from ctr.config import resolved
        from ctr.data.data_inputs import fingerprints, open_inputs

        self._config, self._axis, self._flags = config, axis, dict(flags)
        options = resolved(self._train_config(1, seed=0, out=config.out))
        found = open_inputs(options.data)
        self._tables = found.tables
        self.inputs = {name: table.fingerprint() for name, table in found.tables.items()}
        self.inputs |= {f"embeddings:{name}": value for name, value in fingerprints(found).items()}
        self.places: list[tuple[str, Path | str | None]] = [
            *((f"--{name}", table.path) for name, table in found.tables.items()),
            *(("--embeddings", folder) for folder in options.item_sets.values()),
        ]
        self.notes: list[str] = []

    def default_points(self) -> list[int]:
        """Powers of two up to the length that 95 % of the training rows' histories do not pass."""
        longest = int(np.quantile(self._train_lengths, _QUANTILE))
        if longest < 1 << 2:
            raise UserError(
                f"--events {self._config.events}: of 95 % of the training impressions users have at most "
                f"{longest} earlier events, too few to vary; name --points, or give a longer log"
            )
        top = longest.bit_length() - 1
        return [1 << octave for octave in range(max(0, top - _OCTAVES), top + 1)]

    def options(self, points: Sequence[int]) -> dict[str, Any]:
        """See `Study`."""
        from ctr.config import plain_options, resolved

        longest = max(int(lengths.max(initial=0)) for lengths in (self._train_lengths, self._test_lengths))
        if points[-1] > longest:
            raise UserError(
                f"--points {points[-1]}: no row of --impressions or --test has more than {longest} earlier "
                "events; name points up to that"
            )
        configs = [resolved(self._train_config(point, seed=0, out=self._config.out)) for point in points]
        top = configs[0].top
        searched = [point for point in points if point > _SEARCHED]
        if top and searched:
            self.notes.append(
                f"From {searched[0]} behaviours on, a row keeps the {top} that are most like its target, as "
                "`train-ctr --top` says: x is then what is searched, not all that attention sees."
            )
        named = {
            name: value for name, value in plain_options(configs[0]).items() if name not in self._axis.own
        }
        return dict(json.loads(json.dumps(named)))

    def work(self, point: int) -> float:
        """Rows, those with long histories counted more."""
        rows = self._tables["impressions"].count_rows()
        return rows * (1 + point / _ROW_BEHAVIOURS)

    def compute(self, point: int, seed: int, folder: Path) -> Measured:
        """Train the click model; it tests itself."""
        from ctr.train import train_ctr

        started, run = time.monotonic(), folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        metrics = train_ctr(self._train_config(point, seed, str(run)))
        resumed = json.loads((run / "provenance.json").read_text(encoding="utf-8"))["resumed"]
        seen_R = np.minimum(self._test_lengths, point)
        return Measured(
            x=float(point),
            metrics={
                f"test.{name}": float(value)
                for name, value in metrics["test"].items()
                if isinstance(value, int | float) and math.isfinite(value)
            },
            seconds=None if resumed else time.monotonic() - started,
            facts={
                "mean history seen": float(seen_R.mean()),
                "share of rows with a full one": float((self._test_lengths >= point).mean()),
            },
        )

    @cached_property
    def _train_lengths(self) -> NDArray[np.int64]:
        return history_lengths(self._tables["events"], self._tables["impressions"])

    @cached_property
    def _test_lengths(self) -> NDArray[np.int64]:
        return history_lengths(self._tables["events"], self._tables["test"])

    def _train_config(self, point: int, seed: int, out: str) -> Any:
        from ctr.config import TrainConfig

        config = self._config
        own = {
            "impressions": config.impressions,
            "test": config.test,
            "events": config.events,
            "items": config.items,
            "embeddings": config.embeddings,
            "history": point,
            "seed": seed,
            "seeds": 1,
            "out": out,
        }
        return TrainConfig(**read_flags("train-ctr", self._flags) | own)


def history_lengths(events: Table, impressions: Table) -> NDArray[np.int64]:
    """(R,) how many events of its user are strictly earlier than each impression."""
    from ctr.data.history import EventStore

    log, rows = (table.read(["user_id", "timestamp"]) for table in (events, impressions))
    user_E, users = codes_of(log["user_id"])
    store = EventStore.build(
        user_E, np.zeros(len(user_E), np.int32), log["timestamp"].to_numpy().astype(np.int64), len(users)
    )
    user_R = rows_of(rows["user_id"], users)
    start_R, end_R = store.lookup(user_R, rows["timestamp"].to_numpy().astype(np.int64), len(user_E))
    return end_R - start_R
