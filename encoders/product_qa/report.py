"""What a report says of next-token training: did it learn, what was it asked, what does it answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.report import Report, line_figure


def add_next_token_sections(
    report: Report, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> None:
    """Add losses, questions per task and example answers to a report.

    Args:
        report: the page.
        metrics: what `pretrain_mllm` returned.
        history: the run's logged lines.
    """
    start, best = metrics["validation"]["start"], metrics["validation"]["best"]
    report.heading("Questions about held-out products")
    if start:
        report.headline([(f"loss {name}", best[name], f"{start[name]:.4f} at the start") for name in start])
        caption = f"Loss per answer token of {metrics['held_out']:,} products that were not trained on"
        report.table([{"loss": name, "before": start[name], "after": best[name]} for name in start], caption)
        if metrics["best_epoch"] == 0:
            report.warning("No epoch was better on held-out products than the start: it was kept as it was.")
    else:
        report.warning("The catalogue has one product: nothing was held out, and the last epoch was kept.")
    _add_curves(report, history, list(start))
    questions = metrics["questions"]
    report.heading("Questions")
    report.table(
        [
            {"task": task, "items that allow it": count, "asked": questions["asked"].get(task, 0)}
            for task, count in questions["items"].items()
        ]
    )
    if metrics["examples"]:
        report.heading("Example answers")
        report.table(metrics["examples"], "Of held-out products; `generated`: the likeliest answer, cut off")


def _add_curves(report: Report, history: Sequence[Mapping[str, Any]], losses: Sequence[str]) -> None:
    trained = [line for line in history if line["curve"]]
    if trained:
        # The stretches of an epoch end at even shares of it.
        ends = [
            line["epoch"] - 1 + (number + 1) / len(line["curve"])
            for line in trained
            for number in range(len(line["curve"]))
        ]
        values = [value for line in trained for value in line["curve"]]
        report.figure(
            line_figure({"loss": (ends, values)}, "epoch", "loss"), "Training loss per answer token"
        )
    if losses and trained:
        epochs = [line["epoch"] for line in history]
        curves = {name: (epochs, [line[f"held_out_{name}"] for line in history]) for name in losses}
        report.figure(line_figure(curves, "epoch", "loss"), "Loss of held-out products, overall and by task")
