"""The tables of an evaluation's page: one short table per kind of task, everything else folded below it."""

from __future__ import annotations

from typing import Any

from encoders.evaluation.measure import CUTOFFS
from encoders.evaluation.ranked import CATALOGUE
from encoders.evaluation.report_domains import spanned
from encoders.evaluation.report_figures import CUTOFF, HIT
from encoders.evaluation.report_words import (
    Entrants,
    by_entrant,
    chance_of_hit,
    entrant_cell,
    metric_label,
    task_label,
)
from encoders.evaluation.results import MAIN
from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.report import Report

_FIRST = ("hit@1", HIT, "mrr", "ndcg@10")
_AVERAGES = ("precision", "recall", "f1")


def add_retrieval(report: Report, entrants: Entrants) -> None:
    """Add the retrieval tasks."""
    rows = list(by_entrant(entrants, "retrieval", "task"))
    if not rows:
        return
    report.heading("Retrieval")
    report.table(
        [
            named
            | {metric_label(key): spanned(values, key) for key in _FIRST}
            | {f"{HIT} by chance": chance_of_hit(values, CUTOFF)}
            | {"queries": values["queries"], "items": values["catalogue"]}
            for named, values in rows
        ],
        "below each number: its 95 % interval, the queries drawn anew with replacement; by chance: in a "
        "random order of the items",
    )
    with report.details("Hit rate, recall and loss at every cutoff"):
        for columns, caption in (
            ([f"hit@{k}" for k in CUTOFFS], "hit rate: any positive in the top K"),
            ([f"recall@{k}" for k in CUTOFFS], "recall: |top K and positives| / min(K, |positives|)"),
            (
                ["contrastive_loss"],
                "-log softmax of the positives among all items at temperature .05, lower is better",
            ),
        ):
            report.table(
                [
                    named | {metric_label(key): spanned(values, key) for key in columns}
                    for named, values in rows
                ],
                caption,
            )
    own = [name for name, task in entrants[MAIN]["retrieval"].items() if task["queries_from"] == CATALOGUE]
    if own:
        report.text(
            f"{', '.join(map(task_label, own))}: the searches have no such queries, so the catalogue's own "
            "are asked: an item's picture is to find the same item's words, or the reverse, among the "
            "distinct ones. That measures how well both agree, not what users search for."
        )


def add_labelled(report: Report, entrants: Entrants) -> None:
    """Add classification and attributes."""
    for group, title, column in (
        (CLASSIFICATION, "Categories, zero-shot", "label"),
        (ATTRIBUTES, "Attributes, zero-shot", "attribute"),
    ):
        rows = list(by_entrant(entrants, group, column))
        if not rows:
            continue
        report.heading(title)
        report.table(
            [
                named
                | {"accuracy": spanned(values, "accuracy"), "always the commonest": values["majority"]}
                | {"F1, macro": spanned(values, "f1")}
                | {"items": values["items"], "classes": values["classes"]}
                for named, values in rows
            ],
            "below each number: its 95 % interval over items; macro: averaged over the classes",
        )
        with report.details(f"Precision, recall and F1 of {title.split(',')[0].lower()}"):
            for suffix, caption in (
                ("", "averaged over the classes"),
                ("_weighted", "weighted by the items of each class"),
            ):
                report.table(
                    [
                        named | {metric_label(key): values[key + suffix] for key in _AVERAGES}
                        for named, values in rows
                    ],
                    caption,
                )
        report.text(
            "An item gets the label whose words are nearest to it. It shows its picture, title and "
            "description, but neither category nor attributes. A title may name the answer."
        )
        _unjudged(report, group, entrants)


def _unjudged(report: Report, group: str, entrants: Entrants) -> None:
    for name, values in entrants[MAIN].get(group, {}).items():
        label = task_label(f"{group}.{name}")
        if values["items_of_rare_values"]:
            report.text(
                f"{label}: {values['items_of_rare_values']:,} items whose value is none of the "
                f"{values['classes']:,} commonest are not judged."
            )
        if values["items_without_content"]:
            report.text(
                f"{label}: {values['items_without_content']:,} items show nothing and are not judged."
            )


def add_agreement(report: Report, entrants: Entrants) -> None:
    """Add how well pictures and words agree."""
    found: dict[str, Any] = {n: values[AGREEMENT] for n, values in entrants.items() if AGREEMENT in values}
    if not found:
        return
    report.heading("Agreement of pictures and words")
    report.table(
        [
            entrant_cell(name, entrants)
            | {metric_label("image_text"): spanned(one, "image_text"), "items": one["items"]}
            for name, one in found.items()
        ],
        "mean cosine of an item's picture with its own words, less that with the words of all other items; "
        "0: they know nothing of each other",
    )
