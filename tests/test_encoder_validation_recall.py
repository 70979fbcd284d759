"""Recall on held-out pairs and by query modality, against brute force; its report; early stopping's score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import CPU, busy_encoder, random_features

from encoders.encoding import encode
from encoders.modality_report import report_modalities
from encoders.pairs import Pairs, PairSource
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY
from encoders.validation_recall import FEWEST_PAIRS, ValidationRecall, score
from moonrec.report import Report

ITEMS = 40
NOTHING = np.zeros(0, np.int64)
# Rows behind the catalogue, of which some lack the picture, the words, or both.
ROWS = np.arange(ITEMS, 90)


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def source(name: str, anchors: list[int], positives: list[int]) -> PairSource:
    held_out = Pairs(
        np.array(anchors),
        np.array(positives),
        np.full(len(anchors), -1),
        np.array(anchors),
        np.full(len(anchors), -1),
    )
    return PairSource(name, Pairs(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING), held_out)


def test_ranks_are_those_of_brute_force_and_an_anchor_is_not_its_own_rival() -> None:
    features, encoder = random_features(60), busy_encoder()
    events = source("events", [0, 4, 10, 16], [4, 5, 22, 0])
    searches = source("searches", [46, 47, 52], [10, 11, 30])
    found = ValidationRecall([searches, events], items=ITEMS, candidates=1000, seed=0)(encoder, features, CPU)
    vectors, _ = encode(encoder, features, device=CPU)
    for one, cutoff in ((searches, 10), (events, 50)):
        ranks = []
        for anchor, positive in zip(one.validation.anchor, one.validation.positive, strict=True):
            scores = vectors[:ITEMS] @ vectors[anchor]
            rivals = [row for row in range(ITEMS) if row != anchor]
            ranks.append(1 + sum(scores[row] > scores[positive] for row in rivals))
        assert found[f"{one.name}_recall@{cutoff}"] == pytest.approx(np.mean(np.array(ranks) <= cutoff))
        # The CPU may multiply in bf16 in batches of another size: a rank may differ by a hair.
        assert found[f"{one.name}_log_rank"] == pytest.approx(np.mean(np.log(ranks)), abs=0.1)


def test_positives_are_always_among_the_candidates() -> None:
    features, encoder = random_features(60), busy_encoder()
    searches = source("searches", [46, 47, 52], [10, 11, 30])
    found = ValidationRecall([searches], items=ITEMS, candidates=1, seed=0)(encoder, features, CPU)
    assert found["searches_recall@10"] == 1.0


def test_without_held_out_pairs_there_is_nothing_to_look_at() -> None:
    validate = ValidationRecall([source("searches", [], [])], items=ITEMS, candidates=9, seed=0)
    assert validate(busy_encoder(), random_features(60), CPU) == {}


def test_the_score_of_early_stopping_is_0_at_the_start_and_grows_as_ranks_fall() -> None:
    start = {"searches_log_rank": 2.0, "searches_recall@10": 0.5, "events_log_rank": 4.0}
    assert score(start, start) == 0.0
    assert score(start | {"events_log_rank": 3.0}, start) == pytest.approx(0.5)
    assert score(start | {"events_log_rank": 5.0}, start) == pytest.approx(-0.5)
    assert score({}, {}) == 0.0


def mixed_source(name: str, pairs: int, of: np.ndarray, seed: int = 0) -> PairSource:
    """Pairs whose anchors are drawn from `of` and whose positives are any other item."""
    rng = np.random.default_rng(seed)
    anchors = rng.choice(of, pairs)
    positives = (np.minimum(anchors, ITEMS - 1) + rng.integers(1, ITEMS, pairs)) % ITEMS
    return source(name, anchors.tolist(), positives.tolist())


def test_recall_by_query_modality_is_that_of_brute_force_over_the_pairs_that_have_it() -> None:
    features, encoder = random_features(90), busy_encoder()
    events, searches = mixed_source("events", 150, np.arange(ITEMS)), mixed_source("searches", 200, ROWS)
    found = ValidationRecall([events, searches], items=ITEMS, candidates=1000, seed=0)(encoder, features, CPU)
    image_R, text_R = features.has_image(), features.has_text()
    items_ME = encode(encoder, features, device=CPU)[0][:ITEMS]
    for one, cutoff in ((events, 50), (searches, 10)):
        anchors, positives = one.validation.anchor, one.validation.positive
        for modality, has_R, view in (
            ("image", image_R, IMAGE_ONLY),
            ("text", text_R, TEXT_ONLY),
            ("both", image_R & text_R, EVERYTHING),
        ):
            vectors_RE, _ = encode(encoder, features, device=CPU, view=view)
            hits = []
            for anchor, positive in zip(anchors, positives, strict=True):
                if has_R[anchor]:
                    scores = items_ME @ vectors_RE[anchor]
                    rivals = [row for row in range(ITEMS) if row != anchor]
                    hits.append(1 + sum(scores[row] > scores[positive] for row in rivals) <= cutoff)
            assert len(hits) >= FEWEST_PAIRS
            # A rank may differ by a hair, where the CPU multiplies in bf16.
            assert found[f"{one.name}_{modality}_recall@{cutoff}"] == pytest.approx(np.mean(hits), abs=0.02)


def test_recall_by_modality_leaves_the_other_figures_and_the_score_as_they_are() -> None:
    features, encoder = random_features(90), busy_encoder()
    searches = mixed_source("searches", 100, ROWS)
    found = ValidationRecall([searches], items=ITEMS, candidates=1000, seed=0)(encoder, features, CPU)
    whole = {name: found[name] for name in ("searches_recall@10", "searches_log_rank")}
    worse = {name: value + 1 if "log" in name else 0.0 for name, value in found.items()}
    assert score(worse, found) == pytest.approx(score(worse, whole)) == pytest.approx(-1.0)


def test_a_modality_that_few_pairs_have_is_not_reported() -> None:
    features, encoder = random_features(90), busy_encoder()
    image_R, text_R = features.has_image(), features.has_text()
    photos, words = np.flatnonzero(image_R & ~text_R), np.flatnonzero(text_R & ~image_R)
    anchors = np.concatenate([np.repeat(photos[-1:], FEWEST_PAIRS), np.repeat(words[-1:], FEWEST_PAIRS - 1)])
    searches = source("searches", anchors.tolist(), [3] * len(anchors))
    found = ValidationRecall([searches], items=ITEMS, candidates=1000, seed=0)(encoder, features, CPU)
    assert [name for name in found if name.count("_") > 1] == [
        "searches_log_rank",
        "searches_image_recall@10",
    ]


def test_searches_by_photo_alone_have_their_overall_recall_by_image() -> None:
    features, encoder = random_features(90), busy_encoder()
    photos = np.flatnonzero(features.has_image() & ~features.has_text())
    searches = mixed_source("searches", 60, photos)
    found = ValidationRecall([searches], items=ITEMS, candidates=1000, seed=0)(encoder, features, CPU)
    assert found["searches_image_recall@10"] == found["searches_recall@10"]
    assert not {"searches_text_recall@10", "searches_both_recall@10"} & set(found)


def test_a_task_that_hides_a_side_has_no_recall_by_modality() -> None:
    features, encoder = random_features(90), busy_encoder()
    validate = ValidationRecall(
        [mixed_source("catalogue", 60, ROWS)], items=ITEMS, candidates=1000, seed=0, query_view=IMAGE_ONLY,
        item_view=TEXT_ONLY,
    )  # fmt: skip
    assert set(validate(encoder, features, CPU)) == {"catalogue_recall@10", "catalogue_log_rank"}


def page(history: list[dict[str, object]], start: dict[str, float], best: dict[str, float]) -> str:
    report = Report("a report")
    one = {"name": "joint round", "validation": {"start": start, "best": best}}
    report_modalities(report, one, history)
    path = Path("report.html")
    report.save(path)
    return path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_the_report_tells_the_gap_between_modalities_at_the_start_the_best_epoch_and_the_last() -> None:
    names = [f"searches_{modality}_recall@10" for modality in ("image", "text", "both")]
    values = [(0.50, 0.20, 0.40), (0.60, 0.5125, 0.70), (0.65, 0.45, 0.60)]
    recall = [dict(zip(names, row, strict=True)) for row in values]
    history: list[dict[str, object]] = [
        {"round": "joint round", "epoch": epoch, "loss": None, **line} for epoch, line in enumerate(recall)
    ]
    history.insert(0, {"round": "round 1", "epoch": 9, "loss": None, **dict.fromkeys(names, 0.0)})
    for line in history[2:]:
        line |= {"weight_image": 0.3, "weight_text": 0.4, "inter_image": 2.0, "inter_both": float("nan")}
        line |= {"intra": 1.0, "filtered": 0.25, "margin": 0.1}
    html = page(history, recall[0], recall[1])
    cells = html.split("modality gap</td>")[1].split("</tr>")[0]
    assert [part.split("<")[0] for part in cells.split('class="number">')[1:]] == [
        "0.3000",
        "0.1875",
        "0.2000",
    ]
    captions = [part.split("</")[0] for part in html.split("<figcaption>")[1:]]
    assert len(captions) == 4
    assert "sample filtering" in captions[-1]


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_a_round_that_tells_nothing_of_modalities_adds_nothing_to_the_report() -> None:
    line: dict[str, object] = {"round": "joint round", "epoch": 0, "loss": None, "searches_recall@10": 0.5}
    html = page([line], {"searches_recall@10": 0.5}, {"searches_recall@10": 0.5})
    assert "<table" not in html
    assert "<figure" not in html
