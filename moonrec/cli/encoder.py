"""Commands that run and measure encoders."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, run_folder, with_cache
from moonrec.cli.framework import CommaSeparated, command
from moonrec.cli.repeated import repeated
from moonrec.errors import UserError


@command(main, "export")
@click.option("--encoder", required=True, metavar="RUN", help="A run folder, or `compact` (untrained).")
@click.option("--items", metavar="TABLE", help="The catalogue.")
@repeated(
    "--queries",
    metavar="TABLE",
    help="Instead of --items: tables whose `query_text` is encoded; may be repeated.",
)
@click.option("-o", "--out", required=True, metavar="EMBEDDINGS", help="The embedding set to write.")
@click.option(
    "--modality", type=click.Choice(["multimodal", "image", "text"]), default="multimodal", show_default=True
)
@click.option("--dim", type=click.IntRange(1), help="Keep only the first so many dimensions.")
@click.option(
    "--update",
    metavar="EMBEDDINGS",
    help="An older set of the same encoder: only new or changed products are encoded.",
)
@computing
def export(queries: tuple[str, ...], update: str | None, **options: Any) -> dict[str, Any]:
    """Write the frozen embeddings of a catalogue, or of the search queries in logs.

    Queries take --items only beside an untrained encoder, which is fitted to that catalogue first.
    """
    if not queries:
        return _export_items(with_cache(options) | {"update": update})
    if update is not None:
        raise UserError("--update is for catalogues; the queries of logs are encoded anew, so leave it out")
    if options.pop("modality") != "multimodal":
        raise UserError("--modality chooses what is seen of a catalogue; queries are text, so leave it out")
    from encoders.query_export import QueryExportConfig, export_queries

    return export_queries(QueryExportConfig(queries=queries, **with_cache(options)))


def _export_items(options: dict[str, Any]) -> dict[str, Any]:
    if options["items"] is None:
        raise UserError("name what is encoded: a catalogue with --items, or logs with --queries")
    from encoders.export import ExportConfig
    from encoders.export import export as run

    return run(ExportConfig(**options))


@command(main, "evaluate")
@click.option("--encoder", metavar="RUN", help="A run folder, or `compact` (untrained).")
@click.option("--embeddings", metavar="EMB", help="An embedding set as the catalogue.")
@click.option(
    "--items",
    metavar="TABLE",
    help="The catalogue to encode; with --embeddings, for tasks that need its words, pictures or labels.",
)
@click.option(
    "--searches", required=True, metavar="TABLE", help="Queries (photos, words or both) and what was taken."
)
@click.option(
    "--tasks",
    type=CommaSeparated(),
    help="Some of image_to_item, text_to_item, item_to_item, image_to_text, text_to_image, classification, "
    "attributes, agreement (default: all that the data allow).",
)
@repeated(
    "--baseline",
    split=False,
    metavar="NAME=PATH",
    help="An encoder or embedding set to compare with, pair by pair; may be repeated.",
)
@click.option(
    "--dim",
    type=click.IntRange(1),
    help="Measure all at this width: a Matryoshka prefix, else principal directions of the catalogue.",
)
@click.option("--match-dims", is_flag=True, help="Measure all at the width of the narrowest.")
@click.option(
    "--domain-level",
    type=click.IntRange(1),
    help="Level of `A > B > C` whose names are the domains (default: the first at which categories differ).",
)
@click.option(
    "--bootstrap", default=1000, show_default=True, type=click.IntRange(1), help="Replicates of intervals."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@computing
@run_folder
def evaluate(**options: Any) -> dict[str, Any]:
    """Measure retrieval, zero-shot labels and agreement, without training on the vectors."""
    from encoders.evaluate import EvaluateConfig
    from encoders.evaluate import evaluate as run
    from encoders.evaluation.terminal import terminal_lines

    metrics = run(EvaluateConfig(**with_cache(options)))
    return {**metrics, "lines": terminal_lines(metrics, options["out"])}
