"""`report.html` of a ranking run: the numbers against the baseline, curves, groups, what made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr.report_figures import group_figure, reliability_figure
from ctr.seed_results import SPREAD
from moonrec.report import Report, add_provenance, format_value, line_figure

_NAMES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}
_Lines = Sequence[Mapping[str, Any]]


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    history: _Lines,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: where to.
        metrics: the content of `metrics.json`.
        history: the lines of `history.jsonl`.
        config: the run's options.
        inputs: a fingerprint per input.
    """
    report = Report("Click-through rate", f"content: {', '.join(config['content'])}")
    for warning in metrics["warnings"]:
        report.warning(warning)
    _add_results(report, metrics)
    # The curves are those of the first seed, whose model is the one that is saved.
    lines = [line for line in history if line["seed"] == config["seed"]]
    _add_curves(report, [line for line in lines if line["stage"] == "click"])
    _add_pretraining(report, [line for line in lines if line["stage"] == "make"])
    _add_validation(report, metrics, lines)
    _add_calibration(report, metrics["calibration"])
    report.heading("By item frequency")
    report.table(metrics["groups"], "how often the target stands in the training impressions")
    report.figure(group_figure(metrics["groups"]), "AUC by item frequency")
    report.heading("Coverage and speed")
    report.table(
        [{"": name, "share with an embedding": share} for name, share in _flat(metrics["coverage"])],
        "what the embedding sets cover of the test rows",
    )
    train = metrics["train"]
    report.text(
        f"Trained for {train['seconds']:.1f} s at {train['samples_per_second']:,.0f} samples a second"
        + (
            f", after {train['pretraining_seconds']:.1f} s of pretraining."
            if "pretraining_seconds" in train
            else "."
        )
    )
    add_provenance(report, config, inputs)
    report.save(path)


def _add_results(report: Report, metrics: Mapping[str, Any]) -> None:
    test, baseline = metrics["test"], metrics["baseline"]["top3_cosine"]
    spread = metrics.get("spread")
    report.headline(
        [(label, test[name], _spread_text(spread and spread[name])) for name, label in _NAMES.items()]
    )
    model = {label: _with_spread(test[name], spread and spread[name]) for name, label in _NAMES.items()}
    rows: list[dict[str, Any]] = [{"": "model", **model}]
    if baseline:
        rows.append(
            {
                "": "no learning: top-3 cosine",
                "AUC": baseline["auc"],
                "GAUC": baseline["gauc"],
                "log loss": None,
            }
        )
    caption = f"{test['rows']:,} test impressions of {test['users']:,} users"
    seeds = metrics.get("seeds")
    report.table(rows, caption + (f"; mean ± sd of {len(seeds)} seeds" if seeds else ""))
    if seeds:
        report.table(
            [{"seed": one["seed"], **{_NAMES[name]: one["test"][name] for name in SPREAD}} for one in seeds],
            "test metrics per seed; the first one's model and scores are saved",
        )


def _flat(shares: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float | None]]:
    """Names such as `sets.image.target`, with their numbers."""
    for name, value in shares.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _with_spread(value: float | None, spread: Mapping[str, Any] | None) -> Any:
    if value is None:
        return "undefined"
    text = _spread_text(spread)
    return f"{format_value(value)} {text}" if text else value


def _spread_text(spread: Mapping[str, Any] | None) -> str:
    return "" if spread is None or spread["sd"] is None else f"± {spread['sd']:.4f}"


def _add_curves(report: Report, lines: _Lines) -> None:
    report.heading("Training")
    samples = [line["samples"] for line in lines]
    report.figure(
        line_figure({"loss": (samples, [line["loss"] for line in lines])}, "samples", "loss"), "loss"
    )
    report.figure(
        line_figure({"AUC": _known(lines, "auc")}, "samples", "AUC"),
        "AUC of predictions made before the update that learns from them (progressive validation)",
    )


def _add_pretraining(report: Report, lines: _Lines) -> None:
    if lines:
        report.heading("MAKE's pretraining")
        report.figure(
            line_figure({"AUC": _known(lines, "auc")}, "samples", "AUC"),
            "AUC of the frozen vectors alone; from the second epoch on over rows that were seen before",
        )


def _add_validation(report: Report, metrics: Mapping[str, Any], lines: _Lines) -> None:
    validation = metrics.get("validation")
    if not validation:
        return
    report.heading("Validation")
    checks = [line for line in lines if "validation_auc" in line]
    report.figure(
        line_figure({"AUC": _known(checks, "validation_auc")}, "samples", "validation AUC"),
        "The weights of the best check are those that were tested and saved",
    )
    report.table([dict(validation)])


def _add_calibration(report: Report, calibration: Mapping[str, Any]) -> None:
    report.heading("Calibration")
    ratio = calibration["ratio"]
    told = "without any click" if ratio is None else f"{ratio:.3f} times as many as there were"
    report.text(
        f"Expected click rate {calibration['expected']:.4f}, observed {calibration['observed']:.4f}: {told}. "
        f"Expected calibration error {calibration['error']:.4f}."
    )
    report.figure(
        reliability_figure(calibration["bins"]),
        "predicted against observed click rate, in bins of equally many rows",
    )
    report.table(calibration["bins"])


def _known(lines: _Lines, name: str) -> tuple[list[float], list[float]]:
    known = [line for line in lines if line[name] is not None]
    return [line["samples"] for line in known], [line[name] for line in known]
