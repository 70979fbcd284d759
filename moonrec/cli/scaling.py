"""The command that asks how a metric grows with tokens, negatives or behaviours."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, run_folder, with_cache
from moonrec.cli.framework import CommaSeparated, command
from moonrec.cli.repeated import repeated


@command(main, "scaling")
@click.option(
    "--axis",
    required=True,
    metavar="NAME",
    help="tokens and negatives (of post-training), or history (of the click model).",
)
@click.option("--items", metavar="TABLE", help="The catalogue.")
@click.option("--searches", metavar="TABLE", help="tokens, negatives: what users searched and took.")
@click.option(
    "--events", metavar="TABLE", help="What users did: to train on; history: where histories come from."
)
@click.option(
    "--holdout", metavar="TABLE", help="tokens, negatives: nothing from these impressions on is learnt."
)
@click.option("--impressions", metavar="TABLE", help="history: training impressions.")
@click.option(
    "--test",
    required=True,
    metavar="TABLE",
    help="Searches (history: impressions) that are only measured on.",
)
@repeated("--embeddings", metavar="[NAME=]EMB", help="history: frozen embedding sets.")
@click.option(
    "--points",
    type=CommaSeparated(),
    default=(),
    help="Training pairs, negatives per query, or behaviours (default: doublings that suit the data).",
)
@repeated(
    "--metric", metavar="NAME", help="As in metrics.json (default: image_to_item hit@10; test AUC and GAUC)."
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Of every point.")
@repeated(
    "--set",
    metavar="NAME=VALUE",
    help="An option of `moonrec posttrain` (history: `train-ctr`) for all cells; may be repeated.",
)
@click.option("--plan", is_flag=True, help="Say what would be computed and how long it takes, and stop.")
@computing
@run_folder
def scaling(**options: Any) -> dict[str, Any]:
    """Train over a grid, fit two laws with their bands, and say which fits better.

    Finished cells are kept: the same command goes on where it was stopped, and adds points and seeds.
    """
    from moonrec.cli.scaling_study import ScalingConfig, scaling_laws

    return scaling_laws(ScalingConfig(**with_cache(options)))
