"""The page of a relevance model: what it is worth beside the cosine, its calibration, where it errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from encoders.relevance.measure import METRICS, ScoredPairs
from encoders.relevance.pictures import add_mistakes
from encoders.relevance.query_vectors import QueryWindow
from moonrec.report import Cell, Report
from moonrec.report.curves import COLOURS
from moonrec.tables import Table

_WEIGHTS_SHOWN = 12
_LABELS = {"auc": "AUC", "average_precision": "average precision", "query_auc": "AUC within a query"}


def relevance_report(
    metrics: Mapping[str, Any],
    scored: ScoredPairs,
    window: QueryWindow,
    searches: Table,
    items: Table,
) -> Report:
    """The page; the configuration follows.

    Args:
        metrics: as `metrics.json` holds them.
        scored: the test pairs.
        window: the queries of the test.
        searches: the test searches.
        items: the catalogue.
    """
    test, cosine = metrics["test"], metrics["baseline"]["cosine"]
    subtitle = (
        f"{test['pairs']:,} pairs of {test['queries']:,} test queries, {test['positives']:,} of them taken"
    )
    report = Report("moonrec train-relevance", subtitle)
    report.headline(
        [
            ("AUC", test["auc"], f"{_spread(test, 'auc')}; bare cosine {cosine['auc']:.4f}"),
            (
                "average precision", test["average_precision"],
                f"{_spread(test, 'average_precision')}; bare cosine {cosine['average_precision']:.4f}",
            ),
            ("calibration error", test["ece"], f"log loss {test['logloss']:.4f}"),
        ]
    )  # fmt: skip
    report.text(_verdict(metrics["differences"]))
    _warnings(report, metrics)
    report.figure(
        reliability_figure({"model": test["bins"], "cosine, calibrated": cosine["bins"]}),
        "Share of items taken against the predicted one, ten bins of equally many test pairs",
    )
    _parts(report, metrics)
    add_mistakes(report, scored, window, searches, items)
    _model(report, metrics)
    return report


def reliability_figure(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Observed against expected shares, one line per name; the diagonal is perfect calibration."""
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="#8a8a8a", linewidth=1)
    for colour, (name, of_one) in zip(COLOURS, bins.items(), strict=False):
        expected, observed = ([one[key] for one in of_one] for key in ("expected", "observed"))
        axes.plot(expected, observed, "o-", color=colour, markersize=4, linewidth=1.4, label=name)
    axes.set(xlabel="predicted", ylabel="observed", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _verdict(differences: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for metric in METRICS:
        one = next(row for row in differences if row["metric"] == metric and row["group"] == "all")
        low, high = one["ci_low"], one["ci_high"]
        if one["difference"] is None or low is None or high is None:
            told.append(f"{_LABELS[metric]} is undefined here")
        elif low > 0:
            told.append(f"{_LABELS[metric]} is higher by {one['difference']:.4f} [{low:.4f}, {high:.4f}]")
        elif high < 0:
            told.append(f"{_LABELS[metric]} is LOWER by {-one['difference']:.4f} [{-high:.4f}, {-low:.4f}]")
        else:
            told.append(
                f"{_LABELS[metric]} is not told apart ({one['difference']:+.4f} [{low:+.4f}, {high:+.4f}])"
            )
    return f"Against the bare cosine: {'; '.join(told)}."


def _warnings(report: Report, metrics: Mapping[str, Any]) -> None:
    test, trained = metrics["test"], metrics["training"]
    report.warning(
        f"The share of positives, {trained['share_of_positives']:.3f} in training, comes from how negatives "
        "were sampled: probabilities are calibrated for pairs drawn like that, and for no other traffic."
    )
    if test["queries_in_training"]:
        new = metrics["new_queries"]
        rest = "" if new is None or new["auc"] is None else f"; AUC on the others: {new['auc']:.4f}"
        report.warning(f"Test queries that also stand in training: {test['queries_in_training']:,}{rest}.")
    if test["queries_of_unknown_modality"]:
        report.warning(
            f"{test['queries_of_unknown_modality']:,} test queries are left out: no training query shows the "
            "same modalities (picture, words, both)."
        )
    for name, unknown in metrics["unknown_items"].items():
        if unknown["count"]:
            report.warning(
                f"{unknown['count']:,} of {unknown['rows']:,} rows of {name} name items that the catalogue "
                "lacks."
            )
    if broken := metrics["broken_images"]["count"]:
        report.warning(f"{broken:,} pictures could not be used.")


def _parts(report: Report, metrics: Mapping[str, Any]) -> None:
    report.heading("By query and by kind of negative")
    difference = {(row["group"], row["metric"]): row for row in metrics["differences"]}
    for key, name, caption in (
        ("by_modality", "modality", "By what the query shows; below: model minus cosine, 95 %"),
        (
            "by_negative", "negative",
            "By kind of negative, each against all positives: shown beside what was taken, drawn from its "
            "category, drawn from everything",
        ),
    ):  # fmt: skip
        rows = []
        for one in metrics[key]:
            row: dict[str, object] = {name: one[name], "queries": one["queries"], "pairs": one["pairs"]}
            for metric in METRICS:
                change = difference[f"{name}: {one[name]}", metric]
                note = _between(change) if change["ci_low"] is not None else ""
                row[_LABELS[metric]] = Cell(one[metric], note)
            rows.append(row)
        if rows:
            report.table(rows, caption)
    entrants = {"model": metrics["test"], "cosine": metrics["baseline"]["cosine"]}
    names = _LABELS | {"logloss": "log loss", "ece": "calibration error"}
    report.table(
        [{"": name} | {label: one[key] for key, label in names.items()} for name, one in entrants.items()],
        "All pairs. Within a query only the order of its own items counts, as in a list of results; over all "
        "pairs it also counts whether scores of different queries mean the same, as for a threshold. Log "
        "loss and calibration of the cosine are those of a model of the cosine alone",
    )


def _model(report: Report, metrics: Mapping[str, Any]) -> None:
    model, trained, near = metrics["model"], metrics["training"], metrics["positive_cosine"]
    report.heading("The model")
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in trained["kinds"].items())
    report.text(
        f"Chosen by held-out training queries: {model['form']}, C = {model['c']:g}. It learnt from "
        f"{trained['pairs']:,} pairs of {trained['queries']:,} queries: {kinds}. Taken items have a mean "
        f"cosine of {near['training']:.3f} in training and {near['test']:.3f} in the test; a much lower one "
        "in the test hints that the encoder was trained on the same searches: the model then trusts it too "
        "much."
    )
    report.table(
        model["weights"][:_WEIGHTS_SHOWN],
        "Weights in the logit, per standard deviation; features that overlap share theirs, so that a small "
        "or negative one does not say that a feature is useless",
    )
    if model["weights"][_WEIGHTS_SHOWN:]:
        with report.details("The other weights"):
            report.table(model["weights"][_WEIGHTS_SHOWN:])
    with report.details("What was tried"):
        report.table(model["tried"], "On pairs of training queries that were left out of the fit")


def _spread(numbers: Mapping[str, Any], metric: str) -> str:
    low, high = numbers["ci"][metric]
    return "no interval" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _between(change: Mapping[str, Any]) -> str:
    return f"{change['difference']:+.4f} [{change['ci_low']:+.4f}, {change['ci_high']:+.4f}]"
