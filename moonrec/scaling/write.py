"""The page of a scaling study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moonrec.report import Report, add_provenance
from moonrec.scaling.results import Curve
from moonrec.scaling.sections import key_figures
from moonrec.study.sections import Section, add_sections


def write_report(
    out: Path,
    subtitle: str,
    parts: Sequence[Section],
    curves: Sequence[Curve],
    notes: Sequence[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Write `report.html`."""
    report = Report("moonrec scaling", subtitle)
    report.headline(key_figures(curves))
    for note in notes:
        report.warning(note)
    add_sections(report, parts)
    add_provenance(report, config, inputs)
    report.save(out / "report.html")
