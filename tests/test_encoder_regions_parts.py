"""Pieces of the detectors against brute force, and answers of language models, however odd."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from encoder_helpers import picture
from hypothesis import given
from hypothesis import strategies as st

from encoders.mllm.encoder import MllmEncoder
from encoders.products import Aspect, Product
from encoders.regions.boxes import best_boxes, coverage, found_box, is_box
from encoders.regions.grounding import GroundingDetector
from encoders.regions.grounding_text import parse_answer, question
from encoders.regions.saliency import otsu_thresholds
from encoders.regions.store import Key, _numbers

TENTHS = (0.1, 0.2, 0.5, 0.9)


def test_the_best_box_is_that_of_an_exhaustive_search() -> None:
    score_BGG = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(0))
    for score, (x0, y0, x1, y1) in zip(
        score_BGG, (best_boxes(score_BGG) * 6).round().int().tolist(), strict=True
    ):
        sums = [
            score[top:bottom, left:right].sum()
            for top in range(6)
            for bottom in range(top + 1, 7)
            for left in range(6)
            for right in range(left + 1, 7)
        ]
        assert float(score[y0:y1, x0:x1].sum()) == pytest.approx(float(max(sums)), abs=1e-5)


def test_otsu_splits_where_the_classes_differ_most() -> None:
    score_BGG = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(1))
    for score, threshold in zip(score_BGG.flatten(1), otsu_thresholds(score_BGG).flatten(), strict=True):
        best = _between(score, float(threshold))
        assert all(best >= _between(score, float(value)) - 1e-6 for value in score[score < score.max()])


def _between(values: torch.Tensor, threshold: float) -> float:
    low, high = values[values <= threshold], values[values > threshold]
    share = len(low) / len(values)
    return float(share * (1 - share) * (low.mean() - high.mean()) ** 2)


def test_coverage_sums_to_the_area_of_the_box() -> None:
    box_B4 = torch.tensor([[0.1, 0.2, 0.55, 0.9], [0.0, 0.0, 1.0, 1.0], [0.31, 0.3, 0.33, 0.32]])
    area_B = (box_B4[:, 2] - box_B4[:, 0]) * (box_B4[:, 3] - box_B4[:, 1])
    assert torch.allclose(coverage(box_B4, 7).mean((1, 2)), area_B, atol=1e-6)


def test_a_thin_box_is_widened_and_a_box_over_everything_is_none() -> None:
    thin = found_box((0.5, 0.4, 0.501, 0.6), "saliency").box
    assert thin is not None
    assert thin[2] - thin[0] == pytest.approx(0.15)
    assert found_box((0.01, 0.01, 0.99, 0.99), "saliency").source == "whole"


@pytest.mark.parametrize(
    "answer",
    [
        '{"bbox_2d": [100, 200, 500, 900], "label": "mug"}',
        '```json\n[\n\t{"bbox_2d": [100, 200, 500, 900], "label": "mug [1, 2, 3, 4]"}\n]\n```',
        '[{"label": "set [1, 2, 3, 4]", "bbox_2d": [100, 200, 500, 900]}, {"bbox_2d": [0, 0, 9, 9]}]',
        "[100, 200, 500, 900]",
        "The mug is at (100,200),(500,900).",
        "(100.0, 200.0, 500.0, 900.0)",
        "{'bbox_2d': [100, 200, 500, 900]}",
        '{"bbox": [100, 200, 500, 900]',
    ],
)
def test_a_box_is_read_in_the_forms_that_models_write(answer: str) -> None:
    assert parse_answer(answer, "thousand", 50, 50)[0] == pytest.approx(TENTHS)
    assert parse_answer(answer, "pixels", 1000, 1000)[0] == pytest.approx(TENTHS)
    assert parse_answer(answer, "pixels", 2000, 1000)[0] == pytest.approx((0.05, 0.2, 0.25, 0.9))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        ("   \n", "empty answer"),
        ("There is no mug.", "malformed answer"),
        ('{"bbox_2d": [1, 2, 3]}', "malformed answer"),
        ('{"bbox_2d": null, "label": "[100, 200, 500, 900]"}', "malformed answer"),
        ("[100, 200, 500, 1900]", "box outside the picture"),
        ("[-90, 200, 500, 900]", "box outside the picture"),
        ("[500, 200, 100, 900]", "box without an area"),
        ("[500, 200, 500, 900]", "box without an area"),
        ("[500, 200, 501, 201]", "tiny box"),
    ],
)
def test_an_answer_without_a_usable_box_says_why(answer: str, reason: str) -> None:
    assert parse_answer(answer, "thousand", 50, 50) == (None, reason)


def test_a_box_just_over_the_edge_is_cut_at_it() -> None:
    assert parse_answer("[-3, 0, 1004, 500]", "thousand", 9, 9)[0] == (0.0, 0.0, 1.0, 0.5)


_numbers_like = st.one_of(st.integers(-2000, 2000), st.floats(width=32), st.text(max_size=3))
_boxes_like = st.lists(_numbers_like, max_size=6).map(lambda row: json.dumps({"bbox_2d": row}))
_pieces = st.sampled_from(
    ["[", "]", "(", ")", ",", "bbox_2d", ":", '"', "1", "999", "-", ".", " ", "```json"]
)


@given(st.one_of(st.text(), _boxes_like, st.lists(_pieces, max_size=40).map("".join)), st.integers(1, 9999))
def test_any_answer_gives_a_box_or_a_reason(answer: str, side: int) -> None:
    for scale in ("pixels", "thousand"):
        box, reason = parse_answer(answer, scale, side, side)
        assert (box is None) == bool(reason)
        assert box is None or is_box(box)


def test_a_long_title_is_put_on_one_line_of_bounded_length() -> None:
    asked = question("red\n\n mug " * 500)
    assert "red mug red" in asked
    assert "\n" not in asked
    assert len(asked) < 500
    assert "main product" in question("  ")


def test_keys_read_from_a_table_are_those_of_products() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20)]
    texts = ["", *digests[1:][::-1]]
    numbers = _numbers(pa.array(digests)) ^ _numbers(pa.array(texts))
    expected = [Key(*pair).number() for pair in zip(digests, texts, strict=True)]
    assert np.array_equal(numbers, np.array(expected, np.uint64))


def test_an_untrained_language_model_is_asked_and_its_babble_means_the_whole_picture() -> None:
    products = [Product(f"p{i}", picture(i), ((Aspect.TITLE, f"red mug {i}"),)) for i in range(3)]
    model = MllmEncoder.tiny([f"red mug {i}" for i in range(30)])
    detector = GroundingDetector(model)
    found = detector.detect([detector.prepare(p) for p in products], [p.texts[0][1] for p in products])
    assert [one.source for one in found] == ["whole"] * 3
    assert all(one.reason for one in found)
    other = MllmEncoder.tiny([f"red mug {i}" for i in range(30)], seed=1)
    assert GroundingDetector(other).fingerprint() != detector.fingerprint()
