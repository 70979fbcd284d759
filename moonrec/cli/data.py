"""Commands on tables and embedding sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.framework import command


@command(main, "simulate")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--items", default=2000, show_default=True, help="Number of items.")
@click.option("--users", default=2000, show_default=True, help="Number of users.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--image-size", default=128, show_default=True, help="Side of the pictures in pixels.")
def simulate(out: Path, items: int, users: int, seed: int, image_size: int) -> dict[str, Any]:
    """Write a simulated marketplace: rendered products, users with tastes in looks and in words."""
    from moonrec.simulation import simulate as run

    return run(out, items=items, users=users, seed=seed, image_size=image_size)


@command(main, "validate")
@click.argument("data", type=click.Path(path_type=Path))
def validate(data: Path) -> dict[str, Any]:
    """Check tables, pictures, ids and coverage of DATA, a folder of tables or a single table.

    Exit code 2 when something is wrong that a command would refuse.
    """
    from moonrec.validation import validate as run

    report = run(data)
    return {**report.to_dict(), "ok": report.ok, "lines": report.lines()}


@command(main, "import-embeddings")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="The embedding set to write."
)
@click.option("--normalize", is_flag=True, help="Scale vectors to unit length; otherwise others are refused.")
@click.option("--id-column", default="item_id", show_default=True, help="Column of the ids.")
@click.option("--vector-column", help="Column of the vectors; default: the only list of floats.")
def import_embeddings(
    source: Path, out: Path, normalize: bool, id_column: str, vector_column: str | None
) -> dict[str, Any]:
    """Make an embedding set of anybody's Parquet SOURCE with ids and vectors."""
    from moonrec.embedding_import import import_embeddings as run

    imported = run(source, out, normalize=normalize, id_column=id_column, vector_column=vector_column)
    return {"rows": len(imported), "dimension": imported.dimension, "fingerprint": imported.fingerprint}
