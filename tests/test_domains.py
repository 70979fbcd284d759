"""Category domains: the level that is taken, the few that are kept, and look-ups by id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonrec.domains import MOST_DOMAINS, OTHER, Domains, category_levels, item_domains
from moonrec.errors import UserError
from moonrec.exchange.observations import ALL
from moonrec.tables import ITEMS, Table, open_table


def catalogue(folder: Path, categories: list[str | None] | None) -> Table:
    count = 3 if categories is None else len(categories)
    columns = {"item_id": [f"{row:03}" for row in range(count)], "title": ["x"] * count}
    table = pa.table(columns)
    if categories is not None:
        table = table.append_column("category", pa.array(categories, pa.string()))
    pq.write_table(table, folder / "items.parquet")
    return open_table(folder / "items.parquet", ITEMS)


def told(domains: Domains) -> list[str | None]:
    names: list[str | None] = domains.names_of(domains.code_N).to_pylist()
    return names


def test_the_first_level_at_which_categories_differ_is_taken(tmp_path: Path) -> None:
    items = catalogue(tmp_path, ["Home > Food > Tea", "Home>Food>Jam", "Home > Pets", None, "Home", " > "])
    domains = item_domains(items)
    assert (domains.level, domains.names) == (2, ["Food", "Pets"])
    assert told(domains) == ["Food", "Food", "Pets", None, None, None]


def test_a_level_can_be_asked_for_if_the_catalogue_has_it(tmp_path: Path) -> None:
    items = catalogue(tmp_path, ["Home > Food > Tea", "Home > Food > Jam", "Home > Pets", None])
    assert told(item_domains(items, 1)) == ["Home", "Home", "Home", None]
    assert told(item_domains(items, 3)) == ["Tea", "Jam", None, None]
    for level in (0, 4):
        with pytest.raises(UserError, match=f"--domain-level {level}: .* have 3 levels"):
            item_domains(items, level)


@pytest.mark.parametrize("categories", [None, ["A", "A", None], [None, None]])
def test_a_catalogue_without_differing_categories_has_no_domains(
    categories: list[str | None] | None, tmp_path: Path
) -> None:
    domains = item_domains(catalogue(tmp_path, categories))
    assert (domains.level, domains.names) == (0, [])
    assert (domains.code_N == -1).all()
    assert told(domains) == [None] * len(domains.ids)


def test_the_most_frequent_domains_are_kept_and_the_rest_is_other(tmp_path: Path) -> None:
    names = [f"c{number:02}" for number in range(15) for _ in range(20 - number)]
    domains = item_domains(catalogue(tmp_path, [*names, None]))
    assert domains.names == [*(f"c{number:02}" for number in range(MOST_DOMAINS - 1)), OTHER]
    counts = np.bincount(domains.code_N[:-1])
    assert counts.tolist() == [*range(20, 9, -1), 9 + 8 + 7 + 6]


def test_ids_are_looked_up_in_any_order_and_unknown_ones_have_no_domain(tmp_path: Path) -> None:
    domains = item_domains(catalogue(tmp_path, ["b", "a", None, "b"]))
    assert domains.names == ["b", "a"]
    assert domains.of(["003", "nobody", "001", "002", "000"]).tolist() == [0, -1, 1, -1, 0]
    assert domains.of(pa.chunked_array([["001"], ["000"]])).tolist() == [1, 0]
    assert domains.of([]).tolist() == []


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([None, *"abcdefghijklmnop", OTHER]), min_size=1, max_size=60))
def test_every_item_with_a_category_is_in_its_own_domain_or_in_other(
    tmp_path_factory: pytest.TempPathFactory, categories: list[str | None]
) -> None:
    domains = item_domains(catalogue(tmp_path_factory.mktemp("t"), categories))
    assert len(domains.names) == len(set(domains.names)) <= MOST_DOMAINS
    if domains.level == 0:
        assert len(set(categories) - {None}) < 2
        return
    for name, found in zip(categories, told(domains), strict=True):
        assert found == (name if name in domains.names else None if name is None else OTHER)


def test_a_category_named_as_studies_name_the_whole_catalogue_gets_another_name(tmp_path: Path) -> None:
    domains = item_domains(catalogue(tmp_path, [ALL, ALL, "b", None]))
    assert domains.names == ["all (category)", "b"]
    assert told(domains) == ["all (category)", "all (category)", "b", None]


def test_category_levels_drop_what_is_empty() -> None:
    assert category_levels("A > B>C") == ("A", "B", "C")
    assert category_levels(None) == category_levels(" > ") == ()
