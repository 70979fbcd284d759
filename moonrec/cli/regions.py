"""The command that finds core regions."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, with_cache
from moonrec.cli.framework import command


@command(main, "regions")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@click.option("--searches", metavar="TABLE", help="Query photos, too.")
@click.option(
    "--encoder",
    default="compact",
    show_default=True,
    metavar="NAME",
    help="Who looks: an MLLM's checkpoint or run is asked for the titled product; otherwise the image tower.",
)
@click.option("-o", "--out", metavar="SHEET.png", help="Draw some pictures with their regions.")
@click.option(
    "--count", default=24, show_default=True, type=click.IntRange(1, 600), help="Pictures on the sheet."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the sample.")
@computing
def regions(**options: Any) -> dict[str, Any]:
    """Find where in its picture each product is, and keep the boxes beside the table.

    Boxes are computed once. What an MLLM found is used by every later command, in place of the image tower's.
    """
    from encoders.regions.survey import RegionsConfig, find_regions

    return find_regions(RegionsConfig(**with_cache(options)))
