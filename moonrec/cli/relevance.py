"""Commands that tell how relevant an item is to a query."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, run_folder, with_cache
from moonrec.cli.framework import command


@command(main, "train-relevance")
@click.option(
    "--searches", required=True, metavar="TABLE",
    help="Training queries and what was taken; `negative_item_id` is what was shown and left.",
)  # fmt: skip
@click.option("--test", required=True, metavar="TABLE", help="Searches to measure on.")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@click.option("--encoder", required=True, metavar="RUN", help="A run folder, or `compact` (untrained).")
@click.option("--embeddings", metavar="EMB", help="The catalogue's embedding set, by this encoder.")
@click.option(
    "--negatives", default=4, show_default=True, type=click.IntRange(0),
    help="Sampled per item taken, half of them of its category; 0: the shown ones only.",
)  # fmt: skip
@click.option(
    "--bootstrap", default=1000, show_default=True, type=click.IntRange(1), help="Replicates of intervals."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@computing
@run_folder
def train_relevance(**options: Any) -> dict[str, Any]:
    """Train a small calibrated model of query-item relevance over a frozen encoder, against the cosine."""
    from encoders.relevance.terminal import terminal_lines
    from encoders.relevance.train import RelevanceConfig
    from encoders.relevance.train import train_relevance as run

    metrics = run(RelevanceConfig(**with_cache(options)))
    return {**metrics, "lines": terminal_lines(metrics, options["out"])}


@command(main, "score-relevance")
@click.option("--model", required=True, metavar="RUN", help="The run folder of `train-relevance`.")
@click.option(
    "--pairs", required=True, metavar="TABLE", help="Rows of query_text, query_image or both, and item_id."
)
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@click.option("--encoder", metavar="RUN", help="The training's encoder (default: where training had it).")
@click.option("--embeddings", metavar="EMB", help="The catalogue's embedding set, by this encoder.")
@computing
@click.option("-o", "--out", required=True, metavar="FILE", help="The Parquet file to write.")
def score_relevance(**options: Any) -> dict[str, Any]:
    """Tell the relevance of query-item pairs, in order; refuses another encoder than that of training."""
    from encoders.relevance.score import ScoreRelevanceConfig
    from encoders.relevance.score import score_relevance as run

    return run(ScoreRelevanceConfig(**with_cache(options)))
