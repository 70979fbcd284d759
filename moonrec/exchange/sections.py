"""What is told of an exchange rate, once: the same headings, tables and sentences for Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moonrec.exchange.answers import cautions, headlines, outcomes_of
from moonrec.exchange.judge import Judge
from moonrec.exchange.measure_queries import LeftOut
from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.plots import IMAGE_SEARCH
from moonrec.exchange.reading import reading
from moonrec.exchange.slope import Rate
from moonrec.exchange.steps import Step
from moonrec.exchange.words import (
    domain_label,
    interval_text,
    metric_label,
    number_text,
    of_outcome,
    outcome_label,
    p_text,
    slope_text,
    unit_of,
    value_text,
    wrong_way,
)
from moonrec.study.folder import where
from moonrec.study.sections import Section

_FIRST = 3
_MOST_PRINTED = 8
_NOTHING = "The judge has no defined outcome over all items: nothing can be told."


@dataclass(frozen=True)
class Told:
    """All that a report tells of.

    Attributes:
        rates: as `exchange_rates` ranks them.
        steps: single steps.
        metrics: of all versions.
        outcomes: of all versions.
        versions: their names and families.
        judge: what made the outcomes.
        ids_only: the same judge without vectors, per outcome its `mean` and `sd` over seeds.
        left_out: what there is no rate of.
        notes: what else must be known of this study.
    """

    rates: Sequence[Rate]
    steps: Sequence[Step]
    metrics: Sequence[Metric]
    outcomes: Sequence[Outcome]
    versions: Versions
    judge: Judge
    ids_only: Mapping[str, Mapping[str, Any]]
    left_out: Sequence[LeftOut]
    notes: Sequence[str]


def sections(told: Told) -> list[Section]:
    """Everything that a reader needs, in order; answers first."""
    found = [_answers(told), *_worth(told.rates)]
    if told.steps:
        found.append(_steps(told.steps))
    if any(rate.domain != ALL for rate in told.rates):
        found.append(_domains(told.rates))
    found.append(_versions(told))
    if told.left_out:
        lines = [
            {"what": metric_label(one.name), "of": domain_label(one.domain), "why": one.reason}
            for one in told.left_out
        ]
        found.append(Section("Left out", [("No rate is told of these", lines)]))
    found.append(_judge(told.judge))
    return [*found, Section("How to read this", texts=reading(told.rates, told.versions))]


def terminal_lines(told: Told, out: Path) -> list[str]:
    """What the command prints: the answers, the first metrics of each outcome, and where the rest stands."""
    lines = [*(headlines(told.rates) or [_NOTHING]), *cautions(told.rates), ""]
    for outcome in outcomes_of(told.rates):
        ranked = of_outcome(told.rates, outcome)[:_MOST_PRINTED]
        width = max(len(metric_label(rate.metric)) for rate in ranked)
        lines += [
            f"{outcome_label(outcome):4}  {metric_label(rate.metric):{width}}  {slope_text(rate)} per "
            f"{unit_of(rate.metric).step}" + ("" if rate.established else "  not established")
            for rate in ranked
        ]
    lines += [
        f"{step.before} → {step.after}, {metric_label(step.metric)}: {step.verdict}"
        for step in told.steps
        if step.domain == ALL and step.metric == IMAGE_SEARCH
    ]
    return [*lines, *where(out)]


def _answers(told: Told) -> Section:
    texts = [*(headlines(told.rates) or [_NOTHING]), *cautions(told.rates), *told.notes]
    return Section("What the metrics are worth", texts=texts)


def _worth(rates: Sequence[Rate]) -> list[Section]:
    tables = []
    for outcome in outcomes_of(rates):
        ranked, label = of_outcome(rates, outcome), outcome_label(outcome)
        lines = [
            {
                "metric": metric_label(rate.metric),
                f"{label} points": slope_text(rate),
                "per": unit_of(rate.metric).step,
                "R²": number_text(rate.r2),
                "Spearman": number_text(rate.spearman),
                "left-out error, points": number_text(rate.loo_error, 100, 3),
                "of the mean": number_text(rate.loo_error_mean, 100, 3),
                "Holm's p": p_text(rate.p_holm),
                "versions": str(rate.points),
                "established": _established(rate),
            }
            for rate in ranked
        ]
        tables.append((f"{label}, best metric first", lines))
    return [Section("Every metric", tables)] if tables else []


def _established(rate: Rate) -> str:
    if not rate.established:
        return f"no: {rate.why_not}"
    return "yes, but gains of it go with losses" if wrong_way(rate) else "yes"


def _steps(steps: Sequence[Step]) -> Section:
    # A verdict is mostly that of many metrics: told once, above all of them.
    lines_of: dict[str, list[dict[str, str]]] = {}
    for step in steps:
        if step.domain == ALL:
            lines_of.setdefault(_step_caption(step), []).append(_step_line(step))
    text = (
        "Intervals of single steps are over test queries, seeds and test users, of these two versions alone; "
        "a rate without an interval is unbounded: the metric's own change is not told from zero, or the "
        "noise of one of the two is not known."
    )
    return Section("Single steps", list(lines_of.items()), [text])


def _step_caption(step: Step) -> str:
    limits = (step.outcome_difference, step.outcome_ci_low, step.outcome_ci_high)
    change = f"{outcome_label(step.outcome)} {interval_text(*limits, 100)} points"
    # The interval stands before, and what is promised in the metric's own line.
    verdict = step.verdict.rpartition(" (")[0] or step.verdict
    if step.promised is not None:
        verdict = verdict.removesuffix(f", {step.promised:+.4f}")
    return f"From {step.before} to {step.after}, {change}: {verdict}"


def _step_line(step: Step) -> dict[str, str]:
    unit = unit_of(step.metric)
    return {
        "metric": metric_label(step.metric),
        "its change": _change_text(step),
        f"points of {outcome_label(step.outcome)}": interval_text(
            step.rate, step.rate_ci_low, step.rate_ci_high, unit.slope_scale
        ),
        "per": unit.step,
        "promised by the others, points": interval_text(step.promised, None, None, 100),
    }


def _change_text(step: Step) -> str:
    unit = unit_of(step.metric)
    limits = (step.metric_difference, step.metric_ci_low, step.metric_ci_high)
    return f"{interval_text(*limits, unit.scale, 2)} {unit.name}"


def _domains(rates: Sequence[Rate]) -> Section:
    tables = []
    for outcome in outcomes_of(rates):
        label = outcome_label(outcome)
        first = [rate.metric for rate in of_outcome(rates, outcome)]
        shown = list(dict.fromkeys([*first[:_FIRST], *(name for name in first if name == IMAGE_SEARCH)]))
        slope_of = {(r.domain, r.metric): r for r in rates if r.outcome == outcome}
        domains = list(dict.fromkeys(domain for domain, _ in slope_of))
        lines = []
        for domain in domains:
            best = of_outcome(rates, outcome, domain)[0]
            lines.append(
                {"domain": domain_label(domain)}
                | {metric_label(name): _cell(slope_of.get((domain, name))) for name in shown}
                | {"best here": metric_label(best.metric) if best.established else "none established"}
            )
        title = f"{label} points per point of the metric (losses: per nat; cosines: per 0.01)"
        tables.append((f"{title}; in brackets: not established", lines))
    return Section("By category", tables)


def _cell(rate: Rate | None) -> str:
    if rate is None or rate.slope is None:
        return "–"
    return slope_text(rate) if rate.established else f"({slope_text(rate)})"


def _versions(told: Told) -> Section:
    rates, versions = told.rates, told.versions
    whole = [outcome for outcome in told.outcomes if outcome.domain == ALL]
    value_of = {metric.name: metric.value_V for metric in told.metrics if metric.domain == ALL}
    names = list(dict.fromkeys(r.metric for o in whole for r in of_outcome(rates, o.name)[:1]))
    names += [IMAGE_SEARCH] if IMAGE_SEARCH in value_of and IMAGE_SEARCH not in names else []
    lines = [
        {"version": name, "family": family}
        | {outcome_label(o.name): _mean_text(o.value_VS[row]) for o in whole}
        | {metric_label(metric): value_text(metric, value_of[metric][row]) for metric in names}
        for row, (name, family) in enumerate(zip(versions.names, versions.families, strict=True))
    ]
    context = {outcome_label(o.name): _summary_text(told.ids_only.get(o.name, {})) for o in whole}
    lines.append(
        {"version": "ids alone", "family": "–"} | context | {metric_label(metric): "–" for metric in names}
    )
    texts = [text for o in whole for text in _outstanding(of_outcome(rates, o.name), names)]
    return Section(
        "Versions",
        [("In points, losses in nats; of the judge: mean ± standard deviation over seeds", lines)],
        texts,
    )


def _mean_text(value_S: np.ndarray) -> str:
    known = value_S[np.isfinite(value_S)]
    if not len(known):
        return "–"
    spread = float(known.std(ddof=1)) if len(known) > 1 else None
    return _summary_text({"mean": float(known.mean()), "sd": spread})


def _summary_text(summary: Mapping[str, Any]) -> str:
    mean, spread = summary.get("mean"), summary.get("sd")
    if mean is None or spread is None:
        return number_text(mean, 100)
    return f"{100 * mean:.2f} ± {100 * spread:.2f}"


def _outstanding(ranked: Sequence[Rate], names: Sequence[str]) -> list[str]:
    """The versions on which the shown slopes hang, and those that promise more than they keep."""
    texts = []
    for rate in ranked:
        if rate.metric not in names or rate.most_influential is None:
            continue
        label = outcome_label(rate.outcome)
        unit = unit_of(rate.metric)
        without = "there is no slope"
        if rate.slope_without_it is not None:
            without = f"it is {interval_text(rate.slope_without_it, None, None, unit.slope_scale)}"
        text = (
            f"{label} points per {unit.step} of {metric_label(rate.metric)}: "
            f"{interval_text(rate.slope, None, None, unit.slope_scale)} with all "
            f"versions; {rate.most_influential} moves it most, without it {without}."
        )
        if rate.overrated is not None and rate.overrated_by is not None:
            text += (
                f" {rate.overrated} promises most that it does not keep: its {label} is "
                f"{100 * rate.overrated_by:.2f} points below what the others' line predicts from the metric."
            )
        texts.append(text)
    return texts


def _judge(judge: Judge) -> Section:
    lines = [
        {"": "fingerprint", "value": judge.fingerprint},
        {"": "seeds", "value": f"0 to {judge.seeds - 1}"},
    ]
    lines += [{"": f"table {name}", "value": value} for name, value in judge.inputs.items()]
    lines += [{"": name, "value": _option_text(value)} for name, value in judge.options.items()]
    text = (
        "Two teams whose judges have the same fingerprint can compare their rates: the same options, seeds, "
        "training and test rows, and versions of what computes."
    )
    return Section("The judge", [("One click model on every version's frozen vectors", lines)], [text])


def _option_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
