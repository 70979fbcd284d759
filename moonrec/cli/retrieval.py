"""The command that trains two-tower retrieval models."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import CommaSeparated, FiniteFloat, command
from moonrec.cli.repeated import repeated

_whole = click.IntRange(1)
_share = click.FloatRange(0, 1, min_open=True, max_open=True)
_part = click.FloatRange(0, 1, max_open=True)


@command(main, "train-retrieval")
@click.option("--events", required=True, metavar="TABLE", help="What users did: learnt from and measured.")
@click.option("--items", metavar="TABLE", help="The catalogue: what can be retrieved, and its categories.")
@click.option("--users", metavar="TABLE", help="Users: columns of context.")
@click.option(
    "--embeddings", metavar="EMB", help="The items' frozen vectors. Without them: ids and categories only."
)
@click.option("--test", metavar="TABLE", help="Events, or impressions with labels, to measure on.")
@click.option(
    "--test-share",
    default=0.1,
    show_default=True,
    type=_share,
    help="Without --test: the latest share of the events.",
)
@click.option("--validation-share", default=0.05, show_default=True, type=_share, help="Events to stop by.")
@click.option(
    "--targets", type=CommaSeparated(), default=(), help="Kinds of event to learn and measure (default: all)."
)
@repeated("--categorical", metavar="NAME,...", help="Context columns of events or users: categories.")
@repeated("--numeric", metavar="NAME,...", help="Context columns of events or users: numbers.")
@click.option(
    "--mask-history/--no-mask-history",
    default=True,
    show_default=True,
    help="Leave out what the user had before.",
)
@click.option("--history", default=50, show_default=True, type=_whole, help="Longest history of a user.")
@click.option(
    "--dim", default=64, show_default=True, type=click.IntRange(1, 4096), help="Width of the vectors."
)
@click.option(
    "--embedding-dim",
    default=32,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Width of trained ids.",
)
@click.option("--min-count", default=1, show_default=True, type=_whole, help="Rarer ids share a row.")
@click.option(
    "--unknown-share", default=0.1, show_default=True, type=_part, help="Ids that a step takes for unknown."
)
@click.option(
    "--uniform-share", default=0.5, show_default=True, type=_part, help="Uniform draws among the negatives."
)
@click.option("--batch-size", type=click.IntRange(2), help="Rows of a step (default: 1024, less on little).")
@click.option("--epochs", default=20, show_default=True, type=_whole, help="At most.")
@click.option("--patience", default=2, show_default=True, type=_whole, help="Epochs without better recall.")
@click.option("--learning-rate", default=2e-3, show_default=True, type=FiniteFloat(min_open=True))
@click.option("--sparse-learning-rate", default=0.05, show_default=True, type=FiniteFloat(min_open=True))
@click.option(
    "--index", default="exact", show_default=True, type=click.Choice(["exact", "hnsw", "ivfpq"]),
    help="Of the items; hnsw and ivfpq need faiss (the extra `index`).",
)  # fmt: skip
@click.option("--requests", default=20_000, show_default=True, type=_whole, help="Most test requests.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1))
@click.option("--seeds", default=1, show_default=True, type=_whole, help="Train so many, report mean and sd.")
@click.option(
    "--checkpoint-minutes", default=5.0, show_default=True, type=FiniteFloat(), help="Between checkpoints."
)
@click.option("-o", "--out", required=True, metavar="RUN", help="The run folder to write.")
def train_retrieval(**options: Any) -> dict[str, Any]:
    """Train two towers that find candidates for a user, beside popularity, item-kNN and content alone.

    A killed run goes on from its last checkpoint when the same command is given again. Under `torchrun
    --nproc-per-node N -m moonrec.cli train-retrieval ...` the tables are sharded by TorchRec, and every
    process's candidates are negatives for all.
    """
    from ctr.retrieval.train import RetrievalConfig
    from ctr.retrieval.train import train_retrieval as run

    return run(RetrievalConfig(**options))
