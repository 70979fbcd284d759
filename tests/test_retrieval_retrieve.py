from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from retrieve_case import DAY, LATE, OLD, Case, request, trained

from ctr import RetrieveConfig, load_retrieval, retrieve
from ctr.retrieval import candidate_lists
from ctr.retrieval.data import load_data, open_inputs
from ctr.retrieval.vectors import user_vectors
from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return trained(tmp_path_factory.getbasetemp())


def plain(case: Case, users: Path, out: Path, **options: Any) -> pa.Table:
    events = options.pop("events", case.folder / "events.parquet")
    retrieve(RetrieveConfig(model=case.plain, users=users, events=events, out=out, **options))
    return pq.read_table(out)


def taken_before(case: Case, user: str, time: int) -> set[str]:
    events = pq.read_table(case.folder / "events.parquet")
    own = pc.and_(pc.equal(events["user_id"], user), pc.less(events["timestamp"], time))
    return set(events.filter(own)["item_id"].to_pylist())


def test_the_test_requests_of_training_get_the_lists_that_training_measured(
    case: Case, tmp_path: Path
) -> None:
    """Parity: users, histories and masks read from files anew against those of the run, by brute force."""
    data = load_data(case.config, open_inputs(case.config))
    saved = load_retrieval(case.plain)
    user_QD = user_vectors(saved.model(data.frozen), data.test.rows, data.items)
    vectors = EmbeddingSet.open(case.plain / "index")
    score_QN = user_QD @ vectors.matrix().astype(np.float32).T
    names = saved.vocabulary.ids.users.to_pylist()
    # Users of the test period alone are of no use here: they have no name in the vocabulary.
    known_Q = np.flatnonzero(data.test.rows.user_R > 0)
    users = [names[row - 1] for row in data.test.rows.user_R[known_Q]]
    times = data.test.rows.time_R[known_Q].tolist()
    path = request(tmp_path / "u.parquet", user_id=users, timestamp=pa.array(times, pa.timestamp("us")))
    found = plain(case, path, tmp_path / "c.parquet", k=20).to_pylist()
    assert len(found) > 20
    ids = np.array(vectors.ids.to_pylist())
    for row, q in zip(found, known_Q, strict=True):
        before = taken_before(case, row["user_id"], int(data.test.rows.time_R[q] // 1_000_000))
        allowed = [n for n in np.argsort(-score_QN[q], kind="stable") if ids[n] not in before]
        assert row["item_ids"] == ids[allowed[:20]].tolist()
        assert np.allclose(row["scores"], score_QN[q][allowed[:20]], atol=1e-5)
        assert row["source"] == "model"


def test_a_source_tells_what_a_list_is_made_of(case: Case, tmp_path: Path) -> None:
    events: dict[str, Any] = {
        "user_id": ["stranger", "stranger", "odd", "u00", "u01"],
        "item_id": [OLD[0], "nowhere", "nowhere", "nowhere", OLD[1]],
        "timestamp": [LATE] * 5,
    }
    path = request(tmp_path / "e.parquet", **events)
    rows = ["stranger", "odd", "nobody", "u00", "u01", "u02", "stranger"]
    found = plain(
        case, request(tmp_path / "u.parquet", user_id=rows), tmp_path / "c.parquet", k=5, events=path
    )
    sources = ["history", "popularity", "popularity", "model", "model", "model", "history"]
    assert found["source"].to_pylist() == sources
    assert found["user_id"].to_pylist() == rows
    lists, scores = found["item_ids"].to_pylist(), found["scores"].to_pylist()
    assert lists[0] == lists[6]
    assert OLD[0] not in lists[0]
    popular = pq.read_table(case.plain / "model" / "popularity.parquet").slice(0, 5)
    assert lists[1] == lists[2]
    assert scores[1] == popular["count"].to_pylist()


def test_a_list_as_of_a_moment_knows_nothing_of_that_moment_or_later(case: Case, tmp_path: Path) -> None:
    events: dict[str, Any] = {
        "user_id": ["a", "a", "a"],
        "item_id": [OLD[0], OLD[1], OLD[2]],
        "timestamp": [LATE, LATE + 10, LATE + 20],
    }
    path = request(tmp_path / "e.parquet", **events)
    users = request(
        tmp_path / "u.parquet", user_id=["a"] * 4, timestamp=[LATE, LATE + 1, LATE + 10, LATE + 11]
    )
    found = plain(case, users, tmp_path / "c.parquet", k=100, events=path)
    assert found["source"].to_pylist() == ["popularity", "history", "history", "history"]
    lists = [set(one) for one in found["item_ids"].to_pylist()]
    assert OLD[0] in lists[0]
    assert set(OLD) - lists[1] == set(OLD) - lists[2] == {OLD[0]}
    assert set(OLD) - lists[3] == {OLD[0], OLD[1]}
    assert found["item_ids"][1] == found["item_ids"][2]
    assert found["timestamp"].type == pa.timestamp("us", tz="UTC")


def test_lists_do_not_depend_on_how_the_users_are_cut_into_blocks(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = request(tmp_path / "u.parquet", user_id=[f"u{n % 60:02d}" if n % 7 else "x" for n in range(150)])
    whole = plain(case, users, tmp_path / "c.parquet", k=7)
    monkeypatch.setattr(candidate_lists, "_MOST_ROWS", 4)
    cut = plain(case, users, tmp_path / "d.parquet", k=7)
    assert cut["item_ids"] == whole["item_ids"]
    assert cut["scores"] == whole["scores"]


def test_what_a_user_had_comes_back_on_request(case: Case, tmp_path: Path) -> None:
    users = request(tmp_path / "u.parquet", user_id=["u03"])
    had = taken_before(case, "u03", LATE)
    masked = plain(case, users, tmp_path / "c.parquet", k=1000)["item_ids"][0].as_py()
    everything = plain(case, users, tmp_path / "c.parquet", k=1000, mask_history=False)["item_ids"][0].as_py()
    assert set(masked) == set(OLD) - had
    assert set(everything) == set(OLD)


def test_more_candidates_than_items_are_all_of_them_and_told(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RetrieveConfig(
        model=case.plain,
        users=request(tmp_path / "u.parquet", user_id=["u03", "u04"]),
        events=case.folder / "events.parquet",
        out=tmp_path / "c.parquet",
        k=10**9,
    )
    told = retrieve(config)
    assert told["k"] == told["items"] == len(OLD)
    assert told["short_lists"] == 2
    assert "--k 1000000000" in capsys.readouterr().err


def test_context_is_read_from_the_users_or_their_own_table(case: Case, tmp_path: Path) -> None:
    events, out = case.folder / "events.parquet", tmp_path / "c.parquet"
    ids = ["u05", "u61", "u05"]
    own = request(tmp_path / "u.parquet", user_id=ids, device=["d1", None, "d2"], age=[25.0, 81.0, 25.0])
    bare = request(tmp_path / "b.parquet", user_id=ids, device=["d1", None, "d2"])
    options: dict[str, Any] = {"model": case.rich, "events": events, "out": out, "k": 9, "exact": True}
    retrieve(RetrieveConfig(users=own, **options))
    expected = pq.read_table(out)
    retrieve(RetrieveConfig(users=bare, user_table=case.folder / "users.parquet", **options))
    assert pq.read_table(out).equals(expected)
    assert expected["scores"][0] != expected["scores"][2]
    with pytest.raises(UserError, match=r"b\.parquet: column 'age' is missing.*--user-table"):
        retrieve(RetrieveConfig(users=bare, **options))
    lacks = request(tmp_path / "l.parquet", user_id=ids, age=[1.0, 2.0, 3.0])
    with pytest.raises(UserError, match=r"l\.parquet: column 'device' is missing"):
        retrieve(RetrieveConfig(users=lacks, **options))


def test_a_number_that_is_none_counts_as_missing(case: Case, tmp_path: Path) -> None:
    rows = {"user_id": ["u05", "u05"], "device": ["d1", "d1"], "age": [float("nan"), None]}
    found = load_retrieval(case.rich).retrieve(
        pq.read_table(case.folder / "events.parquet"), pa.table(rows), 5, exact=True
    )
    assert found["scores"][0] == found["scores"][1]
    assert np.isfinite(found["scores"][0].as_py()).all()


def test_tables_in_memory_get_the_same_lists(case: Case, tmp_path: Path) -> None:
    table = pa.table({"user_id": ["u07", "nobody", "u08"], "timestamp": [LATE, LATE, LATE - DAY * 70]})
    pq.write_table(table, tmp_path / "u.parquet")
    from_file = plain(case, tmp_path / "u.parquet", tmp_path / "c.parquet", k=11)
    saved = load_retrieval(case.plain)
    found = saved.retrieve(pq.read_table(case.folder / "events.parquet"), table, 11)
    assert found.equals(from_file)
    assert saved.retrieve(pq.read_table(case.folder / "events.parquet"), table.slice(0, 0)).num_rows == 0
    assert len(saved.opened) == 1


def test_an_option_of_the_model_is_refused_where_the_model_is_loaded(case: Case) -> None:
    events = pq.read_table(case.folder / "events.parquet")
    with pytest.raises(TypeError, match="embeddings"):
        load_retrieval(case.plain).retrieve(
            events, pa.table({"user_id": ["u07"]}), 3, embeddings=case.folder / "all"
        )


def test_the_command_prints_json_and_writes_the_file(case: Case, tmp_path: Path) -> None:
    users = request(tmp_path / "u.parquet", user_id=["u01", "x"])
    arguments: list[Any] = ["retrieve", "--model", case.plain, "--users", users, "--events"]
    arguments += [case.folder / "events.parquet", "-o", tmp_path / "c.parquet", "--k", "3", "--json"]
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["source"] == {"model": 1, "history": 0, "popularity": 1}
    assert [len(one) for one in pq.read_table(tmp_path / "c.parquet")["item_ids"].to_pylist()] == [3, 3]
    arguments[6] = case.folder / "missing.parquet"
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["u01"]}, r"column 'user_id' is missing"),
        ({"user_id": pa.array([], pa.string())}, r"has no rows"),
        ({"user_id": ["u01", None]}, r"row 1, column 'user_id'"),
        ({"user_id": [1, 2]}, r"ids are strings"),
        ({"user_id": ["u01"], "timestamp": pa.array([None], pa.int64())}, r"row 0, column 'timestamp'"),
        ({"user_id": ["u01"], "timestamp": ["today"]}, r"column 'timestamp' is string"),
    ],
)
def test_a_bad_table_of_users_is_one_line(
    case: Case, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    users = request(tmp_path / "u.parquet", **columns)
    with pytest.raises(UserError, match=message) as error:
        plain(case, users, tmp_path / "c.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "c.parquet").exists()


def test_outputs_among_the_inputs_are_refused(case: Case, tmp_path: Path) -> None:
    users = request(tmp_path / "u.parquet", user_id=["u01"])
    places = (users, case.plain / "c.parquet", case.folder / "old" / "c.parquet", tmp_path)
    for out in places:
        with pytest.raises(UserError, match=r"^-o "):
            plain(case, users, out)


def test_a_full_disk_is_one_line_and_leaves_nothing(case: Case, tmp_path: Path) -> None:
    users = request(tmp_path / "u.parquet", user_id=["u01"] * 5_000)
    (tmp_path / "out").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written"):
            plain(case, users, tmp_path / "out" / "c.parquet", k=40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").iterdir())
