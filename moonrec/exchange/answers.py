"""The answer of an exchange rate in a few sentences, and what must be known of it."""

from __future__ import annotations

from collections.abc import Sequence

from moonrec.exchange.observations import ALL
from moonrec.exchange.plots import IMAGE_SEARCH
from moonrec.exchange.slope import Rate
from moonrec.exchange.words import (
    interval_text,
    metric_label,
    number_text,
    of_outcome,
    outcome_label,
    slope_text,
    unit_of,
)
from moonrec.study.sections import KeyFigure

_HOLM = 0.05


def key_figures(rates: Sequence[Rate]) -> list[KeyFigure]:
    """Per outcome over all items, what a point of the first metric and of image search is worth."""
    return [
        _key_figure(rate, place)
        for outcome in outcomes_of(rates)
        for place, rate in enumerate(of_outcome(rates, outcome), 1)
        if place == 1 or rate.metric == IMAGE_SEARCH
    ]


def _key_figure(rate: Rate, place: int) -> KeyFigure:
    value, _, interval = slope_text(rate).partition(" ")
    label = (
        f"{outcome_label(rate.outcome)} points per {unit_of(rate.metric).step} of {metric_label(rate.metric)}"
    )
    if not rate.established:
        return label, None, f"not established: {rate.why_not}"
    return label, value, f"{interval}; {'tells most' if place == 1 else f'number {place} of the metrics'}"


def headlines(rates: Sequence[Rate]) -> list[str]:
    """One sentence per outcome over all items: which metric tells most, and what a point of it is worth."""
    return [_headline(of_outcome(rates, outcome), outcome_label(outcome)) for outcome in outcomes_of(rates)]


def outcomes_of(rates: Sequence[Rate]) -> list[str]:
    """Those over all items, in order."""
    return list(dict.fromkeys(rate.outcome for rate in rates if rate.domain == ALL))


def _headline(ranked: Sequence[Rate], label: str) -> str:
    best = ranked[0]
    if not best.established:
        return f"{label}: no metric's rate is established ({metric_label(best.metric)}: {best.why_not})."
    text = (
        f"{label}: {metric_label(best.metric)} tells most. Per {unit_of(best.metric).step} of it there are "
        f"{slope_text(best)} points of {label}, and it predicts a left-out version to "
        f"±{number_text(best.loo_error, 100, 3)} points, where the mean of the others is off by "
        f"{number_text(best.loo_error_mean, 100, 3)}."
    )
    image = [(place, rate) for place, rate in enumerate(ranked, 1) if rate.metric == IMAGE_SEARCH]
    if image and image[0][0] > 1:
        place, rate = image[0]
        told = f"{slope_text(rate)} points of {label} per {unit_of(rate.metric).step}"
        if not rate.established:
            told = f"not established: {rate.why_not}"
        text += f" {metric_label(IMAGE_SEARCH)} is number {place} of {len(ranked)} ({told})."
    return text


def cautions(rates: Sequence[Rate]) -> list[str]:
    """What must be known of the first metric's rate, where it is established, per outcome."""
    texts = []
    for outcome in outcomes_of(rates):
        ranked, label = of_outcome(rates, outcome), outcome_label(outcome)
        best = ranked[0]
        if not best.established:
            continue
        if best.established_without_it is False:
            slope = interval_text(best.slope_without_it, None, None, unit_of(best.metric).slope_scale)
            texts.append(
                f"{label}: the rate of {metric_label(best.metric)} hangs on {best.most_influential}. Without "
                f"it the slope is {slope}, and it is not established."
            )
        tested = [rate for rate in ranked if rate.p_holm is not None]
        holding = sum(rate.p_holm is not None and rate.p_holm < _HOLM for rate in tested)
        texts.append(
            f"{label}: {len(tested)} metrics were tried; after Holm's correction for that, {holding} of "
            "their rates differ from zero."
        )
    return texts
