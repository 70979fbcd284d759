"""The report of stage 1: what the encoder learnt from the catalogue alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encoders.posttrain_report import key_figures, report_end, report_round
from encoders.product_qa.report import add_next_token_sections
from moonrec.report import Report
from moonrec.runs import Run


def write_report(run: Run, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Write `report.html` of a pretraining into the run's folder."""
    report = Report("moonrec pretrain", f"best epoch {metrics['best_epoch']} of {metrics['epochs']}")
    if "questions" in metrics:
        add_next_token_sections(report, metrics, run.history)
    else:
        start, best = metrics["validation"]["start"], metrics["validation"]["best"]
        report.headline(key_figures(start, best))
        report.heading("Held-out products")
        report.table([{"metric": name, "before": start[name], "after": best[name]} for name in start])
        report_round(report, metrics, run.history)
    report_end(report, metrics, config)
    report.save(run.path / "report.html")
