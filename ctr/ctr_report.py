"""`report.html` of a ranking run: the numbers against the baseline, curves, groups, what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moonrec.report import Report, line_figure
from moonrec.runs import versions

_LOW_COVERAGE = 0.5


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers has to know first."""
    found = []
    if metrics["test"]["auc"] is None:
        found.append("The test file holds one class of labels only, so AUC and GAUC are undefined.")
    elif metrics["test"]["gauc"] is None:
        found.append("No user of the test file has both classes of labels, so GAUC is undefined.")
    target = metrics["coverage"]["target"]
    if target is not None and target < _LOW_COVERAGE:
        found.append(f"Only {target:.0%} of the test targets have an embedding; the rest get no content.")
    baseline = metrics["baseline"]["top3_cosine"]
    pair = (baseline["auc"] if baseline else None, metrics["test"]["auc"])
    if None not in pair and pair[0] >= pair[1]:
        found.append(
            f"The model (AUC {pair[1]:.4f}) does not beat the no-learning baseline (AUC {pair[0]:.4f})."
        )
    return found


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: where to.
        metrics: the content of `metrics.json`.
        history: the lines of `history.jsonl`.
        config: the run's options.
        inputs: a fingerprint per input.
    """
    report = Report("Click-through rate", f"content: {', '.join(config['content'])}")
    for warning in warnings_of(metrics):
        report.warning(warning)
    test, baseline = metrics["test"], metrics["baseline"]["top3_cosine"]
    rows: list[dict[str, Any]] = [
        {"": "model", "AUC": test["auc"], "GAUC": test["gauc"], "log loss": test["logloss"]}
    ]
    if baseline:
        rows.append(
            {
                "": "no learning: top-3 cosine",
                "AUC": baseline["auc"],
                "GAUC": baseline["gauc"],
                "log loss": None,
            }
        )
    report.table(rows, f"{test['rows']:,} test impressions of {test['users']:,} users")
    _add_curves(report, history)
    report.heading("By item frequency")
    report.table(metrics["groups"], "how often the target stands in the training impressions")
    report.figure(_group_figure(metrics["groups"]), "AUC by item frequency")
    report.heading("Coverage and speed")
    report.table(
        [{"": name, "share with an embedding": share} for name, share in metrics["coverage"].items()],
        "what the embedding set covers of the test rows",
    )
    train = metrics["train"]
    report.text(
        f"Trained for {train['seconds']:.1f} s at {train['samples_per_second']:,.0f} samples a second."
    )
    report.heading("What made this")
    report.table([{"option": name, "value": str(value)} for name, value in config.items()])
    report.table([{"input": name, "fingerprint": value} for name, value in inputs.items()])
    report.table([{"package": name, "version": value} for name, value in versions().items()])
    report.save(path)


def _add_curves(report: Report, history: Sequence[Mapping[str, Any]]) -> None:
    report.heading("Training")
    samples = [line["samples"] for line in history]
    report.figure(
        line_figure({"loss": (samples, [line["loss"] for line in history])}, "samples", "loss"), "loss"
    )
    known = [line for line in history if line["auc"] is not None]
    curve = ([line["samples"] for line in known], [line["auc"] for line in known])
    report.figure(
        line_figure({"AUC": curve}, "samples", "AUC"),
        "AUC of predictions made before the update that learns from them (progressive validation)",
    )


def _group_figure(groups: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    known = [group for group in groups if group["auc"] is not None]
    names = [f"{group['group']}\n{group['rows']:,} rows" for group in known]
    axes.bar(names, [group["auc"] for group in known], width=0.5)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set(ylabel="AUC", ylim=(min([0.45, *(group["auc"] for group in known)]), None))
    axes.grid(axis="y", alpha=0.3)
    return figure
