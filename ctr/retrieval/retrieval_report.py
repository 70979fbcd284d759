"""`report.html` of a retrieval run: who finds more, on new items too, and whether the towers collapsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr.retrieval.retrieval_figures import groups_figure, recall_figure
from ctr.retrieval.retrieval_verdict import METHODS, difference_text, not_measured, verdict
from moonrec.report import Cell, Report, add_provenance, format_value, line_figure

_COLUMNS = ("recall@10", "recall@50", "recall@100", "recall@500", "ndcg@10", "mrr")
_LABELS = {"ndcg@10": "NDCG@10", "mrr": "MRR"}
_CURVES = {
    "loss": "loss",
    "validation_recall@100": "recall@100 of validation",
    "mean_cosine": "mean cosine of two item vectors",
    "effective_rank": "effective rank of the item vectors",
    "temperature": "temperature",
}
_GROUP_NAMES = {("model" if name == "test" else name): label for name, label in METHODS.items()}
_REQUESTS = {"all": "all", "new": "for new items", "among new": "for new items, among these only"}
_SHARES = {
    "target": "test targets",
    "history": "events of test histories",
    "catalogue": "items of the catalogue",
}
_Lines = Sequence[Mapping[str, Any]]


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    history: _Lines,
    options: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: where to.
        metrics: the content of `metrics.json`.
        history: the lines of `history.jsonl`; those of the first seed are drawn.
        options: the run's options.
        inputs: a fingerprint per input.
    """
    report = Report("Retrieval", "two towers against the baselines, on the same requests")
    for sentence in verdict(metrics):
        report.text(sentence)
    for warning in metrics["warnings"]:
        report.warning(warning)
    _add_headline(report, metrics)
    _add_methods(report, metrics)
    _add_new_items(report, metrics["new_items"])
    _add_groups(report, metrics)
    _add_training(report, metrics, [line for line in history if line.get("seed", 0) == options["seed"]])
    _add_index(report, metrics["index"])
    _add_coverage(report, metrics)
    add_provenance(report, options, inputs)
    report.save(path)


def _add_headline(report: Report, metrics: Mapping[str, Any]) -> None:
    test, new, spread = metrics["test"], metrics["new_items"], metrics.get("spread", {})
    figures: list[tuple[str, object, str]] = [
        ("recall@100", test["recall@100"], _spread_text(spread.get("recall@100")) or _best(metrics)),
        ("NDCG@10", test["ndcg@10"], _spread_text(spread.get("ndcg@10"))),
    ]
    if new["requests"]:
        figures.append(("recall@100, new items", new["test"]["recall@100"], _best(new)))
    figures.append(("coverage@100", test["coverage@100"], "of the catalogue among somebody's first 100"))
    report.headline(figures)


def _best(blocks: Mapping[str, Any]) -> str:
    """The best baseline."""
    values = {
        label: blocks[name]["recall@100"]
        for name, label in METHODS.items()
        if name != "test" and blocks[name]
    }
    name = max(values, key=values.__getitem__)
    return f"{name}: {format_value(values[name])}"


def _spread_text(spread: Mapping[str, Any] | None) -> str:
    return "" if spread is None or spread["sd"] is None else f"± {spread['sd']:.4f} over seeds"


def _add_methods(report: Report, metrics: Mapping[str, Any]) -> None:
    report.heading("Model and baselines")
    test = metrics["test"]
    told = f"{test['requests']:,} requests of {test['users']:,} users; coverage: of the catalogue"
    blocks = {label: metrics[name] for name, label in METHODS.items() if metrics[name]}
    report.table(
        _method_rows(blocks, (*_COLUMNS, "coverage@100")), f"{told}; the best of each column in green"
    )
    report.figure(recall_figure(blocks), "recall over the number of candidates")
    _add_differences(report, metrics["differences"])
    if "seeds" in metrics:
        report.table(
            [{"seed": one["seed"], **_values(one["test"], _COLUMNS)} for one in metrics["seeds"]],
            "the model's test metrics per seed; the first one is saved",
        )


def _method_rows(
    blocks: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> list[Mapping[str, object]]:
    """A line per method; the highest number of each column stands out."""
    best = {name: max((block[name] for block in blocks.values()), default=0.0) for name in columns}
    return [
        {"": label}
        | {_label(name): Cell(block[name], marked=0 < best[name] == block[name]) for name in columns}
        for label, block in blocks.items()
    ]


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric)


def _values(block: Mapping[str, Any], columns: Sequence[str]) -> Mapping[str, object]:
    return {_label(name): block.get(name) for name in columns}


def _add_differences(report: Report, differences: _Lines) -> None:
    lines: dict[tuple[str, str], dict[str, object]] = {}
    for one in differences:
        requests = _REQUESTS[one["group"]]
        line = lines.setdefault(
            (one["group"], one["baseline"]), {"requests": requests, "against": METHODS[one["baseline"]]}
        )
        line[_label(one["metric"])] = difference_text(one)
    report.table(
        list(lines.values()),
        "the model minus a baseline; 95 % intervals by paired bootstrap over users, means over the seeds",
    )


def _add_new_items(report: Report, new: Mapping[str, Any]) -> None:
    report.heading("New items")
    if not new["requests"]:
        report.text("No test request is for an item that training had not seen.")
        return
    report.text(
        f"{new['requests']:,} test requests are for one of the {new['items']:,} items of the catalogue that "
        "never stand in training. Only content and categories tell anything of these: popularity and "
        "item-kNN cannot list them."
    )
    blocks = {label: new[name] for name, label in METHODS.items() if new[name]}
    report.table(_method_rows(blocks, _COLUMNS), "ranked in the whole catalogue, with all that is well known")
    among = new["among_new"]
    rows = [
        {"": label, **_values(among[name], _COLUMNS)}
        for name, label in (*METHODS.items(), ("chance", "chance"))
        if among.get(name)
    ]
    report.table(rows, "ranked among the new items only")


def _add_groups(report: Report, metrics: Mapping[str, Any]) -> None:
    report.heading("By item frequency")
    groups = [group for group in metrics["groups"] if group["requests"]]
    if groups:
        report.figure(
            groups_figure(groups, _GROUP_NAMES),
            "recall@100 by how often the wanted item stands in training; a request for items of several "
            "groups counts in each",
        )
    rows = [
        {"training rows": group["group"], "requests": group["requests"]}
        | {label: group["recall@100"].get(name) for name, label in _GROUP_NAMES.items()}
        for group in groups
    ]
    report.table(rows, "recall@100")


def _add_training(report: Report, metrics: Mapping[str, Any], lines: _Lines) -> None:
    report.heading("Collapse and training")
    collapse = metrics["collapse"]
    spreads = {
        "item vectors": collapse,
        "user vectors": collapse["users"],
        "frozen vectors": collapse["frozen"],
    }
    report.table(
        [
            {"": name, "mean cosine": spread["mean_cosine"], "effective rank": spread["effective_rank"]}
            for name, spread in spreads.items()
            if spread
        ],
        "mean cosine of two vectors (1: all the same), and directions that they use around their mean",
    )
    for name, label in _CURVES.items():
        known = [line for line in lines if line.get(name) is not None]
        if known:
            series = ([line["epoch"] for line in known], [line[name] for line in known])
            report.figure(line_figure({label: series}, "epoch", label), label)
    train = metrics["train"]
    report.text(
        f"Trained on {train['rows']:,} rows for {train['seconds']:.1f} s at "
        f"{train['samples_per_second']:,.0f} samples a second; the weights are those of epoch "
        f"{format_value(train['best_epoch'])} of {format_value(train['epochs'])}, "
        f"at a temperature of {train['temperature']:.4f}."
    )


def _add_index(report: Report, index: Mapping[str, Mapping[str, Any]]) -> None:
    report.heading("Index")
    names = list(dict.fromkeys(name for found in index.values() for name in found))
    report.table(
        [
            {"index": kind} | {name.replace("_", " "): _plain(found.get(name)) for name in names}
            for kind, found in index.items()
        ],
        "measured on this machine, with user vectors that the index was not tuned on",
    )


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return value


def _add_coverage(report: Report, metrics: Mapping[str, Any]) -> None:
    report.heading("What could be measured")
    report.table(
        [{"": label, "share": metrics["coverage"][name]} for name, label in _SHARES.items()],
        "how many of them have a frozen vector",
    )
    for sentence in not_measured(metrics):
        report.text(sentence)
