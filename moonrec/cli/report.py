"""The command that makes pages of run folders."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import CommaSeparated, command


@command(main, "report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option(
    "--name", "names", type=CommaSeparated(), default=(),
    help="What the page calls the runs, in their order (default: their folders' names).",
)  # fmt: skip
@click.option("-o", "--out", required=True, metavar="FILE.html", help="The page to write.")
def report(runs: tuple[str, ...], names: tuple[str, ...], out: str) -> dict[str, Any]:
    """Make a page of a run, or one that shows several side by side.

    Runs of any command: key figures with the differences to the first run, curves, pictures of the same
    queries, and what the runs differ in. A run's own report.html is not read.
    """
    from moonrec.compare.compare import CompareConfig, compare_runs

    return compare_runs(CompareConfig(runs=runs, out=out, names=names))
