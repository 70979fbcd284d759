"""Which plots a study gets: the ranking of all metrics, and a few metrics in full."""

from __future__ import annotations

from collections.abc import Sequence

from moonrec.exchange.figures import forest_figure, ranking_figure, scatter_figure
from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.slope import Rate
from moonrec.exchange.words import metric_label, of_outcome, outcome_label
from moonrec.study.sections import Plot

IMAGE_SEARCH = "retrieval.image_to_item.hit@10"
"""The intermediate metric of MOON Embedding, by its first definition: any positive among the first ten."""
_NO_LEARNING = "top3_cosine."


def exchange_plots(
    metrics: Sequence[Metric],
    outcomes: Sequence[Outcome],
    versions: Versions,
    rates: Sequence[Rate],
    reference: str | None = None,
) -> list[Plot]:
    """Per outcome the ranking, then line and slopes per domain of the metrics that readers ask for first.

    These are the first of the ranking, image search and the no-learning AUC.
    """
    metric_of = {metric.name: metric for metric in metrics if metric.domain == ALL}
    found = []
    for outcome in (outcome for outcome in outcomes if outcome.domain == ALL):
        ranked, label = of_outcome(rates, outcome.name), outcome_label(outcome.name)
        drawn = [(
            f"ranking-{outcome.name}", ranking_figure(ranked),
            f"How well each metric tells the {label} of a version that the line has not seen. "
            "Filled: the slope is established.",
        )]  # fmt: skip
        for name in asked_for(ranked):
            stem, title = f"{outcome.name}-{_file_part(name)}", metric_label(name)
            scatter = scatter_figure(metric_of[name], outcome, versions, reference)
            drawn.append(
                (f"versions-{stem}", scatter, f"{label} and {title}, one point per version. {_BARS}")
            )
            by_domain = [rate for rate in rates if (rate.outcome, rate.metric) == (outcome.name, name)]
            if len(by_domain) > 1:
                caption = f"{label} per {title}, by category. Filled: established; bars: 95 % intervals."
                drawn.append((f"domains-{stem}", forest_figure(by_domain), caption))
        found += [Plot(name, figure, caption) for name, figure, caption in drawn if figure is not None]
    return found


_BARS = (
    "Bars: 95 % intervals against the mean of the versions, over test queries (across) and over seeds "
    "and test users (up). Grey: the line and its 95 % band."
)


def asked_for(ranked: Sequence[Rate]) -> list[str]:
    """The metrics of one outcome that are shown in full."""
    names = [rate.metric for rate in ranked]
    others = (name for name in names if name == IMAGE_SEARCH or name == f"{_NO_LEARNING}{ranked[0].outcome}")
    return list(dict.fromkeys([*names[:1], *others]))


def _file_part(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
