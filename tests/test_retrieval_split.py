"""What is learnt from lies before what is measured, and a repeat is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_case import MINUTE, config_of, data_of, planted_log

from ctr.data.coded_rows import CodedRows
from ctr.retrieval.data import load_data, open_inputs
from ctr.retrieval.log import Log
from ctr.retrieval.split import split_by_table, split_by_time
from moonrec.errors import UserError

USERS, ITEMS, LAST = 3, 4, 9
# (user, item, time, of a wanted kind)
rows_of = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS), st.integers(0, LAST), st.booleans()),
    min_size=1,
    max_size=30,
)
Rows = list[tuple[int, int, int, bool]]


def log_of(rows: Rows) -> Log:
    """Of rows that carry their number as their label."""
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    number_R = np.arange(len(rows), dtype=np.float32)
    user_R, item_R = columns[0].astype(np.int32), columns[1].astype(np.int32)
    return Log(CodedRows(user_R, item_R, columns[2], number_R), columns[3].astype(bool))


def numbers(rows: CodedRows) -> list[int]:
    return [int(number) for number in rows.label_R]


def novel(rows: Rows, events: Rows) -> list[int]:
    """The wanted rows whose pair no event is earlier for; of those with one pair and time the first."""
    found, seen = [], set()
    for number, (user, item, time, wanted) in enumerate(rows):
        had = any(u == user and i == item and t < time for u, i, t, _ in events)
        if wanted and not had and (user, item) not in seen:
            earlier = any(u == user and i == item and t < time for u, i, t, w in rows if w)
            if not earlier:
                found.append(number)
                seen.add((user, item))
    return found


@settings(deadline=None, max_examples=200)
@given(rows=rows_of, mask=st.booleans(), share=st.sampled_from([0.1, 0.4, 0.8]))
def test_the_split_in_time_is_that_of_brute_force(rows: Rows, mask: bool, share: float) -> None:
    targets = novel(rows, rows) if mask else [number for number, row in enumerate(rows) if row[3]]
    times = sorted({rows[number][2] for number in targets})
    try:
        split = split_by_time(log_of(rows), mask, share, 0.3, "events")
    except UserError:
        # The test then begins at the second moment, and nothing is left to stop by.
        late = [number for number in targets if len(times) > 2 and rows[number][2] > times[1]]
        assert len(late) < share * len(targets) or not targets
        return
    parts = [numbers(part) for part in (split.train, split.validation, split.test)]
    assert sorted(number for part in parts for number in part) == targets
    assert all(parts)
    first = [min(rows[number][2] for number in part) for part in parts]
    last = [max(rows[number][2] for number in part) for part in parts]
    assert last[0] < first[1] <= last[1] < first[2] == split.moment
    assert len(parts[2]) >= share * len(targets) or first[2] == times[1]
    wanted = [row for row in rows if row[3] and row[2] >= split.moment]
    assert split.repeats == pytest.approx(1 - len(parts[2]) / len(wanted))


@settings(deadline=None, max_examples=200)
@given(rows=rows_of, tested=rows_of, mask=st.booleans())
def test_of_users_in_a_table_only_what_is_before_it_is_learnt(rows: Rows, tested: Rows, mask: bool) -> None:
    cut = {user: min(t for u, _, t, _ in tested if u == user) for user, *_ in tested}
    targets = novel(rows, rows) if mask else [number for number, row in enumerate(rows) if row[3]]
    usable = [n for n in targets if rows[n][2] < cut.get(rows[n][0], LAST + 1)]
    measured = [n for n, row in enumerate(tested) if row[3]]
    if mask:
        measured = novel(tested, rows)
    try:
        split = split_by_table(log_of(rows), log_of(tested), mask, 0.3, USERS, "events")
    except UserError:
        # At least one row is held out to stop by.
        assert len(usable) < 2 or not measured
        return
    assert sorted(numbers(split.train) + numbers(split.validation)) == usable
    assert numbers(split.test) == measured
    users = [rows[number][0] for number in numbers(split.validation)]
    assert len(set(users)) == len(users) > 0
    for number in numbers(split.validation):
        assert rows[number][2] == max(rows[n][2] for n in usable if rows[n][0] == rows[number][0])


def test_no_training_row_is_at_or_after_the_moment_of_the_test(tmp_path: Path) -> None:
    data = data_of(planted_log().save(tmp_path))
    assert data.moment is not None
    assert data.train.time_R.max() < data.validation.rows.time_R.min()
    assert data.validation.rows.time_R.max() < data.moment <= data.test.rows.time_R.min()
    # What the baseline on co-occurrence may count.
    assert data.store.time_E[data.learnt_E].max() < data.validation.rows.time_R.min()
    # Histories of the test may reach into its period, but not to the request itself.
    ends = data.test.rows.end_R
    assert (data.store.time_E[ends - 1] < data.test.rows.time_R).all()
    assert (data.store.time_E[ends - 1] >= data.moment).any()


def test_a_view_at_the_moment_of_the_purchase_makes_it_no_repeat() -> None:
    """Days for times: what was seen and bought on one day was not had before."""
    rows = [(0, 1, 1, True), (0, 2, 5, False), (0, 2, 5, True), (0, 3, 6, True), (0, 4, 7, True)]
    split = split_by_time(log_of(rows), True, 0.1, 0.1, "events")
    assert numbers(split.train) == [0, 2]


def test_repeats_are_targets_only_where_history_is_not_masked(tmp_path: Path) -> None:
    log = planted_log(users=60)
    again = log.with_rows(
        **{name: np.tile(getattr(log, name), 2) for name in ("user_E", "item_E", "event_E")},
        minute_E=np.concatenate([log.minute_E, log.minute_E + 10_000]),
    )
    inputs = again.save(tmp_path)
    masked, unmasked = data_of(inputs), data_of(inputs, mask_history=False)
    first_moment = (log.minute_E.min() + 10_000) * MINUTE
    assert max(masked.test.rows.time_R) < first_moment < unmasked.moment
    assert len(masked.train) + len(masked.validation) + len(masked.test) == len(log.user_E)
    assert unmasked.repeats == 0
    assert not len(unmasked.test.masked.values)


def test_only_kinds_that_are_wanted_are_learnt_and_measured(tmp_path: Path) -> None:
    log = planted_log(users=80)
    inputs = log.save(tmp_path)
    data = data_of(inputs, targets=("buy",))
    bought = {(f"u{u}", i, m * MINUTE) for u, i, m, e in zip(
        log.user_E, log.item_E, log.minute_E, log.event_E, strict=True) if e == "buy"}  # fmt: skip
    parts = (data.train, data.validation.rows, data.test.rows)
    assert sum(len(part) for part in parts) == len(bought)
    items = {(int(i), int(t)) for part in parts for i, t in zip(part.item_R, part.time_R, strict=True)}
    assert items == {(item, time) for _, item, time in bought}
    # The others stand in histories.
    assert len(data.store.item_E) == len(log.user_E)


@pytest.mark.parametrize("kind", ["events", "impressions"])
def test_kinds_are_those_of_a_test_table_too(kind: str, tmp_path: Path) -> None:
    """A table of events has kinds; one of impressions has labels in their place."""
    log = planted_log(users=80)
    inputs = log.save(tmp_path)
    table = pq.read_table(inputs["events"])
    late = table.filter(np.asarray(table["timestamp"].cast(pa.int64())) >= 8_500 * MINUTE)
    bought = np.array(late["event"].to_pylist()) == "buy"
    if kind == "impressions":
        late = late.drop_columns(["event"]).append_column("label", pa.array(bought.astype(np.int8)))
    pq.write_table(late, tmp_path / "late.parquet")
    config = config_of(inputs, "unused", targets=("buy",), test=tmp_path / "late.parquet")
    data = load_data(config, open_inputs(config))
    assert len(data.test) == bought.sum()
    # A user's first row ends what is learnt of him, whatever its kind or label is.
    codes = {user: code for code, user in enumerate(dict.fromkeys(table["user_id"].to_pylist()))}
    first_U = np.full(len(codes), np.iinfo(np.int64).max)
    time = np.asarray(late["timestamp"].cast(pa.int64()))
    np.minimum.at(first_U, [codes[user] for user in late["user_id"].to_pylist()], time)
    for rows in (data.train, data.validation.rows):
        assert (rows.time_R < first_U[rows.group_R]).all()
