"""What a reader of an exchange rate must know, and what cannot be concluded from it."""

from __future__ import annotations

from collections.abc import Sequence

from moonrec.exchange.families import LEAST_FAMILIES
from moonrec.exchange.observations import Versions
from moonrec.exchange.slope import LEAST_VERSIONS, Rate


def reading(rates: Sequence[Rate], versions: Versions) -> list[str]:
    """Paragraphs for the end of every report."""
    return [*_method(rates), *_multiplicity(rates), *_limits(versions)]


def _method(rates: Sequence[Rate]) -> list[str]:
    seeds = max((rate.seeds for rate in rates), default=0)
    over_seeds = f" over {seeds} seeds" if seeds > 1 else ""
    texts = [
        "A slope is the points of AUC (or GAUC) that a version has more per point of the metric"
        f"{over_seeds}; of a loss per nat, of image-text agreement per 0.01 of cosine. It is that of the "
        "mixed model with a random version and common seeds. Its 95 % interval holds the scatter of versions "
        "about the line, the noise of seeds, and the luck of test users and test queries. It is corrected "
        "for the queries' luck, which would pull it towards zero.",
        "Left-out error: each version in turn is predicted from the line through the others; root mean "
        "square error. Checkpoints of one training are left out together. A metric worth watching does "
        "better than the mean of the others, which knows no metric. Metrics are ordered by the first error "
        "over the second, on the versions that they share.",
        "Single steps: a gain of the metric is worth nothing where the outcome's gain is shown to be less "
        "than the rate of versions of other trainings promises. Where it is not, or they establish no rate, "
        "the study is too noisy to tell.",
        f"Not established: the interval covers zero, or there are fewer than {LEAST_VERSIONS} versions, or "
        f"these are checkpoints of fewer than {LEAST_FAMILIES} trainings, or more than half of the metric's "
        "spread over versions is luck of its test queries.",
    ]
    if seeds == 1:
        texts.append(
            "One seed of the judge: its noise is part of the scatter about the line, and single steps have "
            "no interval."
        )
    return texts


def _multiplicity(rates: Sequence[Rate]) -> list[str]:
    tested = [rate for rate in rates if rate.p is not None]
    established = [rate for rate in tested if rate.established]
    if len(tested) < 2:
        return []
    survive = sum(1 for rate in established if rate.p_holm is not None and rate.p_holm < 0.05)
    return [
        f"These are {len(tested)} slopes: if none were real, about {max(1, round(len(tested) / 20))} would "
        f"still look established. {len(established)} do, {survive} of them also after Holm's correction "
        "within their outcome and domain. Choosing the best of many metrics flatters it: its lead over the "
        "next one is not tested."
    ]


def _limits(versions: Versions) -> list[str]:
    texts = [
        "This is an association over the versions at hand, not a cause: versions that differ in the metric "
        "differ in other things, too, and a new way to raise the metric need not carry the AUC with it.",
        "It holds for this judge, this log and this catalogue. Another team's rate can be set beside it "
        "where the judge's fingerprint is the same. AUC on logged impressions is not CTR online.",
    ]
    families = len(set(versions.families))
    if families < len(versions.names):
        texts.insert(
            1,
            f"The {len(versions.names)} versions are of {families} "
            f"{'family' if families == 1 else 'families'}. Checkpoints of one training resemble each other, "
            "and metric and AUC may both rise with training for reasons of their own. The intervals rest on "
            "the families alone, and so does the error on left-out versions.",
        )
    return texts
