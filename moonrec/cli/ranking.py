"""Commands that train ranking models on frozen embeddings."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import CommaSeparated, FiniteFloat, command


@command(main, "train-ctr")
@click.option("--impressions", required=True, metavar="TABLE", help="Training impressions.")
@click.option("--test", required=True, metavar="TABLE", help="Test impressions; only measured on.")
@click.option("--events", required=True, metavar="TABLE", help="What users did; histories come from here.")
@click.option("--items", metavar="TABLE", help="The catalogue, to report how much of it is covered.")
@click.option("--embeddings", metavar="EMB", help="An embedding set; without it the model knows ids only.")
@click.option(
    "--content", type=CommaSeparated(), help="How vectors enter: none, or some of concat,simtier,cube."
)
@click.option(
    "--history", default=50, show_default=True, type=click.IntRange(1), help="Longest history of a row."
)
@click.option(
    "--embedding-dim", default=16, show_default=True, type=click.IntRange(1), help="Width of trained ids."
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Rows of a step (default: 1024, less on little data)."
)
@click.option(
    "--epochs", default=1, show_default=True, type=click.IntRange(1), help="Ids overfit in the second."
)
@click.option("--learning-rate", default=1e-3, show_default=True, type=FiniteFloat(min_open=True))
@click.option("--sparse-learning-rate", default=0.02, show_default=True, type=FiniteFloat(min_open=True))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("-o", "--out", required=True, metavar="RUN", help="The run folder to write.")
def train_ctr(**options: Any) -> dict[str, Any]:
    """Train a click model on ids, histories and frozen embeddings, and report its AUC on the test file.

    Under `torchrun --nproc-per-node N -m moonrec.cli train-ctr ...` the tables are sharded by TorchRec.
    """
    from ctr.train import TrainConfig
    from ctr.train import train_ctr as run

    return run(TrainConfig(**options))
