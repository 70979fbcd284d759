"""The part of a report that shows whether one query modality wins at another's cost.

MOON2.0 (https://arxiv.org/abs/2511.12449) opens with that observation and answers it with joint learning,
whose objective weights, losses and filter are drawn here where a round has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from moonrec.report import Report, line_figure

_MODALITIES = ("image", "text", "both")
_RECALL = re.compile(rf"(?P<source>.+)_(?P<modality>{'|'.join(_MODALITIES)})_recall@\d+")
_WEIGHTS = {f"weight_{modality}": modality for modality in _MODALITIES}
_LOSSES = {
    **{f"inter_{modality}": f"{modality} query against items" for modality in _MODALITIES},
    "intra": "a product's picture against its words",
}
_FILTER = {"filtered": "share of queries down-weighted", "margin": "margin"}


def report_modalities(report: Report, one: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Add what a round tells of the query modalities; nothing where it tells nothing of them.

    Args:
        report: the page.
        one: the round's metrics.
        history: the lines of `history.jsonl`, of all rounds.
    """
    lines = [line for line in history if line["round"] == one["name"]]
    recall = {name: found for name in one["validation"]["start"] if (found := _RECALL.fullmatch(name))}
    named = {name: f"{found['source']}, {found['modality']}" for name, found in recall.items()}
    for labels, y_label, caption in (
        (named, "recall", "Recall of held-out pairs by what their query shows"),
        (_WEIGHTS, "weight", "Weight of each query modality's loss"),
        (_LOSSES, "loss", "Losses by query modality, before the objective weights"),
        (_FILTER, "share, margin", "Dynamic sample filtering"),
    ):
        curves = _curves(lines, labels)
        if curves:
            report.figure(line_figure(curves, "epoch", y_label), caption)
    if recall and lines:
        stages = {"start": one["validation"]["start"], "best": one["validation"]["best"], "last": lines[-1]}
        report.table(
            _balance(recall, stages),
            "Recall by what the query shows, over the pairs whose query has it; the modality gap is that "
            "between the best and the worst",
        )


def of_modality(name: str) -> bool:
    """Whether a figure of the history is the recall of one query modality, which is drawn here."""
    return _RECALL.fullmatch(name) is not None


def _curves(
    lines: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Per label the epochs that have a value, and the values."""
    curves = {}
    for name, label in labels.items():
        points = [(line["epoch"], line[name]) for line in lines if _is_number(line.get(name))]
        if points:
            curves[label] = ([x for x, _ in points], [y for _, y in points])
    return curves


def _balance(
    recall: Mapping[str, re.Match[str]], stages: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of modality and recall per stage, after each source's the gap where it has several."""
    rows: list[dict[str, Any]] = []
    for source in dict.fromkeys(found["source"] for found in recall.values()):
        mine = {name: found["modality"] for name, found in recall.items() if found["source"] == source}
        for name, modality in mine.items():
            values = {stage: line[name] for stage, line in stages.items()}
            rows.append({"pairs": source, "query": modality, **values})
        if len(mine) > 1:
            gaps = {
                stage: max(line[name] for name in mine) - min(line[name] for name in mine)
                for stage, line in stages.items()
            }
            rows.append({"pairs": source, "query": "modality gap", **gaps})
    return rows


def _is_number(value: float | None) -> bool:
    """Whether an epoch has a value: it has none before training, nor for a modality that no query had."""
    return value is not None and math.isfinite(value)
