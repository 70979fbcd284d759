"""The curves in `history.jsonl`: one figure per measure, one line per run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.compare.numbers import is_drawable, is_finite_number
from moonrec.compare.run_files import RunFiles
from moonrec.report import Report, line_figure

# What a line was logged at, the finest first, and what tells several curves of one run apart.
_STEPS = ("samples", "epoch", "step")
_SERIES = ("stage", "round")
_MEASURE = re.compile(r".*(loss|auc|recall|rank|hit@|mrr|ndcg|accuracy).*")
_SHOWN, _MAX_FIGURES, _MAX_POINTS = 4, 16, 2000
_Curve = tuple[list[float], list[float]]


def add_curves(report: Report, runs: Sequence[RunFiles]) -> None:
    """Add the curves of all runs that logged any, overlaid; the later ones folded."""
    figures = _figures(runs)
    if not figures:
        return
    report.heading("Learning curves")
    places = list(figures)
    for place in places[:_SHOWN]:
        _draw(report, place, figures[place])
    if places[_SHOWN:]:
        with report.details("More curves"):
            for place in places[_SHOWN:_MAX_FIGURES]:
                _draw(report, place, figures[place])
            if len(places) > _MAX_FIGURES:
                report.text(f"{len(places) - _MAX_FIGURES} further measures stand in history.jsonl.")


def _draw(report: Report, place: tuple[str, str, str], curves: Mapping[str, _Curve]) -> None:
    series, measure, step = place
    caption = f"{series}: {measure}" if series else measure
    report.figure(line_figure(curves, step, measure.replace("_", " ")), caption.replace("_", " "))


def _figures(runs: Sequence[RunFiles]) -> dict[tuple[str, str, str], dict[str, _Curve]]:
    """Per (series, measure, step) the curves by run; losses come first."""
    found: dict[tuple[str, str, str], dict[str, _Curve]] = {}
    for run in runs:
        for series, lines in _series(run.history).items():
            step = next((name for name in _STEPS if is_finite_number(lines[0].get(name))), None)
            measures = dict.fromkeys(name for line in lines for name in line if _MEASURE.fullmatch(name))
            for measure in measures if step else ():
                curve = _curve(lines, str(step), measure)
                if curve[0]:
                    found.setdefault((series, measure, str(step)), {})[run.name] = curve
    return dict(sorted(found.items(), key=lambda item: item[0][1] != "loss"))


def _series(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The lines of each curve of a run; of several seeds only those of the first."""
    seed = lines[0].get("seed") if lines else None
    found: dict[str, list[Mapping[str, Any]]] = {}
    named = [name for name in _SERIES if len({str(line.get(name)) for line in lines}) > 1]
    for line in lines:
        if line.get("seed") == seed:
            key = ", ".join(str(line[name]) for name in named if line.get(name) is not None)
            found.setdefault(key, []).append(line)
    return found


def _curve(lines: Sequence[Mapping[str, Any]], step: str, measure: str) -> _Curve:
    points = [
        (line[step], line[measure])
        for line in lines
        if is_drawable(line.get(step)) and is_drawable(line.get(measure))
    ]
    # The last point is among those that are kept.
    stride = -(-len(points) // _MAX_POINTS) if points else 1
    kept = points[::-1][::stride][::-1]
    return [float(x) for x, _ in kept], [float(y) for _, y in kept]
