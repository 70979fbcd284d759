"""The report of an evaluation: all entrants side by side, differences, domains, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from encoders.evaluation.measure import CUTOFFS
from encoders.evaluation.ranked import CATALOGUE
from encoders.evaluation.report_comparisons import add_comparisons, by_reason
from encoders.evaluation.report_domains import add_domains, spanned
from encoders.evaluation.results import MAIN
from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.compare.key_figures import key_figures
from moonrec.report import Report

_LABEL_COLUMNS = ("items", "classes", "accuracy", "majority", "precision", "recall", "f1")
_WEIGHTED = ("precision_weighted", "recall_weighted", "f1_weighted")
_KEY_FIGURES = 6
_WITH_INTERVAL = ("hit@1", "hit@10", "mrr", "ndcg@10", "contrastive_loss")

Entrants = Mapping[str, Mapping[str, Any]]
"""The numbers of each entrant by its name, what is evaluated first."""


def evaluation_report(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Report:
    """The page of an evaluation up to its numbers and warnings; pictures and the configuration follow."""
    retrieval = metrics["retrieval"]
    entrants: Entrants = {MAIN: metrics, **metrics["baselines"]}
    asked = sum(task["queries"] for task in retrieval.values())
    tasks = "1 retrieval task" if len(retrieval) == 1 else f"{len(retrieval)} retrieval tasks"
    subtitle = f"{asked:,} queries of {tasks}"
    if len(entrants) > 1:
        subtitle += f"; {MAIN} beside {', '.join(metrics['baselines'])}"
    report = Report("moonrec evaluate", subtitle)
    report.headline(key_figures("evaluate", metrics, _KEY_FIGURES))
    if len(entrants) > 1:
        _who(report, entrants, config)
    _retrieval(report, entrants)
    for name, title in ((CLASSIFICATION, "Classification"), (ATTRIBUTES, "Attributes")):
        _labelled(report, title, name, entrants)
    _agreement(report, entrants)
    add_comparisons(report, metrics)
    add_domains(report, entrants)
    _left_out(report, entrants)
    _warnings(report, metrics)
    return report


def _who(report: Report, entrants: Entrants, config: Mapping[str, Any]) -> None:
    given = dict(text.split("=", 1) for text in config["baseline"])
    given[MAIN] = " with ".join(config[name] for name in ("encoder", "embeddings") if config[name])
    report.heading("Entrants")
    report.table(
        [
            {"entrant": name, "what": given[name], "dimensions": values["dim"]}
            for name, values in entrants.items()
        ]
    )


def _retrieval(report: Report, entrants: Entrants) -> None:
    rows = list(_by_entrant(entrants, "retrieval", "task"))
    if not rows:
        return
    report.heading("Retrieval")
    columns = [*(f"hit@{k}" for k in CUTOFFS), *(f"recall@{k}" for k in CUTOFFS), "mrr", "ndcg@10"]
    columns += ["contrastive_loss", "queries", "catalogue"]
    report.table(
        [named | {key: values[key] for key in columns} for named, values in rows],
        "hit rate: any positive in the top K; recall: |top K and positives| / min(K, |positives|); "
        "contrastive loss: -log softmax of the positives among all items at temperature .05, lower is better",
    )
    report.table(
        [named | {key: spanned(values, key) for key in _WITH_INTERVAL} for named, values in rows],
        "95 % intervals: the queries drawn anew with replacement",
    )
    own = [name for name, task in entrants[MAIN]["retrieval"].items() if task["queries_from"] == CATALOGUE]
    if own:
        report.text(
            f"{', '.join(own)}: the searches have no such queries, so the catalogue's own are asked: an "
            "item's picture is to find the same item's words, or the reverse, among the distinct ones. That "
            "measures how well both agree, not what users search for."
        )


def _labelled(report: Report, title: str, task: str, entrants: Entrants) -> None:
    rows = list(_by_entrant(entrants, task, "labels"))
    if not rows:
        return
    report.heading(f"{title}, zero-shot")
    report.table(
        [named | {key: values[key] for key in _LABEL_COLUMNS} for named, values in rows],
        "macro averages over the classes; majority: always the commonest class",
    )
    report.table(
        [
            named
            | {key: spanned(values, key) for key in ("accuracy", "f1")}
            | {key: values[key] for key in _WEIGHTED}
            for named, values in rows
        ],
        "95 % intervals over items, and averages weighted by the items of each class",
    )
    report.text(
        "An item gets the label whose words are nearest to it. It shows its picture, title and description, "
        "but neither category nor attributes. A title may name the answer."
    )
    for name, values in entrants[MAIN].get(task, {}).items():
        if values["items_of_rare_values"]:
            report.text(
                f"{name}: {values['items_of_rare_values']:,} items whose value is none of the "
                f"{values['classes']:,} commonest are not judged."
            )
        if values["items_without_content"]:
            report.text(f"{name}: {values['items_without_content']:,} items show nothing and are not judged.")


def _agreement(report: Report, entrants: Entrants) -> None:
    found = {name: values[AGREEMENT] for name, values in entrants.items() if AGREEMENT in values}
    if not found:
        return
    report.heading("Agreement of pictures and words")
    report.table(
        [
            _entrant(name, entrants) | {"lead": spanned(one, "image_text"), "items": one["items"]}
            for name, one in found.items()
        ],
        "mean cosine of an item's picture with its own words, less that with the words of all other items",
    )


def _left_out(report: Report, entrants: Entrants) -> None:
    rows = [
        _entrant(name, entrants) | row
        for name, values in entrants.items()
        for row in by_reason(values["left_out"], "reason")
    ]
    if rows:
        report.heading("Left out")
        report.table(rows)


def _by_entrant(
    entrants: Entrants, group: str, label: str
) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """The parts of a group, the entrants of each under each other."""
    names = dict.fromkeys(part for values in entrants.values() for part in values.get(group, {}))
    for part in names:
        for name, values in entrants.items():
            if part in values.get(group, {}):
                yield {label: part} | _entrant(name, entrants), values[group][part]


def _entrant(name: str, entrants: Entrants) -> dict[str, str]:
    return {"entrant": name} if len(entrants) > 1 else {}


def _warnings(report: Report, metrics: Mapping[str, Any]) -> None:
    for name, task in metrics["retrieval"].items():
        missing = task["positives"] - task["positives_in_catalogue"]
        if missing:
            report.warning(
                f"{name}: {missing:,} of {task['positives']:,} positives have no vector that could be found "
                "and count as missed."
            )
    for name, values in metrics["baselines"].items():
        differs = values["catalogue"]
        if differs and (differs["missing"] or differs["others"]):
            report.warning(
                f"{name}: its vectors lack {differs['missing']:,} items of the catalogue and have "
                f"{differs['others']:,} others, so its queries are ranked among other items than {MAIN}'s."
            )
    unknown = metrics["unknown_items"]
    if unknown["count"]:
        named = ", ".join(map(repr, unknown["examples"]))
        report.warning(
            f"{unknown['count']:,} of {unknown['rows']:,} searches name items that the catalogue lacks, "
            f"such as {named}."
        )
    report.text(f"Pictures that could not be used: {metrics['broken_images']['count']}.")
    if metrics["broken_images"]["examples"]:
        report.table(metrics["broken_images"]["examples"], "The first of them")
