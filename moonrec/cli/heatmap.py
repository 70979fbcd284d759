"""The command that draws what vectors come from."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, with_cache
from moonrec.cli.framework import command
from moonrec.cli.repeated import repeated


@command(main, "heatmap")
@click.option(
    "--encoder", required=True, metavar="RUN", help="A run folder, a checkpoint, or `compact` (untrained)."
)
@click.option("--against", metavar="RUN", help="Another encoder, drawn beside the first.")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@repeated("--item-id", split=False, metavar="ID", required=True, help="A product to draw; may be repeated.")
@click.option("--query-text", metavar="WORDS", help="Explain the match with this query, not the vector.")
@click.option("--query-image", metavar="FILE", help="The same with a photo; both together are one query.")
@click.option("-o", "--out", required=True, metavar="FILE.png|FILE.html", help="A picture, or a page.")
@computing
def heatmap(**options: Any) -> dict[str, Any]:
    """Draw which places of a picture and which words of a title a product's vector comes from.

    Measured by covering and leaving out, so it works for every backbone.
    """
    from encoders.heatmap.heatmap import HeatmapConfig
    from encoders.heatmap.heatmap import heatmap as run

    return run(HeatmapConfig(**with_cache(options)))
