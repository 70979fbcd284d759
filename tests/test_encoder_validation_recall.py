"""Recall on held-out pairs, against brute force; the score of early stopping."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_helpers import CPU, busy_encoder, random_features

from encoders.encoding import encode
from encoders.pairs import Pairs, PairSource
from encoders.validation_recall import ValidationRecall, score

ITEMS = 40
NOTHING = np.zeros(0, np.int64)


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
