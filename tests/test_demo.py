"""The whole chain, small: what `make demo` and the example scripts run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moonrec.cli import demo as demo_command
from moonrec.cli.demo import run_demo
from moonrec.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# What is checked is that every part runs and is told, not that it learns: a tenth of the demo's own training.
SHORT = {
    "_STAGE_ONE": {"epochs": 1, "samples_per_epoch": 512},
    "_STAGE_TWO": {"epochs": 1, "pairs_per_epoch": 512},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patched:
        for name, options in SHORT.items():
            patched.setattr(demo_command, name, {"compact": options})
        run_demo(out, items=40, users=60, seed=1)
    return out


def test_the_demo_runs_the_whole_chain_and_says_that_it_is_simulated(demo: Path) -> None:
    results = json.loads((demo / "demo.json").read_text())
    assert results["simulated"] is True
    models = [row["model"] for row in results["ctr"]]
    assert models == ["top-3 cosine, no learning", "ids only", "ids + concat", "ids + simtier", "ids + cube"]
    assert all(0 <= row["auc"] <= 1 for row in results["ctr"])
    stages = [row["encoder"] for row in results["image_search"]]
    assert stages == ["untrained", "after stage 1", "post-trained"]
    page = (demo / "report.html").read_text()
    assert "simulated" in page
    for part in ("pretrained", "encoder", "evaluation", "ctr_none", "ctr_cube"):
        assert (demo / part / "provenance.json").exists()
        assert (demo / part / "report.html").exists()


def test_the_demo_replaces_itself_but_nobody_elses_folder(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        run_demo(tmp_path, items=40, users=60, seed=1)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_results_table_measures_the_demos_data(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "results_table.py"), str(demo / "data")]
    command += ["--out", str(tmp_path), "--seeds", "1"]
    environment = {**os.environ, "MOONREC_CACHE": str(demo / "cache")}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    for name in ("untrained towers", "post-trained", "ids only", "ids + cube, untrained"):
        assert f"| {name} |" in printed
