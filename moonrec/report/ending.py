"""What a page ends with: everything that is needed to make its numbers again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moonrec.report.page import Report
from moonrec.runs import source_commit, versions


def add_provenance(
    report: Report, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> None:
    """End a page with its options, its inputs and the versions at work, folded.

    Args:
        report: the page.
        config: the run's options, of which those that are None are left out.
        inputs: a content fingerprint per input; None where they stand in `provenance.json` only.
    """
    report.heading("What made this")
    with report.details("Configuration"):
        report.table(
            [{"option": name, "value": str(value)} for name, value in config.items() if value is not None]
        )
    if inputs:
        with report.details("Data"):
            report.table(
                [{"input": name, "fingerprint": value} for name, value in inputs.items()],
                "equal fingerprints: equal content",
            )
    with report.details("Versions"):
        found = versions() | {"source commit": source_commit() or "not a checkout"}
        report.table([{"package": name, "version": value} for name, value in found.items()])
