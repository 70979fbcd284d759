"""Commands about moonrec itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import command


@command(main, "doctor")
def doctor() -> dict[str, Any]:
    """Print versions and devices, and what does not match with the command that mends it."""
    from moonrec.doctor import diagnose

    found = diagnose()
    return {**found, "ok": not found["problems"]}


@command(main, "demo")
@click.option("-o", "--out", default="demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--items", default=2000, show_default=True, type=click.IntRange(30), help="Simulated items.")
@click.option("--users", default=4000, show_default=True, type=click.IntRange(20), help="Simulated users.")
@click.option("--backbone", default="compact", show_default=True, type=click.Choice(["compact", "tiny-mllm"]))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def demo(out: Path, items: int, users: int, backbone: str, seed: int) -> dict[str, Any]:
    """The whole chain on simulated data, from pictures to AUC, with a table and a report."""
    from moonrec.cli.demo import run_demo

    return run_demo(out, items=items, users=users, seed=seed, backbone=backbone)
