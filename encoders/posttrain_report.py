"""The report of contrastive training: did it help, when did it stop, what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from encoders.filtered_pairs import FILE
from encoders.heatmap.in_report import Looks, report_heatmaps
from encoders.modality_report import of_modality, report_modalities
from moonrec.report import Report, add_provenance, format_value, line_figure
from moonrec.runs import Run


def write_report(
    run: Run, metrics: Mapping[str, Any], config: Mapping[str, Any], looks: Looks | None = None
) -> None:
    """Write `report.html` of a post-training into the run's folder.

    Args:
        run: whose history is drawn.
        metrics: of the run.
        config: its options.
        looks: what is shown as heatmaps before and after, or None.
    """
    rounds = metrics["rounds"]
    summary = ", ".join(f"{r['name']}: best epoch {r['best_epoch']} of {r['epochs']}" for r in rounds)
    report = Report("moonrec posttrain", summary)
    last = rounds[-1]["validation"]
    report.headline(key_figures(last["start"], last["best"]))
    report.heading("Held-out pairs")
    report.table(_before_and_after(rounds))
    _warn_of_leaks(report, rounds, config)
    for one in rounds:
        report_round(report, one, run.history)
    _report_filtered(report, run, rounds)
    if looks is not None:
        report_heatmaps(report, looks)
    report_end(report, metrics, config)
    report.save(run.path / "report.html")


def key_figures(start: Mapping[str, Any], best: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    """Recall and rank of held-out pairs at the best epoch, beside those at the start."""
    return [
        (name.replace("_", " "), best[name], f"{format_value(start[name])} at the start")
        for name in start
        if name in best and "/" not in name and not of_modality(name)
    ]


def _report_filtered(report: Report, run: Run, rounds: Sequence[Mapping[str, Any]]) -> None:
    """The pairs that the sample filter believes least."""
    path = run.path / FILE
    if not path.exists():
        return
    table = pq.read_table(path)
    joint = next(one for one in rounds if "filtered" in one)
    report.heading("Pairs that training does not believe")
    report.text(
        f"{len(table):,} of {joint['filtered']['pairs']:,} pairs counted less than 1 in epoch "
        f"{joint['filtered']['epoch']} of the joint round; "
        f"{FILE} beside this page lists them."
    )
    if len(table):
        report.table(table.slice(0, 10).to_pylist(), "The ten least believed")


def report_round(report: Report, one: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """One round: its curves, its pairs, what was cleaned away, and which experts saw what."""
    report.heading(one["name"].capitalize())
    if one["best_epoch"] == 0 and one["validation"]["start"]:
        report.warning("No epoch beat the start of this round on the held-out pairs: it changed nothing.")
    lines = [line for line in history if line["round"] == one["name"]]
    trained = [line for line in lines if line["loss"] is not None]
    if trained:
        loss = {"loss": ([line["epoch"] for line in trained], [line["loss"] for line in trained])}
        report.figure(line_figure(loss, "epoch", "loss"), "Training loss")
    every = [line["epoch"] for line in lines]
    curves = {
        name: (every, [line[name] for line in lines])
        for name in one["validation"]["start"]
        if "/" not in name and not of_modality(name)
    }
    for kind, caption in (
        ("recall", "Recall of held-out pairs"),
        ("log_rank", "Mean log rank (less is better)"),
    ):
        shown = {name: curve for name, curve in curves.items() if kind in name}
        if shown:
            report.figure(line_figure(shown, "epoch", kind.replace("_", " ")), caption)
    report_modalities(report, one, history)
    report.table([{"pairs": name, **counts} for name, counts in one["pairs"].items()])
    for name, modalities in one.get("modalities", {}).items():
        if modalities["missing"]:
            missing = ", ".join(modalities["missing"])
            report.text(f"{name}: no pair has queries shown as {missing}; their share went to the others.")
    steps = [
        {"pairs": name, "step": step, **counts}
        for name, cleaning in one.get("cleaning", {}).items()
        for step, counts in cleaning.items()
    ]
    if steps:
        columns = list(dict.fromkeys(column for step in steps for column in step))
        report.table([{c: step.get(c, "") for c in columns} for step in steps], "Cleaning")
    for name, types in one.get("purchases", {}).items():
        if not types:
            report.text(
                f"{name}: the log tells of no purchase, or of too few to pair, so every row counts as one."
            )
    batch = one.get("batch")
    if batch and batch["largest"] < batch["asked"]:
        report.text(
            f"No batch has the {batch['asked']:,} pairs that were asked for: the largest has "
            f"{batch['largest']:,}, since no more can be shown alike."
        )
    queue = one.get("queue")
    if queue and queue["held"] < queue["asked"]:
        report.text(
            f"The queue holds {queue['held']:,} items instead of {queue['asked']:,}: no more products than "
            "that can come into it."
        )
    if one["experts"]:
        rows = [
            {"aspect": aspect, **{f"expert {x}": share for x, share in enumerate(shares)}}
            for aspect, shares in one["experts"].items()
        ]
        caption = (
            "Share of each aspect's tokens that an expert saw (0: category, 1: attributes, where guided)"
        )
        report.table(rows, caption)


def report_end(report: Report, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """What could not be used, and what made the run."""
    report.heading("Data")
    broken = metrics["broken_images"]
    report.text(f"Pictures that could not be used: {broken['count']}.")
    if broken["examples"]:
        report.table(broken["examples"], "The first of them; what else the product or query has was used")
    add_provenance(report, config)


def _before_and_after(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    start: dict[str, float] = {}
    for one in rounds:
        start = dict(one["validation"]["start"]) | start
    return [
        {
            "metric": name,
            "before": start[name],
            **{f"after {r['name']}": r["validation"]["best"].get(name) for r in rounds},
        }
        for name in start
        if not of_modality(name)
    ]


def _warn_of_leaks(report: Report, rounds: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> None:
    searches = rounds[0]["pairs"].get("searches", {})
    if not config.get("holdout"):
        report.warning(
            "Behaviour was used up to the last row. If a ranking model is tested on a period that it covers, "
            "its result is optimistic: name the test impressions with --holdout."
        )
    elif searches.get("undated"):
        report.warning(
            f"{searches['undated']:,} searches have no timestamp and were all learnt from, whatever "
            "the holdout says: see that they are older than the test."
        )
    for name, counts in rounds[0]["pairs"].items():
        if counts["unknown"]:
            named = ", ".join(repr(example) for example in counts["examples"])
            report.warning(
                f"{counts['unknown']:,} {name} name items that the catalogue lacks, such as {named}."
            )
