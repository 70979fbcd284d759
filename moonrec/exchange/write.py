"""The files of an exchange rate: numbers, Markdown, CSV, plots, the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moonrec.atomic import write_json
from moonrec.domains import Domains
from moonrec.exchange.answers import cautions, headlines, key_figures
from moonrec.exchange.judge import Judge, summary_of
from moonrec.exchange.measures import Measures, constant_metrics
from moonrec.exchange.observations import ALL, Versions
from moonrec.exchange.plan import Version
from moonrec.exchange.plots import exchange_plots
from moonrec.exchange.ranking import exchange_rates
from moonrec.exchange.sections import Told, sections, terminal_lines
from moonrec.exchange.slope import Rate
from moonrec.exchange.steps import steps
from moonrec.report import Report, add_provenance
from moonrec.study.sections import Section, add_sections, write_markdown
from moonrec.text_tables import write_csv

RESULTS = ("metrics.json", "table.md", "rates.csv", "report.html")
"""What stands in the output only when all cells do."""


@dataclass(frozen=True)
class Study:
    """All that is written.

    Attributes:
        versions: in the order of every array.
        fingerprints: of each.
        dim: the width of their vectors.
        reference: the version that others are shown relative to.
        pairs: steps to tell of one by one.
        measures: metrics and outcomes.
        judge: what all versions met.
        ids_only: what the judge reached without vectors, by outcome.
        domains: of the catalogue.
        notes: what a reader must know first.
        config: the command's options.
        title: of the report.
    """

    versions: Sequence[Version]
    fingerprints: Sequence[str]
    dim: int
    reference: str
    pairs: Sequence[tuple[str, str]]
    measures: Measures
    judge: Judge
    ids_only: Mapping[str, Any]
    domains: Domains
    notes: Sequence[str]
    config: Mapping[str, Any]
    title: str


def write_study(out: Path, study: Study) -> dict[str, Any]:
    """Estimate the rates, write all files, and return what `metrics.json` holds.

    Those of an earlier call go first: a kill between two files must not leave numbers beside other tables.
    """
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
    named = Versions([v.name for v in study.versions], [v.family for v in study.versions])
    found = study.measures
    rates = exchange_rates(found.metrics, found.outcomes, named)
    single = steps(found.metrics, found.outcomes, named, study.pairs)
    left_out = [*found.left_out, *constant_metrics(found.metrics)]
    metrics: dict[str, Any] = {
        "key_figures": [
            {"label": label, "value": value, "note": note} for label, value, note in key_figures(rates)
        ],
        "verdicts": [*headlines(rates), *cautions(rates)],
        "rates": [rate.to_dict() for rate in rates],
        "steps": [step.to_dict() for step in single],
        "versions": _versions(study),
        "reference": study.reference,
        "judge": study.judge.to_dict() | {"ids_only": dict(study.ids_only)},
        "domains": {"level": study.domains.level, "names": list(study.domains.names)},
        "left_out": [asdict(one) for one in left_out],
        "notes": list(study.notes),
    }
    told = Told(
        rates=rates,
        steps=single,
        metrics=found.metrics,
        outcomes=found.outcomes,
        versions=named,
        judge=study.judge,
        ids_only=study.ids_only,
        left_out=left_out,
        notes=study.notes,
    )
    parts = sections(told)
    columns = list(Rate.__dataclass_fields__)
    write_csv(out / "rates.csv", columns, ([rate[name] for name in columns] for rate in metrics["rates"]))
    write_markdown(out / "table.md", study.title, parts)
    _write_report(out / "report.html", study, told, parts)
    # Last, so that where it stands the others do.
    write_json(out / "metrics.json", metrics)
    return {**metrics, "lines": terminal_lines(told, out)}


def _versions(study: Study) -> list[dict[str, Any]]:
    """Per version what it is, and its metrics and outcomes by domain."""
    found = []
    for row, (version, fingerprint) in enumerate(zip(study.versions, study.fingerprints, strict=True)):
        domains: dict[str, dict[str, Any]] = {}
        for metric in study.measures.metrics:
            if np.isfinite(metric.value_V[row]):
                own = domains.setdefault(metric.domain, {"metrics": {}, "judge": {}})
                own["metrics"][metric.name] = float(metric.value_V[row])
        for outcome in study.measures.outcomes:
            own = domains.setdefault(outcome.domain, {"metrics": {}, "judge": {}})
            own["judge"][outcome.name] = summary_of(outcome.value_VS[row].tolist())
        whole = domains.pop(ALL, {"metrics": {}, "judge": {}})
        about = {**asdict(version), "fingerprint": fingerprint, "dim": study.dim}
        found.append({**about, **whole, "domains": domains})
    return found


def _write_report(path: Path, study: Study, told: Told, parts: Sequence[Section]) -> None:
    """The plots stand in the first section, which answers."""
    count = len(study.versions)
    report = Report(study.title, f"{count} versions, judge with {study.judge.seeds} seeds each")
    report.headline(key_figures(told.rates))
    plots = exchange_plots(told.metrics, told.outcomes, told.versions, told.rates, study.reference)
    add_sections(report, [replace(parts[0], plots=plots), *parts[1:]])
    add_provenance(report, study.config, study.judge.inputs)
    report.save(path)
