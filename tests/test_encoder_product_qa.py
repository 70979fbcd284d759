"""Questions about products: answers from the item's own fields, nothing asked that is shown."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import Shop, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.product_qa.fields import ProductFields
from encoders.product_qa.questions import Dialogue, ProductQA
from encoders.product_qa.split import MAX_HELD_OUT, question_plan, split_items
from encoders.product_qa.templates import parse_templates, templates
from encoders.products import Aspect
from moonrec.errors import UserError
from moonrec.tables import ITEMS, open_table

pytest_plugins = ["encoder_fixtures"]

BOOT = {
    "item_id": "b",
    "title": "Norvale leather ankle boot",
    "category": "Fashion > Footwear > Boots",
    "attributes": {"material": "leather", "weight": "500 g"},
    "description": "Made of cowhide.",
}


def qa_of(folder: Path, *rows: dict[str, Any], has_image: bool = True) -> ProductQA:
    items = open_table(write_table(folder / "items.parquet", rows), ITEMS)
    return ProductQA.from_table(items, np.full(len(rows), has_image))


def many(qa: ProductQA, row: int = 0, draws: int = 200) -> list[Dialogue]:
    return [qa.draw(np.array([row]), 0, epoch)[0] for epoch in range(draws)]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def fixed_words() -> set[str]:
    return words(" ".join(re.sub(r"\{\w+\}", " ", form.answer) for form in templates().forms))


def test_every_word_of_an_answer_is_the_items_or_the_templates(shop: Shop) -> None:
    items = open_table(shop.items, ITEMS)
    qa = ProductQA.from_table(items)
    columns = ["title", "description", "category", "attributes"]
    rows = items.read(columns).to_pylist()
    drawn: Counter[str] = Counter()
    for epoch in range(8):
        for dialogue in qa.draw(qa.rows(), 0, epoch):
            item = " ".join(str(value) for value in rows[dialogue.row].values())
            assert words(dialogue.answer) <= words(item) | fixed_words()
            assert dialogue.answer.strip()
            assert "{" not in dialogue.question + dialogue.answer
            drawn[dialogue.task] += 1
    assert drawn.keys() == {"caption", "attributes", "title", "subject", "style"}


def test_what_is_asked_about_is_hidden(tmp_path: Path) -> None:
    sources = {
        Aspect.TITLE: {"Norvale leather ankle boot"},
        Aspect.CATEGORY: {"Boots", "Fashion, Footwear, Boots"},
        Aspect.ATTRIBUTES: {"500 g", "material: leather"},
        Aspect.DESCRIPTION: {"Made of cowhide."},
    }
    for dialogue in many(qa_of(tmp_path, BOOT)):
        told = {aspect for aspect, values in sources.items() if any(v in dialogue.answer for v in values)}
        assert not told & dialogue.view


def test_templates_that_show_the_answer_are_refused() -> None:
    form = {"view": ["image", "title"], "questions": ["What is it?"], "answers": ["{subject}"]}
    values = {"tasks": {"subject": [form]}, "style_names": [], "vague_levels": [], "longest_value": 9}
    with pytest.raises(ValueError, match=r"subject.*title"):
        parse_templates(values)


def test_the_same_seed_epoch_and_row_give_the_same_question(shop: Shop) -> None:
    qa = ProductQA.from_table(open_table(shop.items, ITEMS))
    rows = qa.rows()
    again = ProductQA.from_table(open_table(shop.items, ITEMS)).draw(rows[::-1], 3, 5)[::-1]
    assert qa.draw(rows, 3, 5) == again
    for other in (qa.draw(rows, 4, 5), qa.draw(rows, 3, 6)):
        assert sum(a == b for a, b in zip(again, other, strict=True)) < len(rows) / 2


def test_questions_are_asked_only_where_the_fields_are_there(tmp_path: Path) -> None:
    bare = {"item_id": "t", "title": "Lamp"}
    unstyled = {"item_id": "w", "title": "Jar", "attributes": {"weight": "1 kg"}, "category": "Home > Jars"}
    qa = qa_of(tmp_path, BOOT, bare, unstyled, {"item_id": "n", "title": " ", "category": "Misc > Other"})
    assert qa.rows().tolist() == [0, 1, 2]
    assert {d.task for d in many(qa, 0)} == {"caption", "attributes", "title", "subject", "style"}
    assert {d.task for d in many(qa, 1)} == {"caption", "title", "subject"}
    assert {d.task for d in many(qa, 2)} == {"caption", "attributes", "title", "subject"}
    assert qa.items_per_task() == {"caption": 3, "attributes": 2, "title": 3, "subject": 3, "style": 1}
    with pytest.raises(ValueError, match="item 3"):
        qa.draw(np.array([3]), 0, 0)


def test_without_a_picture_nothing_is_asked_of_nothing(tmp_path: Path) -> None:
    lamp = {"item_id": "t", "title": "Lamp"}
    qa = qa_of(tmp_path, BOOT, lamp, has_image=False)
    assert qa.rows().tolist() == [0]
    for dialogue in many(qa):
        assert dialogue.task != "caption"
        assert dialogue.view & ProductFields.of(BOOT).aspects()


@pytest.mark.parametrize(
    ("name", "is_style"),
    [("Color", True), ("DRESS STYLE", True), ("main_colour", True), ("weight", False), ("fitment", False)],
)
def test_style_is_known_by_the_name_of_the_attribute(tmp_path: Path, name: str, is_style: bool) -> None:
    qa = qa_of(tmp_path, {"item_id": "a", "title": "Tee", "attributes": {name: "x"}})
    assert qa.items_per_task()["style"] == is_style


def test_vague_levels_of_a_category_are_no_subject(tmp_path: Path) -> None:
    vague = {"item_id": "a", "title": "Tee", "category": "Fashion > Clothing > Other"}
    answers = {d.answer for d in many(qa_of(tmp_path, vague)) if d.task == "subject"}
    assert any("Clothing" in answer for answer in answers)
    assert not any("Other" in answer for answer in answers)


def test_a_catalogue_without_anything_to_ask_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"items.parquet: no item gives a question") as caught:
        qa_of(tmp_path, {"item_id": "a", "title": None}, {"item_id": "b", "title": "Lamp"}, has_image=False)
    assert "\n" not in str(caught.value)


text = st.text(max_size=500) | st.none()
item = st.fixed_dictionaries(
    {
        "title": text,
        "description": text,
        "category": text | st.lists(st.text(max_size=9)).map(" > ".join),
        "attributes": st.lists(st.tuples(st.text(max_size=20), text), max_size=12) | st.none(),
    }
)


@settings(max_examples=100, deadline=None)
@given(row=item, seed=st.integers(0, 2**32))
def test_any_fields_fill_the_same_slots_with_short_plain_values(row: dict[str, Any], seed: int) -> None:
    made, fields = templates(), ProductFields.of(row)
    slots = fields.slots(made, np.random.default_rng(seed))
    assert slots.keys() == fields.slots(made, np.random.default_rng(0)).keys()
    for value in slots.values():
        assert 0 < len(value) <= made.longest_value
        assert value == " ".join(value.split())
    known = {" ".join(str(value).split()) for _, value in row["attributes"] or [] if value}
    if "style_value" in slots:
        assert any(value.startswith(slots["style_value"]) for value in known)


@settings(max_examples=100, deadline=None)
@given(
    products=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    questions=st.integers(1, 500),
    batch_size=st.integers(1, 50),
    shares=st.integers(1, 3),
)
def test_held_out_products_are_never_trained_on(
    products: list[int], questions: int, batch_size: int, shares: int
) -> None:
    code = np.array(products)
    split = split_items(np.arange(len(code)), code, seed=1)
    assert set(code[split.training]).isdisjoint(code[split.held_out])
    assert bool(len(split.held_out)) == (len(set(products)) > 1)
    plan = question_plan(
        split.training,
        batch_size=batch_size * shares,
        questions=questions,
        seed=1,
        epoch=2,
        equal_shares=shares,
    )
    asked = [(number, row) for number, rows in plan for row in rows.tolist()]
    assert len(set(asked)) == len(asked) <= max(questions, shares)
    assert {row for _, row in asked} <= set(split.training.tolist())
    assert all(number >= 4 for number, _ in asked), "an epoch asks what no earlier epoch asked"
    assert all(len(rows) % shares == 0 for _, rows in plan)
    assert plan or min(len(split.training), questions) < shares


def test_a_large_catalogue_holds_out_five_hundred_items() -> None:
    split = split_items(np.arange(40_000), np.arange(40_000) // 3, seed=0)
    assert MAX_HELD_OUT - 3 < len(split.held_out) <= MAX_HELD_OUT
    assert len(split.training) + len(split.held_out) == 40_000
