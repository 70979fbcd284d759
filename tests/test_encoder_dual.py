"""The dual encoder: it is the towers' own pooled features until it is trained, in all four families."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, pad

from encoders.dual import DUAL_TYPES, DualEncoder, DualOptions
from encoders.dual.inputs import DualBatch
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY, TITLE_ONLY, Aspect, Product, View
from encoders.raw_products import RawTable, decode_views
from moonrec.errors import UserError

torch.set_num_threads(1)

CPU = torch.device("cpu")
WORDS = ("red", "blue", "green", "dress", "shoes", "cup", "cotton", "glass")
CORNER = (0.0, 0.0, 0.5, 0.5)
families = pytest.mark.parametrize("family", DUAL_TYPES)


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def product(number: int, *, image: bool = True, words: bool = True, **more: Any) -> Product:
    first, second = WORDS[number % 3], WORDS[3 + number % 5]
    texts = (
        (Aspect.TITLE, f"{first.capitalize()} {second} {number}"),
        (Aspect.CATEGORY, f"{second}, things"),
        (Aspect.ATTRIBUTES, f"colour: {first}"),
    )
    return Product(f"p{number}", picture(number) if image else None, texts if words else (), **more)


PRODUCTS = [
    product(0),
    product(1, region=CORNER),
    product(2, words=False),
    product(3, image=False),
    product(4, image=False, words=False),
    product(5),
]


def tiny(family: str = "clip", **options: Any) -> DualEncoder:
    return DualEncoder.tiny(WORDS, family=family, options=DualOptions(**{"dims": (24,)} | options))


def gathered(table: RawTable, rows: np.ndarray) -> DualBatch:
    batch = table.gather(rows)
    assert isinstance(batch, DualBatch)
    return batch


def table_of(encoder: DualEncoder, products: list[Product]) -> RawTable:
    return encoder.preparer(None, CPU).table([products])


@torch.no_grad()
def vectors(encoder: DualEncoder, products: list[Product], view: View = EVERYTHING) -> Tensor:
    return encoder(table_of(encoder, products).gather(np.arange(len(products)), view))


@torch.no_grad()
def by_hand(encoder: DualEncoder, products: list[Product]) -> Tensor:
    """Image plus text feature as transformers gives them, one product at a time; zeros where empty."""
    towers, reader = encoder.towers, encoder._reader
    family = towers.config.model_type
    rows = []
    for one in products:
        row = torch.zeros(1, 24)
        seen = []
        for shot in decode_views(one, 1000):
            pixels = reader.processor(images=shot, return_tensors="pt")
            seen.append(normalize(towers.get_image_features(**pixels).pooler_output))
        if seen:
            row = row + normalize(torch.stack(seen).mean(0))
        if one.texts:
            text = ". ".join(part for _, part in one.texts)
            if family.startswith("siglip"):
                ids = reader.tokenizer(text.lower())["input_ids"]
                ids += [reader.tokenizer.pad_token_id] * (64 - len(ids))
                read = towers.get_text_features(torch.tensor([ids]))
            else:
                read = towers.get_text_features(**reader.tokenizer([text], return_tensors="pt"))
            row = row + normalize(read.pooler_output)
        rows.append(row)
    return normalize(torch.cat(rows))


@families
def test_untrained_it_is_the_towers_own_features_pooled(family: str) -> None:
    encoder = tiny(family)
    torch.testing.assert_close(vectors(encoder, PRODUCTS), by_hand(encoder, PRODUCTS), atol=2e-6, rtol=0)
    wider = tiny(family, dims=(32,))
    expected = pad(by_hand(wider, PRODUCTS), (0, 8))
    torch.testing.assert_close(vectors(wider, PRODUCTS), expected, atol=2e-6, rtol=0)


@families
def test_vectors_are_unit_or_zero_and_do_not_depend_on_the_batch(family: str) -> None:
    encoder = tiny(family)
    together = vectors(encoder, PRODUCTS)
    assert together.dtype == torch.float32
    lengths = torch.tensor([1.0, 1, 1, 1, 0, 1])
    torch.testing.assert_close(together.norm(dim=1), lengths)
    alone = torch.cat([vectors(encoder, [one]) for one in PRODUCTS])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    assert vectors(encoder, [PRODUCTS[4]]).tolist() == [[0.0] * 24]


@families
def test_a_view_shows_what_the_product_without_the_rest_would_show(family: str) -> None:
    encoder = tiny(family)
    views = {
        IMAGE_ONLY: [product(0, words=False), product(1, words=False, region=CORNER)],
        TEXT_ONLY: [product(0, image=False), product(1, image=False)],
        TITLE_ONLY: [Product("", None, product(n).texts[:1]) for n in range(2)],
    }
    for view, without in views.items():
        assert torch.equal(vectors(encoder, PRODUCTS[:2], view), vectors(encoder, without))
    hidden = table_of(encoder, PRODUCTS).gather(np.arange(6), IMAGE_ONLY)
    assert hidden.is_empty_B().tolist() == [False, False, False, True, True, False]
    everything = table_of(encoder, PRODUCTS).gather(np.arange(6))
    assert everything.is_empty_B().tolist() == [False] * 4 + [True, False]
    assert len(everything.to("cpu")) == 6


def test_the_core_region_counts_only_where_it_is_wanted() -> None:
    plain, cropped, whole = (product(1, region=region) for region in (None, CORNER, (0.0, 0.0, 1.0, 1.0)))
    seen = vectors(tiny(), [plain, cropped, whole])
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    torch.testing.assert_close(seen[0], seen[2])
    blind = vectors(tiny(regions=False), [plain, cropped])
    assert torch.equal(blind[0], blind[1])


def test_narrow_vectors_start_at_the_principal_directions() -> None:
    items = [product(n) for n in range(5)]
    wide = vectors(tiny(), items)
    narrow = tiny(dims=(8,))
    before = vectors(narrow, items)
    narrow.calibrate(table_of(narrow, items))
    after = vectors(narrow, items)
    # Five products span five directions: eight dimensions hold all of them.
    torch.testing.assert_close(after @ after.T, wide @ wide.T, atol=1e-5, rtol=0)
    assert (before @ before.T - wide @ wide.T).abs().max() > 1e-3


def test_calibration_keeps_the_cosines_of_products_it_never_saw() -> None:
    wide = vectors(tiny(), [product(n) for n in range(12)])
    matryoshka = tiny(dims=(24, 4))
    matryoshka.calibrate(table_of(matryoshka, [product(n) for n in range(12)]), np.arange(4))
    seen = vectors(matryoshka, [product(n) for n in range(12)])
    torch.testing.assert_close(seen @ seen.T, wide @ wide.T, atol=1e-5, rtol=0)
    head = normalize(seen[:4, :4])
    torch.testing.assert_close(head @ head.T, (wide @ wide.T)[:4, :4], atol=1e-5, rtol=0)


def test_calibrating_on_nothing_leaves_a_usable_encoder() -> None:
    encoder = tiny(dims=(8,))
    encoder.calibrate(table_of(encoder, []))
    assert torch.isfinite(vectors(encoder, PRODUCTS)).all()


def contrast(anchors: Tensor, positives: Tensor) -> Tensor:
    target = torch.arange(len(anchors))
    return cross_entropy(anchors @ positives.T * 10, target)


@pytest.mark.parametrize(
    ("family", "rate", "steps"),
    [("clip", 0.01, 35), ("siglip", 0.01, 20), ("siglip2", 0.01, 20), ("chinese_clip", 0.02, 60)],
)
def test_training_brings_photos_and_titles_of_a_product_together(
    family: str, rate: float, steps: int
) -> None:
    torch.manual_seed(0)
    encoder = tiny(family).train()
    items = [product(n) for n in range(12)]
    table, rows = table_of(encoder, items), np.arange(12)
    photos, titles = table.gather(rows, IMAGE_ONLY), table.gather(rows, TITLE_ONLY)
    optimizer = torch.optim.AdamW(encoder.parameter_groups(rate))
    losses = []
    for _ in range(steps):
        loss = contrast(encoder(photos), encoder(titles))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@families
def test_every_weight_that_is_to_be_trained_gets_a_gradient(family: str) -> None:
    encoder = tiny(family).train()
    encoder(table_of(encoder, PRODUCTS).gather(np.arange(6)))[:, 0].sum().backward()
    groups = encoder.parameter_groups(1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in encoder.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trained)
    missing = [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    fresh, pretrained = groups
    assert fresh["lr"] == 1e-3
    assert pretrained["lr"] == pytest.approx(1e-4)
    assert {id(encoder.out.weight), id(encoder.out.bias)} == {id(p) for p in fresh["params"]}


@families
def test_with_experts_it_starts_as_the_dense_encoder(family: str) -> None:
    dense, guided = tiny(family), tiny(family, experts=4)
    torch.testing.assert_close(vectors(guided, PRODUCTS), vectors(dense, PRODUCTS), atol=1e-5, rtol=0)
    (first, *_) = guided.guided_experts()
    assert first.statistics is not None
    counts_AX = first.statistics.aspect_counts_AX
    assert counts_AX[Aspect.CATEGORY, 0] > 0
    assert counts_AX[Aspect.CATEGORY, 1:].sum() == 0
    assert counts_AX[Aspect.ATTRIBUTES, 1] > 0
    assert counts_AX[Aspect.TITLE, 2:].sum() > 0


def test_word_pieces_carry_the_aspect_of_their_text() -> None:
    encoder = tiny()
    batch = gathered(table_of(encoder, [product(0), product(3)]), np.arange(2))
    pieces = encoder._reader.tokenizer.convert_ids_to_tokens(batch.words["input_ids"][0].tolist())
    found: dict[int, str] = {}
    for piece, aspect in zip(pieces, batch.aspect_WT[0].tolist(), strict=True):
        found[aspect] = found.get(aspect, "") + piece.replace("Ġ", " ")
    assert found[Aspect.TITLE].removeprefix("<bos>").rstrip("<eospad>") == "Red dress 0."
    assert found[Aspect.CATEGORY].strip() == "dress, things."
    assert found[Aspect.ATTRIBUTES].strip() == "colour: red"


def test_gradient_checkpointing_changes_no_gradient_even_with_experts_and_two_batches() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = tiny(experts=4, gradient_checkpointing=checkpointing).train()
        table = table_of(encoder, PRODUCTS)
        first, second = table.gather(np.array([0, 1])), table.gather(np.array([5, 3]))
        contrast(encoder(first), encoder(second)).backward()
        gradients.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)


def test_long_texts_are_cut_behind_the_title() -> None:
    title, endless = (Aspect.TITLE, "red cup"), (Aspect.DESCRIPTION, "glass " * 500)
    longer = (Aspect.DESCRIPTION, "glass " * 900)
    other = (Aspect.TITLE, "blue shoes")
    items = [Product("", None, texts) for texts in ((title, endless), (longer, title), (other, endless))]
    for family in DUAL_TYPES:
        first, same, different = vectors(tiny(family), items)
        assert torch.equal(first, same)
        assert not torch.equal(first, different)


def test_a_picture_one_pixel_wide_is_encoded_in_little_memory() -> None:
    line = Product("line", picture(0, (1, 60_000)), ())
    for family in DUAL_TYPES:
        batch = table_of(tiny(family), [line]).gather(np.array([0]))
        assert not batch.is_empty_B().any()


def test_batches_gathered_by_many_threads_are_those_gathered_by_one() -> None:
    encoder = tiny()
    table = table_of(encoder, [product(n) for n in range(40)])
    parts = [np.random.default_rng(seed).integers(0, 40, 4 + seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        for rows, batch in zip(parts, pool.map(lambda rows: gathered(table, rows), parts), strict=True):
            expected = gathered(table, rows)
            assert torch.equal(batch.words["input_ids"], expected.words["input_ids"])
            assert torch.equal(batch.pictures["pixel_values"], expected.pictures["pixel_values"])


def test_a_copy_is_an_encoder_of_its_own() -> None:
    encoder = tiny()
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        twin.out.weight.mul_(torch.linspace(0, 1, 24))
    assert encoder.fingerprint() != twin.fingerprint()
    torch.testing.assert_close(vectors(encoder, PRODUCTS), by_hand(encoder, PRODUCTS), atol=2e-6, rtol=0)


def test_the_seed_decides_and_unknown_families_are_named() -> None:
    assert tiny().fingerprint() == tiny().fingerprint()
    assert DualEncoder.tiny(WORDS, seed=1).fingerprint() != DualEncoder.tiny(WORDS, seed=2).fingerprint()
    with pytest.raises(UserError, match="family 'blip': expected one of clip, siglip"):
        DualEncoder.tiny(WORDS, family="blip")
