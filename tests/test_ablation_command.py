"""`moonrec ablate` itself: a whole run on a tiny shop, and what it refuses before training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from encoder_helpers import Shop, write_table

from moonrec.ablation.study import STUDIES
from moonrec.cli import main
from moonrec.cli.ablation import AblateConfig, ablate
from moonrec.cli.command_flags import read_flags
from moonrec.cli.study_inputs import late_notes
from moonrec.tables import IMPRESSIONS, SEARCHES, open_table

pytest_plugins = ["encoder_fixtures"]

FAST = "rounds=1,epochs=1,pairs_per_epoch=64,batch_size=16,regions=false"


def call(shop: Shop, out: Path, *arguments: str, **changed: str) -> Result:
    options = {
        "--items": shop.items,
        "--searches": shop.searches,
        "--test": shop.test_searches,
        "--cache": shop.cache,
        "--device": "cpu",
        "--seeds": "1",
        "-o": str(out),
    } | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return CliRunner().invoke(
        main, ["ablate", *(part for pair in options.items() for part in pair), *arguments]
    )


def one_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.strip().splitlines()[-1]


def test_a_whole_ablation_trains_tests_and_tells(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--set", FAST, "--rows", "without-experts", "--json"]
    result = call(shop, out, *arguments, study="moon")
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    rows = {row["row"]: row for row in metrics["rows"]}
    assert set(rows) == {"full", "without-experts"}
    assert metrics["notes"] == []
    image = "retrieval.image_to_item.hit@10"
    for row in rows.values():
        tested = json.loads((out / "cells" / row["cells"] / "0-test" / "metrics.json").read_text())
        assert row["metrics"][image]["mean"] == tested["retrieval"]["image_to_item"]["hit@10"]
        assert row["metrics"]["train.seconds"]["mean"] > 0
    with_experts, without = (
        json.loads((out / "cells" / rows[name]["cells"] / "0" / "model" / "config.json").read_text())
        for name in ("full", "without-experts")
    )
    assert (with_experts["experts"], without["experts"]) == (6, 0)
    assert "without any experts" in (out / "report.html").read_text(encoding="utf-8")
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["cells_computed"] == 2

    again = CliRunner().invoke(main, ["ablate", "--config", str(out / "config.yaml")])
    assert again.exit_code == 0, again.output
    assert "without-experts" in again.stdout
    assert json.loads((out / "provenance.json").read_text())["cells_computed"] == 0
    assert json.loads((out / "metrics.json").read_text()) == metrics

    same = call(shop, out, *arguments, study="moon", device="cpu:0")
    assert same.exit_code == 0, same.output
    assert json.loads((out / "provenance.json").read_text())["cells_computed"] == 0

    changed = call(shop, out, "--set", f"{FAST},window=2", study="moon")
    assert "another window (3 then, 2 now)" in one_line(changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "moon3"], "did you mean moon or moon2"),
        (["--rows", "without-mo"], "did you mean without-moe"),
        (["--rows", ""], "empty part"),
        (["--set", "epoch=5"], "did you mean epochs"),
        (["--set", "epochs=many"], "epochs"),
        (["--set", "epochs"], "NAME=VALUE"),
        (["--set", "seed=5"], "is not set here"),
        (["--set", "seed=5", "--study", "all"], "is not set here"),
        (["--set", "rounds=2,1"], "--rounds 2,1"),
        (["--set", "cleaning=soap"], "--cleaning soap"),
        (["--device", "tpu"], "--device tpu"),
        (["-o", "/proc/nowhere"], "/proc/nowhere: cannot be written"),
        (["-o", "x" * 300], "cannot be written (file name too long)"),
        (["--seeds", "0"], "--seeds"),
        (["--test", "/nowhere.parquet"], "/nowhere.parquet"),
        (["--items", "/nowhere.parquet"], "/nowhere.parquet"),
        (["--test-items", "/nowhere.parquet"], "/nowhere.parquet"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    arguments: list[str], message: str, shop: Shop, tmp_path: Path
) -> None:
    assert message in one_line(call(shop, tmp_path / "run", *arguments))
    assert not (tmp_path / "run").exists()


def test_posttrain_is_asked_before_anything_is_trained_beside_the_tables_too(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(shop.items).parent)
    missing = CliRunner().invoke(
        main, ["ablate", "--items", shop.items, "--test", shop.test_searches, "-o", str(tmp_path / "run")]
    )
    assert "needs --searches, --events, or both" in one_line(missing)
    assert not (tmp_path / "run").exists()


def test_a_test_that_was_trained_on_is_refused_under_any_name(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "searches"
    folder.mkdir()
    shutil.copy(shop.searches, folder / "monday.parquet")
    shutil.copy(shop.test_searches, folder / "tuesday.parquet")
    for test in (shop.searches, str(folder)):
        assert "rows would be tested on what they learnt" in one_line(call(shop, tmp_path / "run", test=test))
    assert "lies in the input --items" in one_line(call(shop, Path(shop.items) / "run"))


def test_training_on_the_time_of_the_test_is_told(shop: Shop, tmp_path: Path) -> None:
    late = tmp_path / "late.parquet"
    searches = pq.read_table(shop.searches)
    field = searches.schema.field("timestamp")
    end = pc.max(pq.read_table(shop.test_searches, columns=["timestamp"]).column(0))
    times = pa.array([end.as_py()] * len(searches), field.type)
    pq.write_table(searches.set_column(searches.column_names.index("timestamp"), field, times), late)
    config = AblateConfig(
        items=shop.items,
        searches=str(late),
        test=shop.test_searches,
        out=str(tmp_path / "run"),
        study="moon",
        seeds=1,
        set=("rounds=1", "epochs=0", "regions=false"),
        rows=("full",),
        device="cpu",
        cache=shop.cache,
    )
    (note,) = ablate(config)["notes"]
    assert "--searches reach into the time of the test searches and no --holdout was named" in note


@pytest.mark.parametrize(("begins", "told"), [(100, False), (99, False), (101, True)])
def test_a_holdout_counts_if_it_begins_no_later_than_the_test(
    begins: int, told: bool, tmp_path: Path
) -> None:
    rows = {
        "searches": (SEARCHES, {"query_id": "q", "query_text": "mug", "item_id": "a", "timestamp": 900}),
        "test": (SEARCHES, {"query_id": "q", "query_text": "mug", "item_id": "a", "timestamp": 100}),
        "holdout": (IMPRESSIONS, {"user_id": "u", "item_id": "a", "label": 1, "timestamp": begins}),
    }
    tables = {
        name: open_table(write_table(tmp_path / f"{name}.parquet", [row]), spec)
        for name, (spec, row) in rows.items()
    }
    test = tables.pop("test")
    notes = late_notes(tables, test)
    assert len(notes) == told
    assert not told or "--holdout begins only after the test does" in notes[0]


@pytest.mark.parametrize(
    ("study", "row"), [(study, row.name) for study in STUDIES.values() for row in study.rows],
    ids=lambda value: value if isinstance(value, str) else value.name,
)  # fmt: skip
def test_every_row_is_made_of_flags_that_posttrain_has(study: Any, row: str) -> None:
    flags = {**study.recipe, **next(r.options for r in study.rows if r.name == row)}
    found, plain = read_flags("posttrain", flags), read_flags("posttrain", {})
    changed = {name for name in found if found[name] != plain[name]}
    assert {name.rstrip("_") for name in changed} <= set(flags)
    # The recipe of MOON is the command's default.
    assert changed or (study.name, row) == ("moon", "full")


def test_options_and_the_config_class_are_the_same() -> None:
    command = main.commands["ablate"]
    options = {str(option.name) for option in command.params} - {"config", "json_", "no_cache", "help"}
    assert options == {field.name for field in dataclasses.fields(AblateConfig)}
