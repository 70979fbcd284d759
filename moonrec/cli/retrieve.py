"""Commands that use a trained retrieval model."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import command


@command(main, "index")
@click.option("--model", required=True, metavar="RUN", help="The run folder of `train-retrieval`.")
@click.option(
    "--embeddings",
    metavar="EMB",
    help="A set by the encoder of the training, with new items (default: where training had it).",
)
@click.option("--items", metavar="TABLE", help="The catalogue and its categories (default: what EMB holds).")
@click.option(
    "--kind", default="exact", show_default=True, type=click.Choice(["exact", "hnsw", "ivfpq"]),
    help="Of the index; hnsw and ivfpq need faiss (the extra `index`).",
)  # fmt: skip
@click.option(
    "--allow-other-embeddings",
    is_flag=True,
    help="Take a set that does not tell the encoder of the training.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 2))
@click.option("-o", "--out", required=True, metavar="INDEX", help="The folder to write.")
def index(**options: Any) -> dict[str, Any]:
    """Index a catalogue for a trained model: new items enter by their vectors, without training.

    Items that the model can tell nothing of (no trained id, vector or category) are left out and counted.
    """
    from ctr.retrieval.index_items import IndexConfig, index_items

    return index_items(IndexConfig(**options))


@command(main, "retrieve")
@click.option("--model", required=True, metavar="RUN", help="The run folder of `train-retrieval`.")
@click.option(
    "--users",
    required=True,
    metavar="TABLE",
    help="A row per request: user_id, maybe timestamp (candidates as of then), context columns.",
)
@click.option("--events", required=True, metavar="TABLE", help="What users did.")
@click.option("--k", default=500, show_default=True, type=click.IntRange(1), help="Candidates per request.")
@click.option("--index", metavar="INDEX", help="What `moonrec index` wrote (default: the run's own).")
@click.option("--exact", is_flag=True, help="Search all vectors, whatever kind of index stands there.")
@click.option(
    "--embeddings", metavar="EMB", help="Vectors of the events' items (default: where training had them)."
)
@click.option("--user-table", metavar="TABLE", help="The users, if context columns of the model stand there.")
@click.option(
    "--mask-history/--no-mask-history",
    default=None,
    help="Leave out what a user had before (default: as in training).",
)
@click.option(
    "--new-share", default=0.0, show_default=True, type=click.FloatRange(0, 1),
    help="Least share of a list for items that were never taken in training.",
)  # fmt: skip
@click.option(
    "--allow-other-embeddings",
    is_flag=True,
    help="Take a set that does not tell the encoder of the training.",
)
@click.option("-o", "--out", required=True, metavar="FILE", help="The Parquet file to write.")
def retrieve(**options: Any) -> dict[str, Any]:
    """Find candidates for users of any number: item_ids, scores and source of each, in order.

    The source is `model` for users of the training; `history` for others whose events are on items that the
    model knows by id or vector; `popularity` where it knows nothing (scores are counts then).
    """
    from ctr.retrieval.retrieve import RetrieveConfig
    from ctr.retrieval.retrieve import retrieve as run

    return run(RetrieveConfig(**options))
