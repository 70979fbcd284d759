"""What is told of an ablation, once: the same headings, tables and sentences for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moonrec.ablation.metrics import HEADLINE, SECONDS, label_of
from moonrec.ablation.paper import drops_beside, orders_beside
from moonrec.ablation.plan import LeftOut
from moonrec.ablation.statistics import quantile
from moonrec.ablation.study import STUDIES
from moonrec.ablation.table import RowResult, difference_text, metrics_of, summary_text
from moonrec.study.folder import where
from moonrec.study.sections import KeyFigure, Line, Section
from moonrec.text_tables import aligned

_FIRST = "retrieval.image_to_item.hit@10"
_MOST_ROWS = 5


def sections(
    results: Sequence[RowResult], left_out: Sequence[LeftOut], seeds: int, notes: Sequence[str]
) -> list[Section]:
    """Everything that a reader needs, in order.

    Args:
        results: the rows.
        left_out: rows that were not run.
        seeds: how many there are per row.
        notes: what else must be known of this run, such as cells of several versions.
    """
    found = [
        _study(name, [r for r in results if r.study == name], left_out, seeds) for name in _studies(results)
    ]
    return [*found, *_paper(results), Section("How to read this", texts=[*_reading(results, seeds), *notes])]


def key_figures(results: Sequence[RowResult]) -> list[KeyFigure]:
    """What the first study's full model reaches, and what is worth most: the rows that change it most."""
    own = [result for result in results if result.study == results[0].study]
    metric = next((name for name in (_FIRST, *metrics_of(own)) if name in metrics_of(own)), None)
    if metric is None:
        return []
    apart = [result for result in own if metric in result.differences]
    first = next((result for result in own if apart and result.key == apart[0].against), own[0])
    apart.sort(key=lambda result: -abs(result.differences[metric].mean))
    reached = summary_text(first.summaries.get(metric), metric)
    found = [_key_figure(f"{first.label}: {label_of(metric)}", reached, "percent")]
    found += [
        _key_figure(result.label, difference_text(result.differences[metric], metric), "points")
        for result in apart[:_MOST_ROWS]
    ]
    return found


def _key_figure(label: str, text: str, unit: str) -> KeyFigure:
    value, _, spread = text.partition(" ")
    return label, value, f"{unit} {spread}".rstrip()


def terminal_lines(results: Sequence[RowResult], metrics: Sequence[str], out: Path) -> list[str]:
    """What the command prints: the rows with mean and spread, and where the rest stands."""
    cells = [["", *map(label_of, metrics)]]
    cells += [[r.key, *(summary_text(r.summaries.get(m), m) for m in metrics)] for r in results]
    return [*aligned(cells), *where(out)]


def _studies(results: Sequence[RowResult]) -> list[str]:
    return list(dict.fromkeys(result.study for result in results))


def _study(name: str, results: Sequence[RowResult], left_out: Sequence[LeftOut], seeds: int) -> Section:
    metrics = metrics_of(results)
    headline = [metric for metric in metrics if metric in HEADLINE]
    rest = [metric for metric in metrics if metric not in HEADLINE]
    labels = {result.key: result.label for result in results}
    tables: list[tuple[str, Sequence[Line]]] = [
        (caption, _means(results, chosen))
        for caption, chosen in (
            ("Mean ± standard deviation over seeds, in percent", headline),
            ("More of the same: percent, and seconds of training", rest),
        )
        if chosen
    ]
    compared = [result for result in results if result.differences]
    shown = [metric for metric in metrics if metric != SECONDS]
    if compared and shown:
        lines = [
            {"row": r.label, "against": labels[r.against or ""]}
            | {label_of(metric): difference_text(r.differences.get(metric), metric) for metric in shown}
            for r in compared
        ]
        tables.append(("Difference, in points, with its 95 % interval where there is one", lines))
    texts = [f"Left out: {one.label} ({one.reason})." for one in left_out if one.study == name]
    idle = [
        f"{result.label}: {round_} in {count} of {seeds}"
        for result in results
        for round_, count in result.idle_rounds.items()
    ]
    if idle:
        texts.append(
            "Rounds of which no epoch beat the start on held-out pairs, so that the encoder stayed as it was "
            f"before them, by seeds: {'; '.join(idle)}. Where that is so of one row and not of the other, "
            "their difference is that of the round as a whole, and where it is so of both, the round's parts "
            "were not tested."
        )
    return Section(STUDIES[name].title, tables, texts)


def _means(results: Sequence[RowResult], metrics: Sequence[str]) -> list[Line]:
    return [
        {"row": result.label}
        | {label_of(metric): summary_text(result.summaries.get(metric), metric) for metric in metrics}
        for result in results
    ]


def _paper(results: Sequence[RowResult]) -> list[Section]:
    drops = [
        {
            "row": beside.label,
            "metric": label_of(beside.metric),
            "paper": f"{beside.paper:.2f}",
            "here": f"{beside.ours:.2f}",
            "": beside.verdict,
        }
        for beside in drops_beside(results)
    ]
    orders = [
        {
            "study": beside.study,
            "metric": label_of(beside.metric) if beside.metric else "mean of all",
            "paper": ", ".join(beside.paper),
            "here": ", ".join(beside.ours),
            "": beside.verdict,
        }
        for beside in orders_beside(results)
    ]
    tables = [
        (caption, lines)
        for caption, lines in (
            ("What a part's absence costs: full − without, in points", drops),
            ("Rows from the largest cost to the smallest, the paper's beside those of this run", orders),
        )
        if lines
    ]
    if not tables:
        return []
    text = (
        "The papers' numbers are of their own data and of a far larger encoder: compare signs and orders, "
        "not sizes. MOON2.0 reports Recall@10, set beside hit@10 here: they are the same where a query "
        "has one positive. MOON names an order over its tasks, without one number; here it is that of the "
        "mean cost."
    )
    return [Section("Beside the papers", tables, [text])]


def _reading(results: Sequence[RowResult], seeds: int) -> list[str]:
    texts = []
    if seeds == 1:
        texts.append(
            "One seed: there is no spread and no interval, and no difference can be told from chance."
        )
    else:
        texts.append(
            f"Differences are paired by seed; their intervals are Student's t over {seeds} seeds, "
            f"{quantile(seeds):.1f} standard errors to each side"
            + (", which is wide: more seeds narrow them." if seeds < 5 else ".")
        )
        intervals = sum(1 for r in results for name in r.differences if name != SECONDS)
        if intervals:
            texts.append(
                f"These are {intervals} intervals of 95 %: if no part had any effect, about "
                f"{max(1, round(intervals / 20))} of them would still exclude zero."
            )
        texts.append(
            "The intervals tell of seeds, not of the choice of test queries: another test set would move all "
            "rows."
        )
    texts.append(
        "Seconds of training hold those of features that later cells find in the cache: the first cells look "
        "slow."
    )
    texts.append(
        "The test table gave these numbers and nothing else: early stopping looks at held-out training pairs."
    )
    return texts
