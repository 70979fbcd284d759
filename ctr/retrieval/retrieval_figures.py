"""The figures of a retrieval run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from ctr.retrieval.candidate_metrics import KS
from moonrec.report import line_figure
from moonrec.report.curves import COLOURS

_WIDTH = 0.8


def groups_figure(groups: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Figure:
    """Bars of recall@100 per group of items and method.

    Args:
        groups: `groups` of metrics.json, those with requests.
        labels: how methods are shown, by their names in the groups, in order.
    """
    figure = Figure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    names = [name for name in labels if any(name in group["recall@100"] for group in groups)]
    middle_G, width = np.arange(len(groups)), _WIDTH / max(len(names), 1)
    for number, name in enumerate(names):
        axes.bar(
            middle_G + (number - (len(names) - 1) / 2) * width,
            [group["recall@100"][name] for group in groups],
            width, label=labels[name], color=COLOURS[number],
        )  # fmt: skip
    axes.set_xticks(middle_G, [f"{group['group']}\n{group['requests']:,} req." for group in groups])
    axes.set(ylabel="recall@100", xlabel="training rows of the item")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def recall_figure(blocks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Recall over the number of candidates, one curve per method; `blocks` are metrics by their label."""
    curves = {name: (KS, [block[f"recall@{k}"] for k in KS]) for name, block in blocks.items()}
    figure = line_figure(curves, "candidates K", "recall@K")
    axes = figure.axes[0]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(KS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    return figure
