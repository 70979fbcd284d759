from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonrec.ids import rows_of

IDS = st.lists(st.one_of(st.none(), st.text(alphabet="ab01", max_size=3)), max_size=40)


@given(ids=IDS, known=IDS, chunks=st.integers(1, 3))
def test_rows_agree_with_a_dictionary_of_first_occurrences(
    ids: list[str | None], known: list[str | None], chunks: int
) -> None:
    first = {value: row for row, value in reversed(list(enumerate(known))) if value is not None}
    step = max(1, len(known) // chunks)
    parts = [known[i : i + step] for i in range(0, len(known), step)]
    rows = rows_of(pa.array(ids, pa.string()), pa.chunked_array(parts, pa.large_string()))
    assert rows.dtype == np.int64
    assert rows.tolist() == [first.get(value, -1) if value is not None else -1 for value in ids]


@pytest.mark.parametrize("length", [10, 1000])
def test_short_and_long_lists_give_the_same_rows(length: int) -> None:
    known = pa.array([f"{i % 700:03d}" for i in range(length)])
    assert rows_of(["005", "5", "nothing", "005"], known).tolist() == [5, -1, -1, 5]


def test_any_flavour_of_string_and_a_plain_list_are_taken() -> None:
    known = pa.array(["a", "b"], pa.string_view())
    for ids in (["b"], pa.array(["b"]).dictionary_encode(), pa.chunked_array([["b"]], pa.large_string())):
        assert rows_of(ids, known).tolist() == [1]
    assert rows_of([], known).shape == (0,)


def test_numbers_are_not_taken_for_ids() -> None:
    with pytest.raises(pa.ArrowTypeError):
        rows_of([1, 2], pa.array(["1", "2"]))
