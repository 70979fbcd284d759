"""What `moonrec evaluate` prints: a few lines; the rest stands in the report and in `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from encoders.evaluation.results import MAIN
from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.report import format_value
from moonrec.text_tables import aligned

_RETRIEVAL = ("hit@1", "hit@10", "mrr")
_DIFFERENCES = ("hit@10", "accuracy", "image_text")


def terminal_lines(metrics: Mapping[str, Any], out: str) -> list[str]:
    """Entrants and tasks with their main numbers, differences, warnings' counts, and where the report is."""
    entrants = {MAIN: metrics, **metrics["baselines"]}
    lines = _retrieval(entrants) + _others(entrants)
    for name, values in metrics["baselines"].items():
        lines += _differences(name, metrics["comparisons"])
        if values["uncompared"]:
            lines.append(f"not compared with {name}: {len(values['uncompared'])}, the report says why")
    if metrics["unknown_items"]["count"]:
        lines.append(f"{metrics['unknown_items']['count']:,} searches name items that the catalogue lacks")
    return [*lines, f"report: {out}/report.html, numbers: {out}/metrics.json"]


def _retrieval(entrants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [task, name, *(format_value(values[metric]) for metric in _RETRIEVAL), f"{values['queries']:,}"]
        for task, name, values in _parts(entrants, "retrieval")
    ]
    return [*aligned([["retrieval", "entrant", *_RETRIEVAL, "queries"], *rows]), ""] if rows else []


def _others(entrants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        [f"{level} accuracy", name, format_value(values["accuracy"]), f"{values['items']:,}"]
        for level, name, values in _parts(entrants, CLASSIFICATION)
    ]
    for name, entrant in entrants.items():
        if ATTRIBUTES in entrant:
            accuracies: Sequence[float] = [one["accuracy"] for one in entrant[ATTRIBUTES].values()]
            mean = sum(accuracies) / len(accuracies)
            rows.append([f"{len(accuracies)} attributes, mean accuracy", name, format_value(mean), ""])
    for name, entrant in entrants.items():
        if AGREEMENT in entrant:
            found = entrant[AGREEMENT]
            rows.append(["agreement", name, format_value(found["image_text"]), f"{found['items']:,}"])
    return [*aligned([["labels and agreement", "entrant", "", "items"], *rows]), ""] if rows else []


def _differences(baseline: str, comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            one["task"].removeprefix("retrieval."),
            one["metric"],
            f"{one['difference']:+.4f}",
            f"[{one['ci_low']:+.4f}, {one['ci_high']:+.4f}]",
            f"p, Holm {one['p_holm']:.4f}",
        ]
        for one in comparisons
        if one["baseline"] == baseline and one["domain"] is None and one["metric"] in _DIFFERENCES
        if not one["task"].startswith(f"{ATTRIBUTES}.")
    ]
    return [f"{MAIN} - {baseline}, paired", *aligned(rows), ""] if rows else []


def _parts(
    entrants: Mapping[str, Mapping[str, Any]], group: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The parts of a group, the entrants of each under each other."""
    for part in dict.fromkeys(part for values in entrants.values() for part in values.get(group, {})):
        for name, values in entrants.items():
            if part in values.get(group, {}):
                yield part, name, values[group][part]
