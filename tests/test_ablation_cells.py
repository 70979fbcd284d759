"""Cells that are found again, refused, and gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from test_ablation import Workshop, request, rows_of

from moonrec.ablation.cells import Trained
from moonrec.ablation.run import Steps, run_ablation
from moonrec.errors import UserError
from moonrec.runs import locked


def test_a_second_call_runs_nothing_and_tells_the_same(tmp_path: Path) -> None:
    shop = Workshop()
    first = run_ablation(request(tmp_path / "run"), shop.steps())
    table = (tmp_path / "run" / "table.md").read_bytes()
    assert (len(shop.trained), len(shop.tested)) == (12, 12)
    again = run_ablation(request(tmp_path / "run"), shop.steps())
    assert (len(shop.trained), len(shop.tested)) == (12, 12)
    assert again == first
    assert (tmp_path / "run" / "table.md").read_bytes() == table


def test_more_seeds_and_rows_compute_only_what_is_missing(tmp_path: Path) -> None:
    shop = Workshop()
    asked = request(tmp_path / "run", seeds=1, rows=("without-filter",))
    run_ablation(asked, shop.steps())
    assert shop.trained == [("moon2-full", 0), ("moon2-without-filter", 0)]
    metrics = run_ablation(replace(asked, seeds=2, rows=("without-filter", "without-moe")), shop.steps())
    assert sorted(shop.trained[2:]) == [
        ("moon2-full", 1), ("moon2-without-filter", 1), ("moon2-without-moe", 0), ("moon2-without-moe", 1)
    ]  # fmt: skip
    assert set(rows_of(metrics)) == {"full", "without-filter", "without-moe"}


def test_a_cell_killed_in_its_test_is_not_trained_again(tmp_path: Path) -> None:
    shop = Workshop()
    shop.test_breaks_at = "moon2-without-moe/0-test"
    asked = request(tmp_path / "run", seeds=1, rows=("without-moe",))
    with pytest.raises(KeyboardInterrupt):
        run_ablation(asked, shop.steps())
    assert not (tmp_path / "run" / "table.md").exists()
    shop.test_breaks_at = None
    metrics = run_ablation(asked, shop.steps())
    assert shop.trained == [("moon2-full", 0), ("moon2-without-moe", 0)]
    assert rows_of(metrics)["without-moe"]["metrics"]["train.seconds"]["mean"] == 10.0


def test_a_failing_cell_names_its_row_and_the_finished_ones_stay(tmp_path: Path) -> None:
    shop = Workshop()
    shop.breaks_at = ("moon2-without-filter", 0)
    with pytest.raises(UserError, match="row moon2-without-filter, seed 0: the loss is nan"):
        run_ablation(request(tmp_path / "run", seeds=1), shop.steps())
    done = list(shop.trained)
    assert ("moon2-full", 0) in done
    shop.breaks_at = None
    run_ablation(request(tmp_path / "run", seeds=1), shop.steps())
    assert shop.trained == [*done, ("moon2-without-filter", 0)]


def test_cells_of_other_options_or_tables_are_refused_before_anything_runs(tmp_path: Path) -> None:
    shop = Workshop()
    asked = request(tmp_path / "run", seeds=1, settings={"epochs": "5"})
    run_ablation(asked, shop.steps())
    done = list(shop.trained)
    with pytest.raises(UserError, match=r"another epochs \(5 then, 8 now\); choose another -o, or delete"):
        run_ablation(replace(asked, settings={"epochs": "8"}), shop.steps())
    with pytest.raises(UserError, match=r"another test \(b then, c now\)"):
        run_ablation(replace(asked, inputs={"items": "a", "test": "c"}), shop.steps())
    assert shop.trained == done
    shutil.rmtree(tmp_path / "run" / "cells")
    run_ablation(replace(asked, settings={"epochs": "8"}), shop.steps())
    assert len(shop.trained) == 2 * len(done)


@pytest.mark.parametrize("mistake", [UserError("from: no such folder"), KeyboardInterrupt()])
def test_a_training_that_left_nothing_does_not_stop_the_corrected_command(
    tmp_path: Path, mistake: BaseException
) -> None:
    shop = Workshop()

    def fails(flags: Mapping[str, str], seed: int, out: Path) -> Trained:
        raise mistake

    asked = request(tmp_path / "run", seeds=1, inputs={"items": "a", "from": "/nowhere"})
    with pytest.raises(type(mistake)):
        run_ablation(asked, Steps(shop.resolve, fails, shop.test))
    corrected = replace(asked, inputs={"items": "a", "from": ""})
    assert run_ablation(corrected, shop.steps())["seeds"] == 1
    with pytest.raises(UserError, match=r"another from \(the default then, b now\)"):
        run_ablation(replace(asked, inputs={"items": "a", "from": "b"}), shop.steps())


def test_a_training_that_stands_half_done_is_of_its_options_alone(tmp_path: Path) -> None:
    shop = Workshop()

    def stopped(flags: Mapping[str, str], seed: int, out: Path) -> Trained:
        out.with_name(f"{out.name}.partial").mkdir()
        raise KeyboardInterrupt

    asked = request(tmp_path / "run", seeds=1)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(asked, Steps(shop.resolve, stopped, shop.test))
    with pytest.raises(UserError, match=r"another epochs \(20 then, 8 now\)"):
        run_ablation(replace(asked, settings={"epochs": "8"}), shop.steps())


def test_cells_of_several_versions_are_told(tmp_path: Path) -> None:
    shop = Workshop()
    asked = request(tmp_path / "run", seeds=1)
    assert run_ablation(asked, shop.steps())["notes"] == []
    record = tmp_path / "run" / "cells" / "moon2-full" / "0.json"
    record.write_text(record.read_text().replace('"python": "', '"python": "2.7-'))
    (note,) = run_ablation(asked, shop.steps())["notes"]
    assert "versions" in note
    assert note in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run_ablation(request(tmp_path / "run", seeds=1), Workshop().steps())
    (tmp_path / "run" / "cells" / "moon2-full" / "0.json").write_text('{"options": ')
    with pytest.raises(UserError, match=r"0\.json: cannot be read; delete it"):
        run_ablation(request(tmp_path / "run", seeds=1), Workshop().steps())


def test_somebody_elses_folder_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    shop, theirs = Workshop(), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("")
    (theirs / "cells").mkdir()
    (theirs / "table.md").write_text("my own")
    with pytest.raises(UserError, match="moonrec did not write"):
        run_ablation(request(theirs), shop.steps())
    (theirs / "provenance.json").write_text('{"command": "posttrain"}')
    with pytest.raises(UserError, match="was written by `moonrec posttrain`"):
        run_ablation(request(theirs), shop.steps())
    assert (theirs / "table.md").read_text() == "my own"
    with locked(tmp_path / "run"), pytest.raises(UserError, match="another moonrec process"):
        run_ablation(request(tmp_path / "run"), shop.steps())
    with pytest.raises(UserError, match="--seeds 0"):
        run_ablation(request(tmp_path / "run", seeds=0), shop.steps())
    assert not shop.trained
