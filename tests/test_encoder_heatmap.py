"""What a heatmap says: parity with brute force, sums, and the deletion test on real pictures."""

from __future__ import annotations

import io
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import CPU, Shop, picture
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from mllm_case import encoder_of, product
from PIL import Image, ImageDraw

from encoders.compact import CompactConfig, CompactEncoder
from encoders.dual import DualEncoder
from encoders.encoder import Encoder
from encoders.encoding import encode
from encoders.features import FeatureTable
from encoders.heatmap.aspects import shapley, views_of
from encoders.heatmap.attribution import attribute, vector_of
from encoders.heatmap.draw import Drawn, product_figure
from encoders.heatmap.in_report import Looks, report_heatmaps
from encoders.heatmap.occlusion import CELLS, covered, heat_of, mass_inside
from encoders.heatmap.words import title_words, without_words
from encoders.products import Aspect, Product, View
from moonrec.report import Report

pytest_plugins = ("encoder_fixtures",)


@pytest.fixture(scope="module")
def untrained(features: FeatureTable) -> CompactEncoder:
    encoder = CompactEncoder(CompactConfig(regions=False)).eval()
    encoder.calibrate(features)
    return encoder


def photo_of_a_disc() -> bytes:
    """A striped disc in the upper left quarter of an even picture."""
    image = Image.new("RGB", (140, 140), (225, 222, 218))
    pen = ImageDraw.Draw(image)
    pen.ellipse((12, 12, 66, 66), fill=(200, 30, 40))
    for left in range(20, 62, 12):
        pen.line((left, 22, left, 56), fill=(250, 240, 60), width=4)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def titled(title: str, image: bytes | None = None) -> Product:
    return Product("a", image, ((Aspect.TITLE, title),) if title else ())


@given(st.lists(st.floats(-1, 1), min_size=15, max_size=15), st.integers(1, 4))
def test_shapley_values_are_means_over_every_order(values: list[float], count: int) -> None:
    aspects = list(Aspect)[:count]
    worth = dict(zip(views_of(aspects), values, strict=False))
    found = shapley(aspects, worth)
    added: dict[Aspect, list[float]] = {aspect: [] for aspect in aspects}
    for order in permutations(aspects):
        for place, aspect in enumerate(order):
            before: View = frozenset(order[:place])
            added[aspect].append(worth[before | {aspect}] - worth.get(before, 0.0))
    for aspect in aspects:
        assert found[aspect] == pytest.approx(np.mean(added[aspect]), abs=1e-9)
    assert sum(found.values()) == pytest.approx(worth[frozenset(aspects)], abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=2), st.integers(0, 99))
def test_the_mass_inside_a_box_is_that_of_its_pixels(sides: list[tuple[float, float]], seed: int) -> None:
    heat_GG = heat_of(np.random.default_rng(seed).random(CELLS * CELLS))
    fine = 40
    (x0, x1), (y0, y1) = (sorted(round(end * CELLS * fine) for end in side) for side in sides)
    pixels = np.kron(heat_GG, np.ones((fine, fine))) / fine**2
    box = np.array([x0, y0, x1, y1]) / (CELLS * fine)
    found = mass_inside(heat_GG, (box[0], box[1], box[2], box[3]))
    assert found == pytest.approx(pixels[y0:y1, x0:x1].sum(), abs=1e-9)


@given(st.text(alphabet="ab 茶杯-,\t", max_size=30))
def test_words_are_the_title_and_each_is_left_out_once(title: str) -> None:
    shown = titled(title.strip())
    words, rest = title_words(shown), without_words(shown)
    assert "".join(words) == "".join(title.split())
    assert len(words) == len(rest)
    for place, one in enumerate(rest):
        left = "".join(words[:place] + words[place + 1 :])
        assert "".join("".join(text.split()) for _, text in one.texts) == left


@pytest.mark.parametrize("size", [(140, 90), (1, 1), (5, 300)])
def test_each_cover_changes_only_its_cell_and_together_they_are_the_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    whole, hidden = covered(titled("mug", stream.getvalue()))

    def pixels(one: Product) -> np.ndarray:
        assert one.image is not None
        return np.asarray(Image.open(io.BytesIO(one.image)), np.int64)

    changed = np.stack([(pixels(one) != pixels(whole)).any(2) for one in hidden])
    assert len(hidden) == CELLS * CELLS
    assert (changed.sum(0) <= 1).all()
    if size == (140, 90):
        assert changed.any(0).mean() > 0.95
        assert not changed[0][13:].any()


def test_heat_lies_on_the_thing_in_the_picture(untrained: CompactEncoder) -> None:
    (found,) = attribute(untrained, [titled("red disc", photo_of_a_disc())], CPU)
    assert found.heat_GG is not None
    assert found.heat_GG.sum() == pytest.approx(1)
    assert mass_inside(found.heat_GG, (0.0, 0.0, 0.5, 0.5)) > 0.6
    row, column = np.unravel_index(found.heat_GG.argmax(), found.heat_GG.shape)
    assert max(row, column) <= CELLS // 2


def test_covering_the_hottest_cells_changes_the_vector_more_than_any_others(
    untrained: CompactEncoder, shop: Shop
) -> None:
    shown = titled("mug", photo_of_a_disc())
    (found,) = attribute(untrained, [shown], CPU)
    assert found.heat_GG is not None
    assert shown.image is not None
    rng = np.random.default_rng(0)
    order = np.argsort(-found.heat_GG.ravel(), kind="stable")
    chosen = [order[:8], order[-8:], *(rng.permutation(CELLS * CELLS)[:8] for _ in range(6))]
    # Another cover than the one that the map was made with.
    products = [shown, *(titled("mug", greyed(shown.image, cells)) for cells in chosen)]
    vectors, _ = encode(untrained, untrained.preparer(None, CPU).table([products]), device=CPU)
    change = 1 - vectors[1:] @ vectors[0]
    assert change[0] > change[2:].max()
    assert change[1] < change[2:].mean()


def greyed(image: bytes, cells: np.ndarray) -> bytes:
    """The picture with some cells in one even grey."""
    picture = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).copy()
    rows, columns = np.unravel_index(cells, (CELLS, CELLS))
    height, width = picture.shape[0] // CELLS, picture.shape[1] // CELLS
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        picture[row * height : (row + 1) * height, column * width : (column + 1) * width] = 128
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module", params=["qwen2_5_vl", "clip"])
def checkpoint(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "clip":
        return DualEncoder.tiny(["red mug of cotton", "blue lamp, steel"], family="clip", seed=0)
    return encoder_of(request.param)


def test_every_backbone_is_attributed(checkpoint: Encoder) -> None:
    shown = [product(1, region=True), product(2, image=False), product(3, text=False)]
    both, words, image = attribute(checkpoint, shown, CPU)
    for one in (both, words, image):
        assert sum(one.aspects.values()) == pytest.approx(1, abs=1e-5)
    for one in (both, image):
        assert one.heat_GG is not None
        assert one.heat_GG.sum() == pytest.approx(1)
    for one in (both, words):
        assert sum(share for _, share in one.words) == pytest.approx(1)
        assert [word for word, _ in one.words] == title_words(shown[0] if one is both else shown[1])
    assert words.heat_GG is None
    assert Aspect.IMAGE not in words.aspects
    assert set(image.aspects) == {Aspect.IMAGE}
    assert image.words == ()


def test_for_a_query_the_aspects_sum_to_the_cosine_and_its_words_stand_out(untrained: CompactEncoder) -> None:
    shown = titled("porcelain teapot with flowers", picture(1))
    query_E = vector_of(untrained, titled("teapot"), CPU)
    (found,) = attribute(untrained, [shown], CPU, target_E=query_E)
    whole, _ = covered(shown)
    cosine = float(vector_of(untrained, whole, CPU) @ query_E)
    assert sum(found.aspects.values()) == pytest.approx(cosine, abs=1e-4)
    assert found.aspects[Aspect.TITLE] > found.aspects[Aspect.IMAGE]
    assert max(found.words, key=lambda one: one[1])[0] == "teapot"


def test_nothing_is_shared_out_where_nothing_changes_the_match(untrained: CompactEncoder) -> None:
    shown = titled("red disc", photo_of_a_disc())
    whole, hidden = covered(shown)
    products = [whole, *hidden, *without_words(whole)]
    vectors, _ = encode(untrained, untrained.preparer(None, CPU).table([products]), device=CPU)
    apart_E = np.linalg.svd(vectors)[2][-1].astype(np.float32)  # at right angles to all of them
    mixed_E = 0.8 * vectors[0] + 0.6 * apart_E
    (nothing,) = attribute(untrained, [shown], CPU, target_E=apart_E)
    (found,) = attribute(untrained, [shown], CPU, target_E=mixed_E)
    assert nothing.heat_GG is not None
    assert found.heat_GG is not None
    assert nothing.cosine == pytest.approx(0, abs=1e-3)
    assert not nothing.heat_GG.any()
    assert {share for _, share in nothing.words} == {0.0}
    assert found.cosine == pytest.approx(0.8, abs=1e-2)
    assert found.heat_GG.sum() == pytest.approx(1)
    assert "no place matters" in texts_of(Drawn(shown, {"q": nothing}))
    assert "cosine with the query: 0.8" in texts_of(Drawn(shown, {"q": found}))


def texts_of(drawn: Drawn) -> str:
    return " ".join(text.get_text() for text in product_figure(drawn).findobj(Text))


def test_a_broken_picture_leaves_the_words(untrained: CompactEncoder) -> None:
    (found,) = attribute(untrained, [titled("red mug", b"nothing")], CPU)
    assert found.heat_GG is None
    assert found.broken is not None
    assert "not a picture" in found.broken
    assert found.aspects == {Aspect.TITLE: pytest.approx(1)}


def test_the_report_shows_both_encoders_and_survives_what_cannot_be_drawn(
    untrained: CompactEncoder, tmp_path: Path
) -> None:
    shown = [titled("red <mug>", None), titled("blue lamp", b"nothing")]
    report = Report("training")
    report_heatmaps(report, Looks(untrained, untrained, shown, CPU))
    page = report_text(report, tmp_path)
    assert page.count("data:image/png") == 2
    assert page.count("<td>before</td>") == page.count("<td>after</td>") == 1
    narrow = CompactEncoder(CompactConfig(regions=False, dims=(8,))).eval()
    narrow.image_in = narrow.text_in  # nothing fits any more: torch raises
    report = Report("training")
    report_heatmaps(report, Looks(untrained, narrow, [titled("mug", picture(1))], CPU))
    assert "could not be drawn" in report_text(report, tmp_path)


def report_text(report: Report, folder: Path) -> str:
    path = folder / "report.html"
    report.save(path)
    return path.read_text(encoding="utf-8")
