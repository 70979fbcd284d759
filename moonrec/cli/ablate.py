"""The command that asks what each part of the encoder's training is worth."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, run_folder, with_cache
from moonrec.cli.framework import CommaSeparated, command
from moonrec.cli.repeated import repeated


@command(main, "ablate")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue to train on.")
@click.option("--searches", metavar="TABLE", help="What users searched and took: for training.")
@click.option("--events", metavar="TABLE", help="What users did: for training.")
@click.option("--holdout", metavar="TABLE", help="Test impressions: nothing from then on is learnt.")
@click.option(
    "--test", required=True, metavar="SEARCHES", help="The searches that every row is tested on, once."
)
@click.option(
    "--test-items", metavar="TABLE", help="The catalogue that the test searches (default: --items)."
)
@click.option(
    "--study", default="moon2", show_default=True, metavar="NAME",
    help="moon2 and moon: without one part each; mix: shares of query modalities; or all.",
)  # fmt: skip
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Of every row.")
@repeated(
    "--set",
    metavar="NAME=VALUE",
    help="An option of `moonrec posttrain` for all rows, such as epochs=5; may be repeated.",
)
@click.option(
    "--rows", type=CommaSeparated(), default=(), help="Only these, and what they are compared with."
)
@computing
@run_folder
def ablate(**options: Any) -> dict[str, Any]:
    """Train with all parts and without each, over seeds, and say what each part is worth.

    Finished cells are kept: the same command goes on where it was stopped, and adds rows and seeds.
    """
    from moonrec.cli.ablation import AblateConfig
    from moonrec.cli.ablation import ablate as run

    return run(AblateConfig(**with_cache(options)))
