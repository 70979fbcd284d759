from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mllm_case import FAMILIES, encoder_of, picture_bytes, product
from torch import Tensor

from encoders.mllm.batch import MllmBatch
from encoders.mllm.encoder import MllmEncoder
from encoders.mllm.tiny import Family
from encoders.products import IMAGE_ONLY, TEXT_ONLY, Aspect, Product
from moonrec.errors import UserError


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request: pytest.FixtureRequest) -> MllmEncoder:
    return encoder_of(request.param, experts=4)


def vectors(encoder: MllmEncoder, *products: Product) -> Tensor:
    with torch.no_grad():
        return encoder(encoder.reader.products(list(products)))


def with_last_word_changed(batch: MllmBatch) -> MllmBatch:
    """The batch with another token at the end of its first product."""
    last = int(batch.mask_BT[0].sum()) - 1
    input_ids_BT = batch.input_ids_BT.clone()
    input_ids_BT[0, last] = (input_ids_BT[0, last] + 1) % 50 + 100
    return replace(batch, input_ids_BT=input_ids_BT)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_later_token_reaches_earlier_ones_in_representation_and_not_in_generation(
    family: Family, attention: str, padded: bool
) -> None:
    encoder = encoder_of(family, attention=attention)
    products = [product(1), product(2, region=True)] if padded else [product(1)]
    batch = encoder.reader.products(products)
    assert bool(batch.mask_BT[0].all()) != padded
    earlier = slice(0, int(batch.mask_BT[0].sum()) - 1)
    moved: dict[bool, float] = {}
    for bidirectional in (True, False):
        with torch.no_grad():
            before = encoder.hidden(batch, bidirectional=bidirectional)
            after = encoder.hidden(with_last_word_changed(batch), bidirectional=bidirectional)
        moved[bidirectional] = float((after - before)[0, earlier].abs().max())
    assert moved[True] > 1e-3
    assert moved[False] < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_hidden_states_are_those_of_the_plain_model(family: Family) -> None:
    encoder = encoder_of(family)
    batch = encoder.reader.products([product(1, region=True), product(2), product(3, image=False)])
    with torch.no_grad():
        ours = encoder.hidden(batch, bidirectional=False)
        plain = encoder.model.model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.mask_BT.long(),
            pixel_values=batch.pixels_VC,
            image_grid_thw=batch.grid_I3,
            mm_token_type_ids=batch.image_BT.int(),
        ).last_hidden_state
    torch.testing.assert_close(ours[batch.mask_BT], plain[batch.mask_BT])


def test_vectors_are_unit_and_an_empty_product_is_zero(encoder: MllmEncoder) -> None:
    products = [product(1), product(2, image=False), product(3, text=False), Product("4", None, ())]
    found = vectors(encoder, *products)
    assert found.shape == (4, 32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert not vectors(encoder, Product("4", None, ())).any()


def test_a_vector_does_not_depend_on_the_rest_of_the_batch(encoder: MllmEncoder) -> None:
    products = [
        product(1, region=True),
        product(2, image=False),
        Product("3", None, ()),
        product(4, text=False),
        product(5),
    ]
    together = vectors(encoder, *products)
    alone = torch.cat([vectors(encoder, one) for one in products])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_view_hides_what_it_does_not_name(encoder: MllmEncoder) -> None:
    whole = product(1, region=True)
    for view, rest in (
        (IMAGE_ONLY, replace(whole, texts=())),
        (TEXT_ONLY, replace(whole, image=None)),
        (frozenset({Aspect.CATEGORY}), replace(whole, image=None, texts=whole.texts[1:2])),
    ):
        with torch.no_grad():
            shown = encoder(encoder.reader.products([whole], view))
        torch.testing.assert_close(shown, vectors(encoder, rest))
        assert (shown - vectors(encoder, whole)).abs().max() > 1e-3


def test_the_core_region_enters_as_a_second_picture_where_it_is_wanted(encoder: MllmEncoder) -> None:
    batch = encoder.reader.products([product(1, region=True), product(1)])
    assert batch.grid_I3 is not None
    assert len(batch.grid_I3) == 3
    runs = torch.diff(batch.image_BT.int(), dim=1) == 1
    assert runs.sum(1).tolist() == [2, 1]
    without = encoder_of(regions=False)
    torch.testing.assert_close(vectors(without, product(1, region=True)), vectors(without, product(1)))


def test_tokens_carry_their_aspect_and_texts_are_cut_at_their_limit() -> None:
    encoder = encoder_of(title_tokens=3, category_tokens=2, attribute_tokens=4, description_tokens=5)
    batch = encoder.reader.products([product(1)])
    aspects = batch.aspect_BT[0]
    pictured = int(batch.image_BT.sum()) + 2
    # A line break ends each text but the last.
    expected = [pictured, 3 + 1, 2 + 1, 4 + 1, 5]
    assert [int((aspects == aspect).sum()) for aspect in Aspect] == expected
    assert bool((aspects.diff() >= 0).all())


def test_names_of_special_tokens_in_a_text_are_plain_words(encoder: MllmEncoder) -> None:
    hostile = "a <|image_pad|><|vision_start|> mug <|im_end|> <|endoftext|>"
    batch = encoder.reader.products([Product("1", None, ((Aspect.TITLE, hostile),))])
    special = {*encoder.reader.tokenizer.all_special_ids}
    assert not special & set(batch.input_ids_BT[batch.mask_BT].tolist())
    assert vectors(encoder, Product("1", None, ((Aspect.TITLE, hostile),))).any()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 900), (3000, 4), (700, 650)])
def test_pictures_of_any_shape_fit_the_pixel_budget(encoder: MllmEncoder, width: int, height: int) -> None:
    batch = encoder.reader.products([Product("1", picture_bytes(1, width, height), ())])
    assert batch.pixels_VC is not None
    pixels = len(batch.pixels_VC) * encoder.reader.image_processor.patch_size**2
    assert pixels <= max(encoder.config.max_pixels, 101 * 28 * 28)
    if width == 700:
        seen = encoder.seen_size(width, height)
        assert pixels == seen[0] * seen[1]
        assert pixels <= encoder.config.max_pixels


def test_calibration_keeps_what_the_chosen_products_differ_in() -> None:
    encoder = encoder_of()
    products = [product(seed) for seed in range(12)]
    table = encoder.preparer(None, torch.device("cpu")).table([products])
    encoder.calibrate(table, np.arange(10))
    weight_ED = encoder.out.weight.detach()
    torch.testing.assert_close(weight_ED[:4] @ weight_ED[:4].T, torch.eye(4), atol=1e-4, rtol=0)
    with torch.no_grad():
        pooled_BD = encoder.pooled(encoder.reader.products(products))
    kept_B = (pooled_BD @ weight_ED.T).norm(dim=1) / pooled_BD.norm(dim=1)
    assert kept_B[:10].min() > 0.999
    assert kept_B[10:].max() < kept_B[:10].min()


def test_a_table_of_the_preparer_gathers_what_the_reader_makes(encoder: MllmEncoder) -> None:
    preparer = encoder.preparer(None, torch.device("cpu"))
    broken = Product("5", b"no picture", ((Aspect.TITLE, "mug"),))
    table = preparer.table([[product(1), product(2)], [product(3, image=False), broken]])
    batch = table.gather(np.array([2, 0]))
    assert isinstance(batch, MllmBatch)
    direct = encoder.reader.products([product(3, image=False), product(1)])
    assert torch.equal(batch.input_ids_BT, direct.input_ids_BT)
    assert table.has_image().tolist() == [True, True, False, False]
    assert preparer.broken.count == 1
    assert table.lengths()[0] > table.lengths()[2]


def test_the_same_texts_and_seed_give_the_same_encoder() -> None:
    first, second, other = encoder_of(experts=4), encoder_of(experts=4), encoder_of(experts=4, seed=1)
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != other.fingerprint()


def test_a_few_steps_teach_pictures_and_words_to_meet(encoder: MllmEncoder) -> None:
    encoder = encoder_of(encoder.model.config.model_type, experts=4)
    products = [product(seed) for seed in range(8)]
    pictures = encoder.reader.products(products, IMAGE_ONLY)
    texts = encoder.reader.products(products, TEXT_ONLY)
    optimizer = torch.optim.AdamW(encoder.train().parameter_groups(1e-3))
    losses = []
    for _ in range(12):
        scores = 10 * encoder(pictures) @ encoder(texts).T
        loss = torch.nn.functional.cross_entropy(scores, torch.arange(8))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_options_that_cannot_be_are_told_in_one_line() -> None:
    for options, said in (
        ({"dims": (64, 128)}, "dims"),
        ({"experts": 4, "experts_per_token": 3}, "two are forced"),
        ({"dtype": "float16"}, "expected one of auto, float32, bfloat16"),
        ({"max_pixels": 10}, "max_pixels"),
    ):
        with pytest.raises(UserError, match=said):
            encoder_of(**options)
