"""Which pairs are trained on, together with which and in which form, follows from seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.modality_mix import (
    ROUND_ONE,
    ROUND_TWO,
    Combination,
    Contents,
    ModalityMix,
    SourcePools,
    pools_of,
)
from encoders.pairs import Pairs
from encoders.products import EVERYTHING, IMAGE_ONLY, TEXT_ONLY
from encoders.sampling import PASSES, PlannedBatch, epoch_plan
from moonrec.errors import UserError

NINE = ModalityMix()
WHOLE = (Combination(EVERYTHING, EVERYTHING, 1.0),)


def source(
    size: int, combinations: Sequence[Combination] = WHOLE, has_text: np.ndarray | None = None
) -> SourcePools:
    rows = np.arange(size)
    words = np.ones(size, bool) if has_text is None else has_text
    return pools_of(
        Pairs(rows, rows, rows, rows, rows),
        Contents(np.ones(size, bool), words, words),
        combinations,
        NINE,
    )


def plan(sources: Sequence[SourcePools], mix: Sequence[float], **options: Any) -> list[PlannedBatch]:
    defaults = {"batch_size": 8, "pairs_per_epoch": 64, "seed": 0, "epoch": 1}
    return epoch_plan(sources, mix, **(defaults | options))


def as_lists(batches: list[PlannedBatch]) -> list[tuple[int, list[int], object, object]]:
    return [(b.source, b.rows.tolist(), b.query_view, b.item_view) for b in batches]


def test_same_seed_and_epoch_give_the_same_plan_and_others_another() -> None:
    sources = [source(100, ROUND_ONE), source(100, ROUND_ONE)]
    weights = [np.random.default_rng(0).random(100), None]
    first = as_lists(plan(sources, (1, 1), weights=weights))
    assert as_lists(plan(sources, (1, 1), weights=weights)) == first
    assert as_lists(plan(sources, (1, 1), weights=weights, seed=1)) != first
    assert as_lists(plan(sources, (1, 1), weights=weights, epoch=2)) != first


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 300), st.integers(2, 300)),
    st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    st.integers(2, 40),
    st.integers(1, 400),
)
def test_pairs_of_a_source_are_passed_equally_often_and_at_most_four_times(
    sizes: tuple[int, int], mix: tuple[float, float], batch_size: int, pairs_per_epoch: int
) -> None:
    sources = [source(size) for size in sizes]
    batches = plan(sources, mix, batch_size=batch_size, pairs_per_epoch=pairs_per_epoch)
    for number, size in enumerate(sizes):
        rows = np.concatenate([batch.rows for batch in batches if batch.source == number])
        passes = np.bincount(rows, minlength=size)
        assert len(passes) == size
        assert 1 <= passes.max() <= PASSES
        assert passes.max() - passes.min() <= 1
        lengths = {len(batch.rows) for batch in batches if batch.source == number}
        assert lengths == {min(batch_size, size)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=60),
    st.integers(2, 20),
    st.integers(1, 4),
    st.integers(0, 5),
    st.booleans(),
)
def test_a_batch_shows_one_view_of_pairs_that_have_it_and_processes_can_share_it(
    has_text: list[bool], batch_size: int, processes: int, epoch: int, weighted: bool
) -> None:
    words = np.array(has_text)
    pools = source(len(words), ROUND_ONE, words)
    sizes = {(pool.combination.query, pool.combination.item): len(pool.rows) for pool in pools.pools}
    weights = [np.linspace(0.1, 10, len(words))] if weighted else None
    batches = plan([pools], [1], batch_size=batch_size, epoch=epoch, weights=weights, multiple_of=processes)
    assert batches
    for batch in batches:
        size = sizes[batch.query_view, batch.item_view]
        assert words[batch.rows].all() or not (batch.query_view & TEXT_ONLY)
        assert len(batch.rows) <= batch_size
        assert len(batch.rows) % processes == 0 or len(batch.rows) == min(batch_size, size) < processes
        assert len(batch.rows) > min(batch_size, size) - processes


def test_the_mixes_decide_the_shares_of_the_epoch() -> None:
    batches = plan([source(10_000, ROUND_ONE), source(10_000, ROUND_TWO)], (3, 1), pairs_per_epoch=16_000)
    assert [sum(batch.source == number for batch in batches) for number in (0, 1)] == [1500, 500]
    for number, combinations in enumerate((ROUND_ONE, ROUND_TWO)):
        of_source = [batch for batch in batches if batch.source == number]
        by_weight = {"image": 0.0, "text": 0.0, "both": 0.0}
        for one in combinations:
            by_weight[one.modality] += one.weight
        for one in combinations:
            share = NINE.share(one.modality) / 17 * one.weight / by_weight[one.modality]
            count = sum((batch.query_view, batch.item_view) == (one.query, one.item) for batch in of_source)
            assert abs(count - share * len(of_source)) <= 1


def test_shares_below_a_batch_are_reached_over_the_epochs() -> None:
    pools = [source(1000, ROUND_ONE)]
    seen = [
        batch.query_view
        for epoch in range(500)
        for batch in plan(pools, [1], pairs_per_epoch=16, epoch=epoch)
    ]
    assert len(seen) == 1000
    assert sum(view == IMAGE_ONLY for view in seen) / 1000 == pytest.approx(12 / 17, abs=0.04)
    assert sum(view == EVERYTHING for view in seen) / 1000 == pytest.approx(2 / 17 / 6, abs=0.02)


def test_weighted_pairs_come_in_proportion_and_hardly_ever_twice_in_a_batch() -> None:
    weights = np.where(np.arange(1000) % 2, 3.0, 1.0)
    batches = plan([source(1000)], [1], batch_size=20, pairs_per_epoch=2000, weights=[weights])
    rows = np.concatenate([batch.rows for batch in batches])
    times = np.bincount(rows, minlength=1000)
    assert len(rows) == 2000
    assert set(times[::2]) == {1}
    assert set(times[1::2]) == {3}
    repeated = sum(len(batch.rows) - len(np.unique(batch.rows)) for batch in batches)
    assert repeated <= 5  # at random it would be about 15


def test_a_small_source_is_passed_four_times_beside_a_large_one() -> None:
    batches = plan([source(20), source(10_000)], (1, 1), pairs_per_epoch=800)
    small, large = (np.concatenate([b.rows for b in batches if b.source == number]) for number in (0, 1))
    assert np.bincount(small).tolist() == [4] * 20
    assert len(large) == len(np.unique(large)) == 400


def test_a_source_with_a_share_of_zero_or_nothing_to_show_is_not_trained_on() -> None:
    photos = source(100, [Combination(TEXT_ONLY, EVERYTHING, 1.0)], np.zeros(100, bool))
    assert {batch.source for batch in plan([source(100), source(100)], (0, 1))} == {1}
    assert {batch.source for batch in plan([photos, source(100)], (1, 1))} == {1}


def test_a_mix_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="--mix"):
        plan([source(100)], (0,))
    with pytest.raises(UserError, match="--modality-mix"):
        plan([source(1)], (1,))
