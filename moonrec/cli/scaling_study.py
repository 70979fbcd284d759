"""`moonrec scaling` wired to encoders and click models: options, inputs, and how a cell is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moonrec.cli.command_flags import flags_of
from moonrec.cli.study_inputs import one_process, plain_options
from moonrec.errors import UserError
from moonrec.output_place import refuse_inside_inputs
from moonrec.scaling.axis import (
    HISTORY,
    Axis,
    check_points,
    check_tables,
    chosen_axis,
    chosen_metrics,
)
from moonrec.scaling.cells import Measured
from moonrec.scaling.run import Request, run_scaling
from moonrec.study.settings import check_settings, parse_settings

_TABLES = ("items", "searches", "events", "holdout", "impressions", "test", "embeddings")


@dataclass(frozen=True)
class ScalingConfig:
    """Options of `moonrec scaling`, with the names of the flags."""

    axis: str
    test: str
    out: str
    items: str | None = None
    searches: str | None = None
    events: str | None = None
    holdout: str | None = None
    impressions: str | None = None
    embeddings: tuple[str, ...] = ()
    points: tuple[str | int, ...] = ()
    metric: tuple[str, ...] = ()
    seeds: int = 3
    set: tuple[str, ...] = ()
    plan: bool = False
    device: str = "auto"
    cache: str | None = None


class Study(Protocol):
    """How the cells of an axis are made; made from the options, it has looked at the inputs."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """A fingerprint per input."""

    @property
    def places(self) -> Sequence[tuple[str, Path | str | None]]:
        """Flags and paths of all inputs, for what the output may not touch."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader must know of the data."""

    @property
    def unit_seconds(self) -> float:
        """About how long a unit of `work` takes, before this machine's speed is known."""

    def default_points(self) -> list[int]:
        """Doublings that suit the data."""

    def options(self, points: Sequence[int]) -> dict[str, Any]:
        """All options that decide a cell but its point and seed, as JSON has them.

        Raises:
            UserError: the command does not take them, or a point cannot be reached with them.
        """

    def work(self, point: int) -> float:
        """About how much there is to do at a point."""

    def compute(self, point: int, seed: int, folder: Path) -> Measured:
        """Train and test a cell, in its own folder."""


def scaling_laws(config: ScalingConfig) -> dict[str, Any]:
    """Compute the cells of an axis that are missing, fit, and write tables, plots and a report.

    Raises:
        UserError: an unknown axis, metric or option, tables that do not go with the axis, points that are not
            increasing or too few, a test that was trained on, cells in the output that were made otherwise,
            or a cell that fails.
    """
    one_process("scaling")
    axis = chosen_axis(config.axis)
    metrics = chosen_metrics(axis, config.metric)
    check_tables(axis, [name for name in _TABLES if getattr(config, name)])
    settings = parse_settings(config.set, "--set", axis.command)
    known = flags_of(axis.command)
    check_settings(settings, "--set", known, axis.own, axis.command, f"--axis {axis.name}")
    asked = _asked_points(axis, config.points)
    study = _study_of(axis)(config, axis, {**axis.recipe, **settings})
    refuse_inside_inputs(config.out, study.places)
    points = asked or study.default_points()
    check_points(axis, points)
    request = Request(
        out=Path(config.out),
        axis=axis,
        points=points,
        seeds=config.seeds,
        metrics=metrics,
        options=study.options(points),
        inputs=study.inputs,
        config=plain_options(config),
        notes=study.notes,
        work=study.work,
        unit_seconds=study.unit_seconds,
        plan_only=config.plan,
    )
    return run_scaling(request, study.compute)


def _study_of(axis: Axis) -> Callable[[ScalingConfig, Axis, Mapping[str, str]], Study]:
    if axis is HISTORY:
        from moonrec.cli.scaling_history import HistoryStudy

        return HistoryStudy
    from moonrec.cli.scaling_encoder import EncoderStudy

    return EncoderStudy


def _asked_points(axis: Axis, given: Sequence[str | int]) -> list[int]:
    """The points that are named; checked before anything is opened."""
    points = []
    for one in given:
        text = str(one).strip().replace("_", "")
        if not (text.isascii() and text.lstrip("-").isdigit()):
            raise UserError(f"--points {one}: expected whole numbers ({axis.points_are}), such as 16,32,64")
        points.append(int(text))
    if points:
        check_points(axis, points)
    return points
