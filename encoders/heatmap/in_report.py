"""Before and after in the report of a training: what the vectors of a few products come from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from encoders.encoder import Encoder
from encoders.heatmap.attribution import attribute
from encoders.heatmap.draw import Drawn, any_letters, product_figure
from encoders.heatmap.table import mean_rows
from encoders.products import Product
from moonrec.report import Report

BEFORE, AFTER = "before", "after"
# Coarser than the command draws: half the time, at the end of a training that nobody asked to last longer.
_CELLS = 5


@dataclass(frozen=True)
class Looks:
    """What `report_heatmaps` draws: a few products under an encoder before and after its training.

    Attributes:
        before: the encoder as training started from it.
        after: the trained one.
        products: a few, best held-out ones, with core regions where the encoders look at them.
        device: where both encoders are.
    """

    before: Encoder
    after: Encoder
    products: Sequence[Product]
    device: torch.device


def report_heatmaps(report: Report, looks: Looks) -> None:
    """Add the heatmaps of a few products under two encoders to a report.

    What goes wrong here is told in the report and not raised: a finished training is worth more than its
    pictures. The encoders end on their device, as they began.
    """
    report.heading("What the vectors come from")
    if not looks.products:
        report.text("There is no product to draw.")
        return
    try:
        _add(report, looks)
    except Exception as error:  # whatever it is, it says nothing about the encoder that was trained
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        report.warning(f"These heatmaps could not be drawn ({reason}); the encoder is not concerned.")


def _add(report: Report, looks: Looks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        firsts, seconds = (
            list(attribute(encoder, looks.products, looks.device, cache=Path(folder), cells=_CELLS))
            for encoder in (looks.before, looks.after)
        )
    drawn = [
        Drawn(product, {BEFORE: first, AFTER: second})
        for product, first, second in zip(looks.products, firsts, seconds, strict=True)
    ]
    with any_letters():
        for one in drawn:
            report.figure(product_figure(one), one.product.key)
    report.table(mean_rows(drawn), "Means over these products; the aspects' shares sum to 1")
