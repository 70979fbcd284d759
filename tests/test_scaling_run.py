"""A scaling study over cells of known quality: it goes on where it stopped, plans, and tells its results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moonrec.errors import UserError
from moonrec.scaling.axis import HISTORY
from moonrec.scaling.cells import Cell, Measured
from moonrec.scaling.run import Request, run_scaling


def request(out: Path, points: Sequence[int] = (1, 2, 4, 8), **changed: Any) -> Request:
    standard = Request(
        out=out, axis=HISTORY, points=points, seeds=2, metrics=("test.auc",), options={"top": 50},
        inputs={"events": "e"}, config={"axis": "history"}, notes=(), work=float, unit_seconds=1.0,
    )  # fmt: skip
    return dataclasses.replace(standard, **changed)


class Judge:
    """Computes cells whose metric is known, and remembers which."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.made: list[tuple[int, int]] = []
        self._dies_after = dies_after

    def __call__(self, point: int, seed: int, folder: Path) -> Measured:
        if len(self.made) == self._dies_after:
            raise KeyboardInterrupt
        self.made.append((point, seed))
        auc = 0.6 + 0.01 * np.log(point) + 0.001 * np.random.default_rng(seed).standard_normal()
        return Measured(float(min(point, 16)), {"test.auc": float(auc)}, 2.0 * point, {"seen": point / 2})


def test_a_stopped_study_goes_on_where_it_was_and_grows_by_points_and_seeds(tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopped, rest, more = Judge(dies_after=3), Judge(), Judge()
    with pytest.raises(KeyboardInterrupt):
        run_scaling(request(out), stopped)
    assert not (out / "metrics.json").exists()
    metrics = run_scaling(request(out), rest)
    every = {(point, Cell(point, number).seed) for point in (1, 2, 4, 8) for number in (0, 1)}
    assert {*stopped.made} | {*rest.made} == every
    assert len(stopped.made) + len(rest.made) == len(every) == len({seed for _, seed in every})
    run_scaling(request(out, (1, 2, 4, 8, 16), seeds=3), more)
    assert len(more.made) == 5 * 3 - 8

    again = Judge(dies_after=0)
    assert run_scaling(request(out), again) == metrics
    assert json.loads((out / "metrics.json").read_text()) == {
        k: v for k, v in metrics.items() if k != "lines"
    }
    with pytest.raises(UserError, match="another top \\(50 then, 10 now\\)"):
        run_scaling(request(out, options={"top": 10}), again)
    with pytest.raises(UserError, match="another events"):
        run_scaling(request(out, inputs={"events": "f"}), again)


def test_the_plan_estimates_from_finished_cells_and_computes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Judge(dies_after=2)
    plan = run_scaling(request(tmp_path / "run", plan_only=True), judge)
    assert (plan["cells_to_compute"], plan["estimated_seconds"]) == (8, 30.0)
    assert "a guess until the first cell is there" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyboardInterrupt):
        run_scaling(request(tmp_path / "run"), judge)
    plan = run_scaling(request(tmp_path / "run", plan_only=True), judge)
    assert (plan["cells_to_compute"], plan["estimated_seconds"]) == (6, 2.0 * (4 + 8 + 15))
    assert "from the finished cells" in capsys.readouterr().err


def test_results_say_what_was_measured_and_only_one_octave_more(tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = run_scaling(request(out, (1, 2, 4, 8, 16, 32)), Judge())
    curve = found["metrics"]["test.auc"]
    assert [point["x"] for point in curve["points"]] == [1, 2, 4, 8, 16]
    assert "Point 32 is left out" in found["notes"][0]
    for point in curve["points"]:
        assert point["mean"] == pytest.approx(np.mean(point["values"]))
        assert point["sd"] == pytest.approx(np.std(point["values"], ddof=1))
    assert curve["trend"] == "rises"
    assert curve["extrapolation"]["x"] == pytest.approx(32)
    low, high = curve["fits"]["log"]["ci"]["b"]
    assert 0 < low < curve["fits"]["log"]["b"] < high
    assert curve["fits"]["log"]["b"] == pytest.approx(0.01, rel=0.1)
    assert [fact["seen"] for fact in found["facts"]] == [0.5, 1, 2, 4, 8]
    page, table = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "table.md"))
    for text in (page, table):
        assert "Point 32 is left out" in text
        assert "AICc" in text
    assert "data:image/png" in page
    order = (
        "AUC over longest history",
        "AUC per doubling",
        "AUC at 32",
        "data:image/png",
        "<table",
        "seed 1",
    )
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "test.auc" not in page.split("<h2")[1]
    stored = json.loads((out / "metrics.json").read_text())
    assert [one["value"] for one in stored["key_figures"][:1]] == ["rises"]
    assert float(stored["key_figures"][1]["value"]) == pytest.approx(0.01 * np.log(2), rel=0.1)
    assert stored["verdicts"][0].startswith("AUC rises")
    assert (out / "test.auc.png").exists()
    with pytest.raises(UserError, match=r"--metric test\.gauc: was not measured"):
        run_scaling(request(out, metrics=("test.gauc",)), Judge())


def test_a_metric_that_the_first_cell_has_not_measured_stops_the_study(tmp_path: Path) -> None:
    judge = Judge()
    with pytest.raises(UserError, match=r"--metric test\.gauc: was not measured at point 1"):
        run_scaling(request(tmp_path / "run", metrics=("test.gauc",)), judge)
    assert len(judge.made) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"measured": {"y": 1}},
        {"measured": [1]},
        {"made_by": None},
        {"measured": {"x": 1.0, "metrics": {"test.auc": float("nan")}, "seconds": 1.0}},
        {"measured": {"x": 1.0, "metrics": {"test.auc": "high"}, "seconds": 1.0}},
        {"measured": {"x": 0.0, "metrics": {"test.auc": 0.5}, "seconds": 1.0}},
    ],
)
def test_a_damaged_cell_is_named(damage: dict[str, Any], tmp_path: Path) -> None:
    run_scaling(request(tmp_path / "run"), Judge())
    path = tmp_path / "run" / "cells" / "1" / "0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=r"1/0\.json: cannot be read; delete it"):
        run_scaling(request(tmp_path / "run"), Judge())


def test_a_folder_in_the_place_of_the_report_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    run_scaling(request(tmp_path / "run"), Judge())
    (tmp_path / "run" / "report.html").unlink()
    (tmp_path / "run" / "report.html").mkdir()
    judge = Judge()
    with pytest.raises(UserError, match=r"report\.html: is a folder"):
        run_scaling(request(tmp_path / "run", seeds=3), judge)
    assert not judge.made
