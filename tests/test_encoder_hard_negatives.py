"""Hard negatives: of the same category as far as it goes, and never an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.hard_negatives import CategoryTree, HardNegatives, text_codes
from encoders.pairs import Pairs
from moonrec.domains import category_levels
from moonrec.tables import ITEMS, open_table

CATEGORIES = st.sampled_from([None, "A", "A > B", "A > B > C", "A > B > D", "A > E", "F", "F > G", "F>G"])
ITEM = st.tuples(CATEGORIES, st.integers(0, 6), st.integers(-1, 5))


def pairs_of(
    positive: list[int],
    *,
    anchor: list[int] | None = None,
    user: list[int] | None = None,
    own: list[int] | None = None,
    shown: list[int] | None = None,
) -> Pairs:
    nothing = [-1] * len(positive)
    parts = (anchor or list(range(100, 100 + len(positive))), positive, user or nothing, own or nothing)
    return Pairs(*(np.array(part) for part in (*parts, shown or nothing)))


def hard(
    categories: Sequence[str | None],
    pairs: Pairs,
    product: list[int] | None = None,
    text: list[int] | None = None,
    seed: int = 0,
    known: Pairs | None = None,
) -> HardNegatives:
    codes = np.arange(len(categories)) if product is None else np.array(product)
    texts = np.full(len(categories), -1) if text is None else np.array(text)
    return HardNegatives(CategoryTree(categories, codes), texts, pairs, seed, known=known)


@settings(max_examples=100, deadline=None)
@given(st.lists(ITEM, min_size=1, max_size=16), st.data())
def test_no_answer_is_ever_drawn_and_the_category_is_as_deep_as_can_be(
    items: list[tuple[str | None, int, int]], data: st.DataObject
) -> None:
    categories = [category for category, _, _ in items]
    product, text = [code for _, code, _ in items], [code for _, _, code in items]
    row = st.integers(0, len(items) - 1)
    drawn = data.draw(
        st.lists(
            st.tuples(row, st.integers(-1, 1), st.integers(100, 102), st.just(-1) | row, row),
            min_size=1,
            max_size=8,
        )
    )
    positive, user, anchor, own, shown = (list(part) for part in zip(*drawn, strict=True))
    pairs = pairs_of(positive, anchor=anchor, user=user, own=own, shown=shown)
    negatives = hard(categories, pairs, product, text)
    for step in range(3):
        found = negatives.rows(np.arange(len(pairs)), epoch=1, step=step, count=2)
        for number, (mine, taken, asked) in enumerate(zip(positive, user, anchor, strict=True)):
            group = [
                other
                for other in range(len(pairs))
                if (user[other] == taken if taken >= 0 else user[other] < 0 and anchor[other] == asked)
            ]
            answers = {product[positive[other]] for other in group}
            answers |= {product[own[other]] for other in group if own[other] >= 0}

            def allowed(item: int, mine: int = mine, answers: set[int] = answers) -> bool:
                return product[item] not in answers and (text[item] < 0 or text[item] != text[mine])

            row_found = [item for item in found[number].tolist() if item >= 0]
            assert all(allowed(item) for item in row_found)
            assert len(set(row_found)) == len(row_found)
            possible = [item for item in range(len(items)) if allowed(item)]
            # Below the root every draw may fail by bad luck; at it, 8 rounds on 16 items hardly can.
            if len(possible) >= len(items) / 2 and len(possible) > 1:
                assert row_found


def test_the_deepest_category_with_another_product_is_used() -> None:
    categories = ["A > B > C", "A > B > C", "A > B > D", "A > E", "F", None]
    product = [0, 0, 1, 2, 3, 4]
    negatives = hard(categories, pairs_of([0, 2, 3, 4, 5]), product)
    drawn = np.stack([negatives.rows(np.arange(5), epoch=1, step=step)[:, 0] for step in range(200)])
    found = [set(column.tolist()) for column in drawn.T]
    assert found[0] == {2}  # C has SKUs of one product only, B has D
    assert found[1] == {0, 1}  # D is alone
    assert found[2] == {0, 1, 2}  # E is alone, A has B
    assert found[3] == {0, 1, 2, 3, 5}  # nothing but everything
    assert found[4] == {0, 1, 2, 3, 4}


def test_draws_are_even_over_the_category_and_step_over_the_positives_skus() -> None:
    categories = ["A"] * 10 + ["B"] * 90
    product = [0] * 6 + [1, 2, 3, 4] + list(range(5, 95))
    negatives = hard(categories, pairs_of([0] * 4000), product)
    found = negatives.rows(np.arange(4000), epoch=0, step=0)[:, 0]
    assert np.bincount(found, minlength=100)[6:10] == pytest.approx(1000, abs=130)
    assert set(found) == {6, 7, 8, 9}


def test_a_category_whose_other_products_are_all_answers_gives_way_to_a_wider_one() -> None:
    categories = ["A > B", "A > B", "A > C", "D"]
    pairs = pairs_of([0, 1], anchor=[100, 100])
    found = hard(categories, pairs).rows(np.arange(2), epoch=0, step=0, count=2)
    assert [sorted(row) for row in found.tolist()] == [[2, 3], [2, 3]]
    cleaned_away = pairs_of([2], anchor=[100])
    found = hard(categories, pairs, known=cleaned_away).rows(np.arange(2), epoch=0, step=0, count=2)
    assert found.tolist() == [[3, -1], [3, -1]]


def test_where_nothing_else_is_there_no_negative_is_drawn() -> None:
    assert (
        hard(["A", "A"], pairs_of([0, 1]), [0, 0]).rows(np.arange(2), 0, 0, count=3).tolist()
        == [[-1] * 3] * 2
    )
    assert hard(["A", None], pairs_of([0]), text=[4, 4]).rows(np.arange(1), 0, 0).tolist() == [[-1]]


def test_what_was_shown_and_not_taken_is_half_of_the_draws_unless_it_is_an_answer() -> None:
    categories = ["A"] * 50 + ["B"] * 2
    many = pairs_of([0] * 2000, shown=[50] * 2000)
    found = hard(categories, many).rows(np.arange(2000), epoch=0, step=0)
    assert np.mean(found == 50) == pytest.approx(0.5, abs=0.05)
    taken = pairs_of([0, 50], anchor=[100, 100], shown=[50, -1])
    steps = [hard(categories, taken).rows(np.array([0]), epoch=0, step=s)[0, 0] for s in range(50)]
    assert 50 not in steps


def test_seed_epoch_and_step_decide_the_draws() -> None:
    categories = ["A"] * 500
    pairs = pairs_of(list(range(200)))
    rows = np.arange(200)
    first = hard(categories, pairs).rows(rows, epoch=1, step=2)
    assert np.array_equal(hard(categories, pairs).rows(rows, epoch=1, step=2), first)
    others = [
        hard(categories, pairs).rows(rows, 2, 2),
        hard(categories, pairs).rows(rows, 1, 3),
        hard(categories, pairs, seed=1).rows(rows, 1, 2),
    ]
    assert all(not np.array_equal(other, first) for other in others)


def test_pairs_of_a_batch_are_looked_up_by_their_numbers() -> None:
    categories = ["A", "A", "B", "B"]
    found = hard(categories, pairs_of([0, 1, 2, 3])).rows(np.array([3, 0, 3]), epoch=0, step=0)
    assert found.tolist() == [[2], [1], [2]]


def test_levels_of_a_category_and_codes_of_titles(tmp_path: Path) -> None:
    assert category_levels("A > B>C") == ("A", "B", "C")
    assert category_levels(None) == category_levels(" > ") == ()
    titles = ["Red  Sock", "red sock ", None, "sock", " ", "RED SOCK"]
    rows = [{"item_id": str(k), "title": title} for k, title in enumerate(titles)]
    codes = text_codes(open_table(write_table(tmp_path / "items.parquet", rows), ITEMS)).tolist()
    assert codes[0] == codes[1] == codes[5] != codes[3]
    assert codes[2] == codes[4] == -1
