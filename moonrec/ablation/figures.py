"""Plots of an ablation: differences with intervals, and the trade-off between image and text queries."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moonrec.ablation.metrics import HEADLINE, label_of
from moonrec.ablation.paper import paper_drop
from moonrec.ablation.study import STUDIES
from moonrec.ablation.table import RowResult

_IMAGE, _TEXT = "retrieval.image_to_item.hit@10", "retrieval.text_to_item.hit@10"


def difference_figure(results: Sequence[RowResult]) -> Figure | None:
    """A panel per study and metric of MOON2.0's table; None when no row is compared with another."""
    compared = [r for r in results if any(metric in HEADLINE for metric in r.differences)]
    if not compared:
        return None
    studies = list(dict.fromkeys(result.study for result in compared))
    by_study = {name: [r for r in compared if r.study == name] for name in studies}
    shown = [m for m in HEADLINE if any(m in r.differences for r in compared)]
    heights = [0.8 + 0.4 * len(by_study[name]) for name in studies]
    figure = Figure(figsize=(2.2 + 2.2 * len(shown), sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(studies), len(shown), squeeze=False, height_ratios=heights)
    for line, name in enumerate(studies):
        for column, metric in enumerate(shown):
            axes = panels[line][column]
            _draw_differences(axes, by_study[name], metric)
            axes.set_title(label_of(metric), fontsize=8)
            axes.set_yticks(
                range(len(by_study[name])), [r.label if not column else "" for r in by_study[name]]
            )
            axes.invert_yaxis()
        panels[line][0].set_ylabel(STUDIES[name].title, fontsize=8)
    quoted = any(paper_drop(r.study, r.row, m) is not None for r in compared for m in shown)
    told = "; ◇: the paper's, on its own data" if quoted else ""
    figure.supxlabel(f"difference in points, interval over seeds{told}", fontsize=8)
    return figure


def _draw_differences(axes: Axes, results: Sequence[RowResult], metric: str) -> None:
    for height, result in enumerate(results):
        found = result.differences.get(metric)
        if found is None:
            continue
        mean = 100 * found.mean
        low = mean if found.low is None else 100 * found.low
        high = mean if found.high is None else 100 * found.high
        axes.errorbar(mean, height, xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color="C0")
        paper = paper_drop(result.study, result.row, metric)
        if paper is not None:
            axes.plot(-paper, height, marker="D", markerfacecolor="none", color="C1", linestyle="")
    axes.axvline(0, color="0.6", linewidth=0.8)
    # A hair's breadth should look like one.
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, -1.0), max(right, 1.0))
    axes.set_ylim(-0.6, len(results) - 0.4)
    axes.tick_params(labelsize=8)


def tradeoff_figure(results: Sequence[RowResult]) -> Figure | None:
    """Image against text recall, one curve per form of training, and both over the share of images.

    None when no curve has a point with both recalls.
    """
    points = [r for r in results if r.curve and _IMAGE in r.summaries and _TEXT in r.summaries]
    if not points:
        return None
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    against, over = figure.subplots(1, 2)
    for number, curve in enumerate(dict.fromkeys(r.curve for r in points)):
        own = sorted((r for r in points if r.curve == curve), key=_image_share, reverse=True)
        image, text = ([100 * r.summaries[m].mean for r in own] for m in (_IMAGE, _TEXT))
        image_sd, text_sd = ([100 * (r.summaries[m].sd or 0.0) for r in own] for m in (_IMAGE, _TEXT))
        colour = f"C{number}"
        against.errorbar(
            image, text, xerr=image_sd, yerr=text_sd, marker="o", color=colour, label=curve, elinewidth=0.7
        )
        for x, y, result in zip(image, text, own, strict=True):
            against.annotate(
                result.options["modality_mix"],
                (x, y),
                (3, 3 - 12 * number),
                textcoords="offset points",
                size=7,
            )
        share = [100 * _image_share(r) for r in own]
        over.errorbar(share, image, image_sd, marker="o", color=colour, label=f"image queries, {curve}")
        over.errorbar(
            share, text, text_sd, marker="s", linestyle="--", color=colour, label=f"text queries, {curve}"
        )
    against.set(xlabel=f"{label_of(_IMAGE)}, %", ylabel=f"{label_of(_TEXT)}, %")
    over.set(xlabel="share of queries shown as image, %", ylabel="hit@10, %")
    for axes in (against, over):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _image_share(result: RowResult) -> float:
    shares = [float(share) for share in result.options["modality_mix"].split(":")]
    return shares[0] / sum(shares)
