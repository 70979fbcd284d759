"""The example from the catalogue to a ranked list: what it learns from, how it orders lists, all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import moonrec
from encoders.pairs import HeldOut
from examples.candidates_to_ranking import main
from examples.two_stages.lists import BOTH, CLICKED, RETRIEVED, Lists, quality
from examples.two_stages.results import SeedTable
from examples.two_stages.split import split_at_the_test
from moonrec.errors import UserError
from moonrec.tables import IMPRESSIONS, open_table

START = datetime(2024, 1, 1, tzinfo=UTC)
Row = tuple[str, str, int]


def write(folder: Path, name: str, rows: Sequence[Row], **columns: Sequence[Any]) -> None:
    """Rows of (user, item, day)."""
    users, items, days = zip(*rows, strict=True)
    table = {"user_id": users, "item_id": items, "timestamp": [START + timedelta(days=day) for day in days]}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(table | columns), folder / f"{name}.parquet")


def read(path: Path) -> list[Row]:
    """The same rows back."""
    return [
        (row["user_id"], row["item_id"], (row["timestamp"] - START).days)
        for row in pq.read_table(path).to_pylist()
    ]


def random_log(rng: np.random.Generator, rows: int, days: tuple[int, int]) -> list[Row]:
    return [
        (f"u{user}", f"i{item}", int(day))
        for user, item, day in zip(
            rng.integers(0, 6, rows), rng.integers(0, 9, rows), rng.integers(*days, rows), strict=True
        )
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_cut_leaves_nothing_later_to_learn_from_and_no_repeat_to_find(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    events, train = random_log(rng, 80, (0, 40)), random_log(rng, 40, (0, 40))
    test = random_log(rng, 8, (20, 40))
    write(tmp_path, "events", events)
    write(tmp_path, "impressions_train", train, label=rng.integers(0, 2, 40))
    write(tmp_path, "impressions_test", test, label=rng.integers(0, 2, 8))
    split = split_at_the_test(tmp_path, tmp_path / "split", ())

    cut = {f"u{user}": min(day for _, _, day in test) for user in range(6)}
    cut |= {name: min(day for user, _, day in test if user == name) for name in {row[0] for row in test}}
    early = [row for row in events if row[2] < cut[row[0]]]
    had = {row[:2] for row in early}
    late = {row[:2] for row in events if row[2] >= cut[row[0]]}
    assert sorted(read(split.before)) == sorted(early)
    assert sorted(read(split.shown)) == sorted(row for row in train if row[2] < cut[row[0]])
    assert sorted(read(split.answers)) == sorted((*pair, cut[pair[0]]) for pair in late - had)
    requests = pq.read_table(split.requests)["user_id"].to_pylist()
    assert sorted(requests) == sorted({user for user, _ in late - had})


def test_only_wanted_kinds_are_answers_but_all_kinds_are_history(tmp_path: Path) -> None:
    events = [("u", "a", 1), ("u", "b", 6), ("u", "c", 7), ("u", "a", 8)]
    write(tmp_path, "events", events, event=["watch", "like", "watch", "like"])
    write(tmp_path, "impressions_train", [("u", "a", 1)], label=[1])
    write(tmp_path, "impressions_test", [("u", "b", 5)], label=[1])
    split = split_at_the_test(tmp_path, tmp_path / "split", ("like",))
    assert read(split.before) == [("u", "a", 1)]
    assert read(split.answers) == [("u", "b", 5)]
    with pytest.raises(UserError, match="nobody took anything new"):
        split_at_the_test(tmp_path, tmp_path / "split", ("buy",))


def made_lists(**changes: Any) -> Lists:
    """Two requests over a catalogue of six; the second is answered by popularity, with two items."""
    values: dict[str, Any] = {
        "users": pa.chunked_array([["u", "v"]]),
        "time_Q": pa.chunked_array([[START, START]]),
        "ids": pa.chunked_array([list("abcdef")]),
        "item_QK": np.array([[0, 1, 2, 3], [4, 5, -1, -1]]),
        "score_QK": np.array([[0.9, 0.6, 0.5, 0.1], [8.0, 4.0, -np.inf, -np.inf]]),
        "popular_Q": np.array([False, True]),
        "click_QK": np.array([[0.1, 0.2, 0.9, 0.1], [0.3, 0.5, np.nan, np.nan]]),
        "new_N": np.array([False, False, True, False, False, False]),
    }
    return Lists(**values | changes)


def test_both_stages_order_by_the_product_of_their_probabilities() -> None:
    lists, temperature = made_lists(), 0.2
    orders = lists.orders(temperature)
    assert orders[RETRIEVED].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert orders[CLICKED].tolist() == [[2, 1, 0, 3], [1, 0, 2, 3]]
    softmax = np.exp(2 * lists.score_QK[0] / temperature)
    assert orders[BOTH][0].tolist() == np.argsort(-softmax * lists.click_QK[0], kind="stable").tolist()
    # 8 x .3 is more than 4 x .5, whatever the temperature.
    assert orders[BOTH][1].tolist()[:2] == [0, 1]
    assert made_lists().orders(1e-3)[BOTH][0].tolist() == orders[RETRIEVED][0].tolist()
    assert made_lists().orders(1e6)[BOTH][0].tolist() == orders[CLICKED][0].tolist()


def test_quality_counts_what_is_found_and_new_items_apart(tmp_path: Path) -> None:
    write(tmp_path, "events", [("u", "x", 0), ("u", "c", 6), ("u", "zz", 6), ("v", "f", 6), ("v", "a", 7)])
    write(tmp_path, "impressions_train", [("u", "x", 0)], label=[1])
    write(tmp_path, "impressions_test", [("u", "c", 5)], label=[1])
    lists = made_lists()
    positives = lists.positives(split_at_the_test(tmp_path, tmp_path / "split", ()))
    found = quality(lists, lists.orders(0.2)[CLICKED], positives)
    # u finds c of {c, zz}, v finds f of {f, a}; the catalogue lacks zz.
    assert found["recall@20"] == pytest.approx(0.5)
    assert found["ndcg@10"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert found["recall@20, new items"] == 1.0


def test_tables_of_seeds_tell_mean_and_deviation_and_mark_the_best() -> None:
    table = SeedTable("numbers")
    for first, second in ((0.1, 0.5), (0.3, 0.5)):
        table.add("one", {"recall": first, "new": None})
        table.add("other", {"recall": second})
    assert "| one | 0.2000 ± 0.1414 | – |" in table.markdown()
    assert "| other | 0.5000 | – |" in table.markdown()
    assert [row["recall"].marked for row in table.cells()] == [False, True]  # type: ignore[attr-defined]


def run(data: Path, out: Path) -> None:
    arguments = ["--data", str(data), "--out", str(out), "--encoder", "compact", "--seeds", "1"]
    done = CliRunner().invoke(main, [*arguments, "--users-shown", "2"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("market")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOONREC_CACHE", str(folder / "cache"))
        moonrec.simulate(folder / "data", items=60, users=80)
        run(folder / "data", folder / "out")
        yield folder


def test_the_example_goes_from_the_catalogue_to_lists_with_reasons(market: Path) -> None:
    results = json.loads((market / "out" / "results.json").read_text())
    # Two ways to the same number: measured in training, and read back from the lists.
    served = results["final"][RETRIEVED]["recall@10"]
    assert served == pytest.approx(results["candidates"]["two towers"]["recall@10"])
    assert set(results["final"]) == {RETRIEVED, CLICKED, BOTH}
    page = (market / "out" / "report.html").read_text()
    assert "simulated" in page
    assert page.count("<h2>User ") == 2
    assert page.count('<div class="strip') == 2 * 20
    assert "<script" not in page


def test_a_finished_part_is_not_run_again(market: Path) -> None:
    out = market / "out"
    weights = [out / stage / "model" / "weights.safetensors" for stage in ("retrieval_0", "clicks_0")]
    times = [path.stat().st_mtime_ns for path in weights]
    results = (out / "results.json").read_bytes()
    run(market / "data", out)
    assert [path.stat().st_mtime_ns for path in weights] == times
    assert (out / "results.json").read_bytes() == results


def test_a_folder_is_not_continued_with_other_options(market: Path) -> None:
    arguments = ["--data", str(market / "data"), "--out", str(market / "out"), "--encoder", "compact"]
    done = CliRunner().invoke(main, [*arguments, "--targets", "purchase"])
    assert done.exit_code == 2
    assert "give another folder" in done.output


def test_what_happens_after_the_cut_changes_no_model_and_no_list(market: Path, tmp_path: Path) -> None:
    """Other items are taken and shown in the test period: not a bit of what was learnt is another."""
    data = tmp_path / "data"
    data.mkdir()
    for path in (market / "data").iterdir():
        (data / path.name).symlink_to(path)
    cuts = HeldOut(open_table(market / "data" / "impressions_test.parquet", IMPRESSIONS))
    for name in ("events", "impressions_test"):
        table = pq.read_table(data / f"{name}.parquet")
        late = table["timestamp"].cast(pa.int64()).to_numpy() >= cuts.limits(table["user_id"])
        items = table["item_id"].to_numpy()
        items[late] = np.random.default_rng(0).permutation(items[late])
        place = table.schema.get_field_index("item_id")
        (data / f"{name}.parquet").unlink()
        pq.write_table(table.set_column(place, "item_id", pa.array(items)), data / f"{name}.parquet")
    run(data, tmp_path / "out")
    for stage in ("retrieval_0", "clicks_0"):
        one, other = (
            folder / "out" / stage / "model" / "weights.safetensors" for folder in (market, tmp_path)
        )
        assert one.read_bytes() == other.read_bytes()
    lists = [
        {
            row["user_id"]: row["item_ids"]
            for row in pq.read_table(folder / "out" / "candidates_0.parquet").to_pylist()
        }
        for folder in (market, tmp_path)
    ]
    both = set(lists[0]) & set(lists[1])
    assert len(both) > 20
    assert all(lists[0][user] == lists[1][user] for user in both)
    answers = [pq.read_table(folder / "out" / "split" / "answers.parquet") for folder in (market, tmp_path)]
    assert not answers[0].equals(answers[1])
