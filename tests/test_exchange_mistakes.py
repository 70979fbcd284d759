"""What `moonrec exchange-rate` refuses in one line, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from exchange_market import ITEMS, planted_study, write_set

from moonrec.cli import main
from moonrec.cli.exchange_study import ExchangeConfig, exchange_rate
from moonrec.errors import UserError
from moonrec.exchange.plan import Version
from moonrec.exchange.repeats import distinct


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ExchangeConfig:
    return planted_study(tmp_path_factory.mktemp("study"))


def narrow(study: ExchangeConfig, folder: Path) -> str:
    ids = [f"i{n}" for n in range(ITEMS)]
    return f"narrow={write_set(folder / 'narrow', ids, np.eye(8, dtype=np.float32)[np.arange(ITEMS) % 8])}"


def lacking(study: ExchangeConfig, folder: Path) -> str:
    """Vectors for all but three items, one that the catalogue does not have, and no version's."""
    vectors = np.eye(16, dtype=np.float32)[np.arange(ITEMS - 2) % 16]
    ids = ["x", *(f"i{n}" for n in range(3, ITEMS))]
    return f"lacking={write_set(folder / 'lacking', ids, vectors)}"


def copy(study: ExchangeConfig, folder: Path) -> str:
    return f"copy={study.version[1].partition('=')[2]}"


def unfinished(study: ExchangeConfig, folder: Path) -> str:
    (folder / "run.partial" / "model").mkdir(parents=True)
    return f"run={folder / 'run'}"


def empty(study: ExchangeConfig, folder: Path) -> str:
    (folder / "run").mkdir()
    return f"run={folder / 'run'}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (narrow, r"noise0.0 has 16 dimensions, narrow 8: .* --dim 8 cuts all"),
        (lacking, r"lacking=.*: lacks 3 of the 240 items of .* \(i0, i1, i2, …\), .* embed at least 99%"),
        (copy, r"--version copy: holds the same vectors as noise0.3"),
        (lambda study, _: f"ids-only={study.items}", r"ids-only is the judge without vectors"),
        (unfinished, r"there is no folder .*run, only the unfinished .*run.partial; give its command again"),
        (empty, r"holds neither an encoder \(model/config.json\) nor an embedding set"),
        (lambda study, _: f"a/b={study.items}", r"a/b=.*: expected NAME=PATH"),
        (lambda study, _: f"a..b={study.items}", r"without \.\."),
        (lambda study, _: study.version[0], r"noise0.0: names two versions"),
    ],
)
def test_versions_that_cannot_be_compared_are_one_line(
    make: Callable[[ExchangeConfig, Path], str], message: str, study: ExchangeConfig, tmp_path: Path
) -> None:
    config = replace(study, version=(*study.version, make(study, tmp_path)), out=str(tmp_path / "out"))
    with pytest.raises(UserError, match=message) as caught:
        exchange_rate(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": ()}, "0 versions: a rate compares at least 2"),
        ({"compare": ("noise0.0:other",)}, "--compare other: no such version; there are noise0.0, noise0.3"),
        ({"compare": ("noise0.0",)}, "expected A:B"),
        ({"reference": "best"}, "--reference best: no such version"),
        ({"judge": ("content=none",)}, "reads no vectors"),
        ({"judge": ("epoch=2",)}, "--judge epoch: .* no such option; did you mean epochs"),
        ({"judge": ("seed=2",)}, "--judge seed: is not set here"),
        ({"judge": ("epochs=none",)}, "--judge: .*epochs"),
        ({"judge": ("content=cub",)}, "--content cub: expected names out of"),
        ({"dim": 17}, r"--dim 17: --version noise0.0 has 16 dimensions"),
        ({"domain_level": 5}, "--domain-level 5"),
        ({"tasks": ("foo",), "plan": True}, "--tasks: 'foo' is no task; expected some of image_to_item"),
        ({"tasks": ("text_to_item",), "plan": True}, "--tasks text_to_item: an embedding set alone"),
        ({"tasks": ("image_to_item",), "searches": None}, "--tasks image_to_item: .*; name --searches"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    changes: dict[str, Any], message: str, study: ExchangeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        exchange_rate(replace(study, out=str(tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()


def test_a_test_table_that_trains_or_has_one_class_is_one_line(study: ExchangeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the same table as --impressions"):
        exchange_rate(replace(study, test=study.impressions, out=str(tmp_path / "out")))
    table = pq.read_table(study.test)
    zeros = table.set_column(
        table.column_names.index("label"), "label", pa.array(np.zeros(len(table)), pa.int8())
    )
    pq.write_table(zeros, tmp_path / "zeros.parquet")
    with pytest.raises(UserError, match="all of its 700 rows have the label 0"):
        exchange_rate(replace(study, test=str(tmp_path / "zeros.parquet"), out=str(tmp_path / "out")))


def test_a_short_test_table_is_refused_before_anything_is_trained(
    study: ExchangeConfig, tmp_path: Path
) -> None:
    pq.write_table(pq.read_table(study.test).slice(0, 150), tmp_path / "short.parquet")
    with pytest.raises(UserError, match=r"has 150 rows, too few for an AUC; give at least 200"):
        exchange_rate(replace(study, test=str(tmp_path / "short.parquet"), out=str(tmp_path / "out")))


def test_test_rows_that_train_are_refused_and_a_few_are_told_by_the_plan(
    study: ExchangeConfig, tmp_path: Path
) -> None:
    train, test = pq.read_table(study.impressions), pq.read_table(study.test)
    for learnt in (3, 300):
        mixed = pa.concat_tables([train.slice(5, learnt), test])
        pq.write_table(mixed, tmp_path / f"mixed{learnt}.parquet")
    config = replace(study, plan=True, out=str(tmp_path / "out"), test=str(tmp_path / "mixed300.parquet"))
    with pytest.raises(UserError, match=r"300 of its 1,000 rows \(user, item, time\) stand in --impressions"):
        exchange_rate(config)
    lines = exchange_rate(replace(config, test=str(tmp_path / "mixed3.parquet")))["lines"]
    assert any(line.startswith("Training impressions reach into the time of the test") for line in lines)
    assert "3 of the 703 test rows (user, item, time) are training rows too." in lines


def test_the_output_may_not_lie_in_the_run_of_a_trajectory(study: ExchangeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "epochs" / "1-00" / "model").mkdir(parents=True)
    (run / "epochs" / "1-00" / "model" / "config.json").write_text("{}")
    config = replace(study, trajectory=(f"run={run}",), out=str(run / "study"))
    with pytest.raises(UserError, match=r"-o .*study: lies in the input --trajectory"):
        exchange_rate(config)


@pytest.mark.parametrize("given", [["--tasks", "foo"], ["--dim", "3"], ["--reference", "zz"], ["--no-cache"]])
def test_the_demo_refuses_options_that_are_not_its_own(given: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["exchange-rate", "--demo", "-o", str(tmp_path / "demo"), *given])
    assert result.exit_code == 2
    assert f"--demo makes its own data and versions; leave {given[0]} out" in result.output
    assert not (tmp_path / "demo").exists()


def test_a_trajectory_without_kept_epochs_says_how_to_keep_them(
    study: ExchangeConfig, tmp_path: Path
) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match="epochs is not there; train with `moonrec posttrain --keep-epochs`"):
        exchange_rate(replace(study, trajectory=(f"run={tmp_path / 'run'}",), out=str(tmp_path / "out")))


def test_a_version_that_is_an_epoch_of_a_training_is_of_its_family() -> None:
    """A run's encoder is one of its epochs: as a family of its own it would pass for another training."""
    versions = [Version("mine", "mine", "mine", "encoder"), Version("a/1-02", "a", "a", "encoder")]
    versions.append(Version("a/1-01", "a", "a", "encoder"))
    kept = distinct(versions, ["best", "best", "other"])
    assert [(version.name, version.family) for version in kept.versions] == [("mine", "a"), ("a/1-01", "a")]


def test_a_step_between_two_names_of_one_encoder_is_refused() -> None:
    versions = [Version(name, name, name.split("/")[0], "encoder") for name in ("a/1-00", "a/1-01", "b/1-00")]
    kept = distinct(versions, ["start", "other", "start"])
    assert [version.name for version in kept.versions] == ["a/1-00", "a/1-01"]
    assert kept.pairs([("b/1-00", "a/1-01")]) == [("a/1-00", "a/1-01")]
    with pytest.raises(UserError, match="--compare a/1-00:b/1-00: both hold the same vectors"):
        kept.pairs([("a/1-00", "b/1-00")])
    with pytest.raises(UserError, match="1 versions: a rate compares at least 2"):
        distinct([versions[0], versions[2]], ["start", "start"])
