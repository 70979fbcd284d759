"""The command that searches an embedding set by photo and by words."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, with_cache
from moonrec.cli.framework import command


@command(main, "search")
@click.option("--encoder", required=True, metavar="RUN", help="A run folder, or `compact` (untrained).")
@click.option("--embeddings", required=True, metavar="EMB", help="What that encoder exported.")
@click.option("--items", metavar="TABLE", help="The catalogue: titles and pictures of what is found.")
@click.option("--image", metavar="FILE", help="A photo of what is looked for.")
@click.option("--text", metavar="WORDS", help="Words for it; with --image, both together are one query.")
@click.option(
    "--queries", metavar="TABLE", help="Instead: a table with `query_text`, `query_image` or both; wants -o."
)
@click.option(
    "--k", default=20, show_default=True, type=click.IntRange(1), help="How many results per query."
)
@click.option("--html", metavar="PAGE.html", help="A page with pictures of what was found; wants --items.")
@click.option("-o", "--out", metavar="FILE", help="The Parquet file for the results of --queries.")
@computing
def search(**options: Any) -> dict[str, Any]:
    """Search an embedding set with a photo, with words, or with both; exactly, by cosine.

    An untrained encoder is fitted to --items first, as `moonrec export` did.
    """
    from encoders.search.search import SearchConfig
    from encoders.search.search import search as run
    from encoders.search.terminal import terminal_lines

    found = run(SearchConfig(**with_cache(options)))
    return {**found, "lines": terminal_lines(found)}
