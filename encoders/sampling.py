"""Which pairs stand in which batch: decided by seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encoders.features import FeatureBatch
from encoders.pairs import PairSource
from moonrec.errors import UserError

# A small source is passed at most so often in an epoch: early stopping must look before it overfits.
_PASSES = 4
# Shares of anchors shown as picture only and as words only, so that either alone stays usable. Ours.
_ANCHOR_IMAGE_ONLY = 0.2
_ANCHOR_TEXT_ONLY = 0.2


def epoch_plan(
    sources: Sequence[PairSource],
    mix: Sequence[float],
    *,
    batch_size: int,
    pairs_per_epoch: int,
    seed: int,
    epoch: int,
) -> list[tuple[int, np.ndarray]]:
    """Batches of one epoch as (source, pair numbers), in training order.

    Each batch holds pairs of one source, so that negatives are of the positives' kind. The sources share the
    epoch's pairs as `mix` says, but none is passed more than four times.

    Raises:
        UserError: `mix` leaves nothing to train on.
    """
    if not sum(mix):
        raise UserError("--mix gives no share to any source that is there; raise one above 0")
    share = np.asarray(mix, float) / sum(mix)
    batches: list[tuple[int, np.ndarray]] = []
    for number, source in enumerate(sources):
        if not share[number]:
            continue
        rng = np.random.default_rng((seed, 2, epoch, number))
        wanted = min(_PASSES * len(source.training), max(batch_size, round(share[number] * pairs_per_epoch)))
        passes = [rng.permutation(len(source.training)) for _ in range(-(-wanted // len(source.training)))]
        order = np.concatenate(passes)[:wanted]
        full = max(1, len(order) // batch_size)
        batches += [(number, order[i * batch_size : (i + 1) * batch_size]) for i in range(full)]
    turn = np.random.default_rng((seed, 3, epoch)).permutation(len(batches))
    return [batches[i] for i in turn]


def drop_modalities(batch: FeatureBatch, rng: np.random.Generator) -> FeatureBatch:
    """Hide the picture or the words of some products that have both."""
    draw = rng.random(len(batch.has_image_B))
    both = (batch.has_image_B & batch.text_mask_BT.any(1)).cpu().numpy()
    hide_text = both & (draw < _ANCHOR_IMAGE_ONLY)
    hide_image = both & (draw > 1 - _ANCHOR_TEXT_ONLY)
    return batch.hide(image=hide_image, text=hide_text)
