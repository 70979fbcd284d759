"""Which pairs are trained on, and in which form, follows from seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_helpers import random_features
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.pairs import Pairs, PairSource
from encoders.sampling import drop_modalities, epoch_plan
from moonrec.errors import UserError


def source(name: str, training: int) -> PairSource:
    rows = np.arange(training)
    nothing = np.zeros(0, np.int64)
    return PairSource(name, Pairs(rows, rows, rows, rows), Pairs(nothing, nothing, nothing, nothing))


def plan(sizes: tuple[int, ...], mix: tuple[float, ...], **options: int) -> list[tuple[int, np.ndarray]]:
    defaults = {"batch_size": 8, "pairs_per_epoch": 64, "seed": 0, "epoch": 1}
    names = ("searches", "events")
    sources = [source(name, size) for name, size in zip(names, sizes, strict=False)]
    return epoch_plan(sources, mix, **(defaults | options))


def as_lists(batches: list[tuple[int, np.ndarray]]) -> list[tuple[int, list[int]]]:
    return [(number, rows.tolist()) for number, rows in batches]


def test_same_seed_and_epoch_give_the_same_plan_and_others_another() -> None:
    first = as_lists(plan((100, 100), (1, 1)))
    assert as_lists(plan((100, 100), (1, 1))) == first
    assert as_lists(plan((100, 100), (1, 1), seed=1)) != first
    assert as_lists(plan((100, 100), (1, 1), epoch=2)) != first


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    st.integers(2, 40),
    st.integers(1, 400),
)
def test_pairs_of_a_source_are_passed_equally_often_and_at_most_four_times(
    sizes: tuple[int, int], mix: tuple[float, float], batch_size: int, pairs_per_epoch: int
) -> None:
    batches = plan(sizes, mix, batch_size=batch_size, pairs_per_epoch=pairs_per_epoch)
    for number, size in enumerate(sizes):
        rows = np.concatenate([rows for n, rows in batches if n == number])
        passes = np.bincount(rows, minlength=size)
        assert len(passes) == size
        assert 1 <= passes.max() <= 4
        assert passes.max() - passes.min() <= 1
    assert all(0 < len(rows) <= batch_size for _, rows in batches)


def test_the_mix_decides_the_shares_of_the_epoch() -> None:
    batches = plan((10_000, 10_000), (3, 1), pairs_per_epoch=800)
    assert [sum(n == number for n, _ in batches) for number in (0, 1)] == [75, 25]


def test_a_source_with_a_share_of_zero_is_not_trained_on() -> None:
    assert {number for number, _ in plan((100, 100), (0, 1))} == {1}


def test_a_mix_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="--mix"):
        plan((100,), (0,))


def test_a_small_source_is_passed_four_times_beside_a_large_one() -> None:
    batches = plan((20, 10_000), (1, 1), pairs_per_epoch=800)
    small, large = (np.concatenate([rows for n, rows in batches if n == number]) for number in (0, 1))
    assert np.bincount(small).tolist() == [4] * 20
    assert len(large) == len(np.unique(large)) == 400


def test_hiding_modalities_never_empties_a_product_and_hides_about_the_planned_share() -> None:
    batch = random_features(600).gather(np.arange(600))
    shown = drop_modalities(batch, np.random.default_rng(0))
    both = batch.has_image_B & batch.text_mask_BT.any(1)
    assert bool((shown.is_empty_B() == batch.is_empty_B()).all())
    assert bool((shown.has_image_B <= batch.has_image_B).all())
    one_left = (shown.has_image_B ^ shown.text_mask_BT.any(1))[both].float().mean()
    assert 0.3 < float(one_left) < 0.5
    again = drop_modalities(batch, np.random.default_rng(0))
    assert bool((again.has_image_B == shown.has_image_B).all())
