"""Enriched titles: the item's own words only, none twice, bounded; a model's answers are held to the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mllm_case import encoder_of
from mllm_case import product as mllm_product
from PIL import Image

from encoders.augment.answers import cleaned, refusal
from encoders.augment.enrich_mllm import MllmEnricher, prompt
from encoders.augment.enrich_rules import RuleEnricher
from encoders.augment.facts import Facts
from encoders.augment.title import LONGEST_CHARACTERS, MOST_WORDS, cut_title, fits
from encoders.entities import words
from encoders.products import Aspect, Product


def item(
    title: str = "",
    category: str = "",
    attributes: str = "",
    description: str = "",
    image: bytes | None = None,
) -> Product:
    texts = zip(
        (Aspect.TITLE, Aspect.CATEGORY, Aspect.ATTRIBUTES, Aspect.DESCRIPTION),
        (title, category, attributes, description),
        strict=True,
    )
    return Product("a", image, tuple((aspect, text) for aspect, text in texts if text))


def by_rules(product: Product) -> tuple[str | None, str]:
    enriched = RuleEnricher().enrich([product])[0]
    return enriched.title, enriched.source


LAMP = item(
    "Oak table lamp",
    "Home, Decor, Lamps",
    "material: oak, brand: Kestrel & Co, dimmable: yes, wireless: no, weight: 450",
    "A lamp for the warm evening. Ships in two days.",
)
FIELD = st.text(st.sampled_from("abc deé, .:;-&7ö红色连衣裙ผ้า\n(Ⅻ"), max_size=40)


def test_a_title_gets_what_the_other_fields_say_and_it_does_not() -> None:
    assert by_rules(LAMP) == (
        "Oak table lamp, Lamps, Kestrel & Co, dimmable, weight 450, warm evening",
        "rules",
    )


def test_of_a_phrase_that_is_known_in_part_the_rest_is_added() -> None:
    assert by_rules(item("Sky vase", attributes="color: sky blue"))[0] == "Sky vase, blue"


def test_an_item_without_a_title_gets_one_from_its_fields() -> None:
    assert by_rules(item(category="Home, Vases", attributes="color: blue"))[0] == "Vases, blue"


def test_words_of_scripts_without_spaces_are_not_repeated_wherever_they_are_cut() -> None:
    assert by_rules(item("新款红色连衣裙", attributes="颜色: 红色, 材质: 纯棉"))[0] == "新款红色连衣裙, 纯棉"


@pytest.mark.parametrize(
    ("product", "reason"),
    [
        (item(), "the item has no words"),
        (item("!!"), "the item has no words"),
        (item("Red mug", "Red", "color: red, new: no", "The mug."), "the other fields say nothing new"),
        (item("word " * 30, "Lamps"), "the title is as long as titles may be"),
    ],
)
def test_a_title_stands_where_there_is_nothing_to_add(product: Product, reason: str) -> None:
    assert by_rules(product) == (None, f"kept: {reason}")


@given(FIELD, FIELD, st.lists(st.tuples(FIELD, FIELD), max_size=5), FIELD)
@settings(max_examples=300, deadline=None)
def test_every_word_of_an_enriched_title_is_the_items_own(
    title: str, category: str, attributes: list[tuple[str, str]], description: str
) -> None:
    listed = ", ".join(f"{name}: {value}" for name, value in attributes)
    enriched, _ = by_rules(item(title, category, listed, description))
    if enriched is None:
        return
    own = f"{title} {category} {listed} {description}"
    tokens, own_tokens = ({token.strip(".,:;-&()") for token in text.split()} for text in (enriched, own))
    assert tokens <= own_tokens | {""}
    assert enriched.startswith(" ".join(title.split()).strip())
    assert fits(enriched)


@pytest.mark.parametrize(
    ("product", "title"),
    [
        (item("Oak lamp", description="This lamp is not dimmable and contains no lead."), None),
        (item("Cola", description="Without sugar, without caffeine"), None),
        (item("Phone case", description="Not for iPhone 12. Fits Pixel."), None),
        (item("Oak lamp", description="The lamp isn’t dimmable."), None),
        (item("Oak lamp", description="Is the lamp dimmable? See below."), None),
        (item("Eichenlampe", description="Eichenlampe, nicht dimmbar."), None),
        (item("红色 台灯", description="红色 台灯 不可调光。"), None),
        (item("Oak lamp", attributes="bulb: not included"), "Oak lamp, bulb not included"),
        (item("Oak lamp, not painted", attributes="feature: not dimmable"), None),
        (item("Cola", attributes="sugar: 0, lemon: No., caffeine: none, award: n/a, fat: 0.0 %"), None),
    ],
)
def test_what_an_item_denies_is_never_affirmed(product: Product, title: str | None) -> None:
    assert by_rules(product)[0] == title


@given(st.lists(st.sampled_from(["red", "mug", "steel", "large", "no", "without"]), min_size=1, max_size=8))
def test_nothing_is_taken_from_a_sentence_with_a_negation(said: list[str]) -> None:
    enriched = by_rules(item("mug", description=" ".join(said)))[0]
    assert enriched is None or {"no", "without"}.isdisjoint(said)


@pytest.mark.parametrize("said", ["Made in Europe.", "Carefully packed, shipped within two days."])
def test_of_a_description_that_begins_with_something_else_nothing_is_taken(said: str) -> None:
    assert by_rules(item("Oak bottle", description=f"{said} The bottle is green."))[0] is None
    assert by_rules(item("Oak bottle", description="This bottle is green."))[0] == "Oak bottle, green"


@given(st.lists(st.sampled_from(["red", "mug", "Steel", "large", "the", "2"]), min_size=1, max_size=6))
def test_no_word_is_added_twice(said: list[str]) -> None:
    title, *others = said
    attributes = ", ".join(f"name{n}: {value} {value}" for n, value in enumerate(others))
    enriched = by_rules(item(title, attributes=attributes, description=" ".join(said)))[0]
    content = [word for word in words(enriched or "") if word in ("red", "mug", "steel", "large")]
    assert len(content) == len(set(content))


@given(st.text(st.sampled_from("ab c,红é-"), max_size=400))
def test_a_cut_title_is_bounded_and_a_beginning_of_the_whole(title: str) -> None:
    short = cut_title(title)
    assert fits(short)
    assert title.startswith(short)


def test_a_title_is_cut_after_a_word() -> None:
    short = cut_title("sturdy " * 40)
    assert short == " ".join(["sturdy"] * 23)
    assert len(cut_title("x" * 500)) == LONGEST_CHARACTERS
    assert len(list(words(cut_title("a b " * 40)))) == MOST_WORDS


class Scripted:
    """A writer that answers from a list and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.prompts: list[str] = []
        self.pictures: list[Image.Image | None] = []

    def generate(
        self, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int = 64
    ) -> list[str]:
        self.prompts += prompts
        self.pictures += images
        return [self._answers.pop(0) for _ in prompts]

    def fingerprint(self) -> str:
        return "scripted"


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Warm dimmable oak table lamp by Kestrel & Co", "Warm dimmable oak table lamp by Kestrel & Co"),
        ('**Title:** "Oak table lamp, dimmable"', "Oak table lamp, dimmable"),
        ("Sure! Here is the title:\n\nOak Table Lamp, 450.", "Oak Table Lamp, 450"),
        ("Oak table lamps for warm evenings", "Oak table lamps for warm evenings"),
    ],
)
def test_an_answer_that_says_what_the_item_says_is_taken(answer: str, title: str) -> None:
    enriched = MllmEnricher(Scripted(answer), "some").enrich([LAMP])[0]
    assert (enriched.title, enriched.source) == (title, "mllm:some")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "the answer is empty"),
        (" \n\x00 ?!… \n", "the answer is empty"),
        ("Here is the title:", "the answer is empty"),
        ("qzx vrrt plonk", "the answer has nothing of the item"),
        ("oak oak oak oak oak oak", "the answer repeats itself"),
        ("lamp oak " * 3 + "lamp", "the answer repeats itself"),
        ("Oak table lamp, 9 W", "the answer has a number that is in no field"),
        ("Oak table lamp by Philips", "the answer has words that are in no field"),
        ("Dimmable lamp", "the answer leaves out most of the title"),
        ("Oak Table Lamp", "the answer says nothing new"),
        ("Oak table lamp " + " ".join(f"{a}{b}" for a in "abcdefghijklm" for b in "nopqrstuvwxyz"), None),
        ("oak table lamp " + "dimmable " * 200, "the answer is far too long"),
        ("Oak table lamp, not dimmable", "the answer denies something else than the title"),
        ("Oak table lamp, dimmable-free", "the answer denies something else than the title"),
        ("Wireless oak table lamp", "the answer has words that are in no field"),
    ],
)
def test_an_answer_that_is_no_honest_title_is_refused(answer: str, reason: str | None) -> None:
    enriched = MllmEnricher(Scripted(answer), "some").enrich([LAMP])[0]
    assert enriched.title is None
    assert enriched.source.startswith("kept: the answer")
    assert reason is None or enriched.source == f"kept: {reason}"


@pytest.mark.parametrize(
    ("product", "answer"),
    [
        (item("Oak lamp", description="The lamp is not dimmable."), "Oak lamp, dimmable"),
        (item("Oak lamp", attributes="dimmable: none"), "Oak lamp, dimmable"),
        (item("Oak lamp", attributes="contains: no lead"), "Oak lamp, contains lead"),
        (item("Cola without sugar", "Drinks"), "Cola with sugar, drinks"),
        (item("Cola without sugar", "Caffeine"), "Cola sugar without caffeine"),
        (item("无糖可乐", "饮料"), "糖可乐 饮料"),
    ],
)
def test_an_answer_that_turns_a_negation_around_is_refused(product: Product, answer: str) -> None:
    assert MllmEnricher(Scripted(answer), "some").enrich([product])[0].title is None


def test_an_answer_may_deny_what_the_title_denies() -> None:
    cola = item("Cola without sugar, lead-free", "Drinks")
    answer = "Lead-free cola drinks without sugar"
    assert MllmEnricher(Scripted(answer), "some").enrich([cola])[0].title == answer


def test_a_chinese_answer_may_order_characters_of_the_item_anew_but_bring_none() -> None:
    facts = Facts.of(item("新款红色连衣裙", attributes="材质: 纯棉"))
    assert refusal("纯棉红色连衣裙新款", facts) is None
    assert refusal("真丝红色连衣裙新款", facts) == "the answer has words that are in no field"


def test_a_long_answer_is_cut_after_a_word() -> None:
    long = item("oak lamp", description=" ".join(f"word{n}" for n in range(60)))
    title = MllmEnricher(Scripted("oak lamp " + long.texts[1][1]), "some").enrich([long])[0].title
    assert title == "oak lamp " + " ".join(f"word{n}" for n in range(22))
    assert title is not None
    assert fits(title)


def test_a_model_is_asked_about_items_with_words_and_shown_their_pictures() -> None:
    writer = Scripted("Oak table lamp, dimmable", "Red mug, steel")
    blank, broken = item(), item("Red mug", attributes="material: steel", image=b"no picture")
    enriched = MllmEnricher(writer, "some").enrich([LAMP, blank, broken])
    assert [one.title for one in enriched] == ["Oak table lamp, dimmable", None, "Red mug, steel"]
    assert enriched[1].source == "kept: the item has no words"
    assert writer.pictures == [None, None]
    assert (
        "Title: Oak table lamp\nCategory: Home, Decor, Lamps\nAttributes: material: oak" in writer.prompts[0]
    )
    assert "Entities: oak, table, lamp, warm, evening" in writer.prompts[0]
    assert len(prompt(Facts.of(item("x" * 10_000, description="y " * 10_000)))) < 1500


def test_random_weights_answer_nonsense_and_every_title_stands() -> None:
    products = [mllm_product(seed, image=seed != 1) for seed in range(3)]
    enriched = MllmEnricher(encoder_of(), "tiny").enrich(products)
    assert [one.title for one in enriched] == [None] * 3
    assert all(one.source.startswith("kept: the answer ") for one in enriched)


def test_cleaning_leaves_the_title_alone() -> None:
    assert cleaned("1. `Mug`") == "1. Mug"
    assert cleaned("标题：红色连衣裙。") == "红色连衣裙"
    assert cleaned("Title of the Song T-shirt") == "Title of the Song T-shirt"
