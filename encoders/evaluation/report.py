"""The page of an evaluation: what was reached, what to mind, plots and pictures first; then all numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from encoders.evaluation.report_comparisons import add_comparisons, by_reason
from encoders.evaluation.report_domains import add_domains
from encoders.evaluation.report_figures import CUTOFF, HIT, add_figures
from encoders.evaluation.report_pictures import Examples, add_neighbours, add_queries
from encoders.evaluation.report_tables import add_agreement, add_labelled, add_retrieval
from encoders.evaluation.report_words import Entrants, chance_of_hit, entrant_cell, task_label
from encoders.evaluation.results import MAIN
from encoders.evaluation.tasks import AGREEMENT, ATTRIBUTES, CLASSIFICATION
from moonrec.report import Report, format_value

_RETRIEVAL_SHOWN, _LEVELS_SHOWN = 3, 1


def evaluation_report(
    metrics: Mapping[str, Any], config: Mapping[str, Any], examples: Examples | None
) -> Report:
    """The page of an evaluation; the configuration follows.

    Args:
        metrics: as `metrics.json` holds them.
        config: the command's options.
        examples: the content of `examples.json`; None where nothing was retrieved.
    """
    retrieval = metrics["retrieval"]
    entrants: Entrants = {MAIN: metrics, **metrics["baselines"]}
    asked = sum(task["queries"] for task in retrieval.values())
    tasks = "1 retrieval task" if len(retrieval) == 1 else f"{len(retrieval)} retrieval tasks"
    subtitle = f"{asked:,} queries of {tasks}"
    if len(entrants) > 1:
        subtitle += f"; {MAIN} beside {', '.join(metrics['baselines'])}"
    report = Report("moonrec evaluate", subtitle)
    report.headline(_key_figures(metrics))
    _warnings(report, metrics)
    add_figures(report, entrants)
    if examples is not None:
        add_queries(report, examples)
    if len(entrants) > 1:
        _who(report, entrants, config)
    add_retrieval(report, entrants)
    add_labelled(report, entrants)
    add_agreement(report, entrants)
    add_comparisons(report, metrics)
    add_domains(report, entrants)
    if examples is not None:
        add_neighbours(report, examples)
    _left_out(report, entrants)
    _broken_images(report, metrics)
    return report


def _key_figures(metrics: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    """What is looked for first, with its interval and what chance reaches."""
    found: list[tuple[str, object, str]] = [
        (
            f"{task_label(task)}, {HIT}",
            values[HIT],
            _note(values["ci"][HIT], f"by chance {format_value(chance_of_hit(values, CUTOFF))}"),
        )
        for task, values in list(metrics["retrieval"].items())[:_RETRIEVAL_SHOWN]
    ]
    for level, values in list(metrics.get(CLASSIFICATION, {}).items())[:_LEVELS_SHOWN]:
        chance = f"always the commonest {format_value(values['majority'])}"
        label = f"{task_label(f'{CLASSIFICATION}.{level}')}, accuracy"
        found.append((label, values["accuracy"], _note(values["ci"]["accuracy"], chance)))
    if attributes := metrics.get(ATTRIBUTES):
        accuracy, majority = (
            sum(one[key] for one in attributes.values()) / len(attributes) for key in ("accuracy", "majority")
        )
        name = "1 attribute" if len(attributes) == 1 else f"{len(attributes)} attributes, mean"
        found.append((f"{name} accuracy", accuracy, f"always the commonest {format_value(majority)}"))
    if not found and AGREEMENT in metrics:
        agreement = metrics[AGREEMENT]
        found.append(("agreement", agreement["image_text"], _note(agreement["ci"]["image_text"], "")))
    return found


def _note(interval: tuple[float | None, float | None], chance: str) -> str:
    low, high = interval
    spread = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    return "; ".join(filter(None, (spread, chance)))


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


def _left_out(report: Report, entrants: Entrants) -> None:
    rows = [
        entrant_cell(name, entrants) | row
        for name, values in entrants.items()
        for row in by_reason(values["left_out"], "reason")
    ]
    if rows:
        report.heading("Left out")
        report.table(rows)


def _warnings(report: Report, metrics: Mapping[str, Any]) -> None:
    missing = {
        name: (task["positives"] - task["positives_in_catalogue"], task["positives"])
        for name, task in metrics["retrieval"].items()
    }
    told = [f"{task_label(name)}: {few:,} of {every:,}" for name, (few, every) in missing.items() if few]
    if told:
        report.warning(
            f"Positives without a vector that could be found, which count as missed: {'; '.join(told)}."
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
    if broken := metrics["broken_images"]["count"]:
        report.warning(f"{broken:,} pictures could not be used.")


def _broken_images(report: Report, metrics: Mapping[str, Any]) -> None:
    if metrics["broken_images"]["examples"]:
        report.heading("Pictures that could not be used")
        report.table(metrics["broken_images"]["examples"], "The first of them")
