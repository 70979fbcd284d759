"""The report of a post-training run: did it help, when did it stop, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moonrec.report import Report, line_figure
from moonrec.runs import Run


def write_report(run: Run, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write `report.html` into the run's folder."""
    report = Report("moonrec posttrain", f"best epoch {metrics['best_epoch']} of {metrics['epochs']}")
    start, best = metrics["validation"]["start"], metrics["validation"]["best"]
    report.heading("Held-out pairs")
    report.table([{"metric": name, "before": start[name], "after": best[name]} for name in start])
    if metrics["best_epoch"] == 0 and start:
        report.warning("No epoch beat the starting encoder on the held-out pairs: it was kept as it was.")
    pairs = metrics["pairs"]
    if not config.get("holdout"):
        report.warning(
            "Behaviour was used up to the last row. If a ranking model is tested on a period that it covers, "
            "its result is optimistic: name the test impressions with --holdout."
        )
    elif pairs.get("searches", {}).get("undated"):
        report.warning(
            f"{pairs['searches']['undated']:,} searches have no timestamp and were all learnt from, whatever "
            "the holdout says: see that they are older than the test."
        )
    trained = [line for line in run.history if line["loss"] is not None]
    if trained:
        epochs = [line["epoch"] for line in trained]
        loss = {"loss": (epochs, [line["loss"] for line in trained])}
        report.figure(line_figure(loss, "epoch", "loss"), "Training loss: InfoNCE and the distance moved")
        every = [line["epoch"] for line in run.history]
        curves = {name: (every, [line[name] for line in run.history]) for name in start}
        for kind, caption in (
            ("recall", "Recall of held-out pairs"),
            ("log_rank", "Mean log rank (less is better)"),
        ):
            shown = {name: curve for name, curve in curves.items() if kind in name}
            if shown:
                report.figure(line_figure(shown, "epoch", kind.replace("_", " ")), caption)
    report.heading("Data")
    report.table([{"pairs": name, **counts} for name, counts in pairs.items()])
    broken = metrics["broken_images"]
    report.text(f"Pictures that could not be used: {broken['count']}.")
    if broken["examples"]:
        report.table(broken["examples"], "The first of them; what else the product or query has was used")
    report.heading("Configuration")
    report.table([{"option": name, "value": str(value)} for name, value in config.items()])
    report.save(run.path / "report.html")
