"""The command that writes richer titles and more pictures for training."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, with_cache
from moonrec.cli.framework import command


@command(main, "augment")
@click.option("--items", required=True, metavar="TABLE", help="The training catalogue.")
@click.option("-o", "--out", required=True, metavar="ITEMS.parquet", help="The items table to write.")
@click.option(
    "--titles",
    default="rules",
    show_default=True,
    metavar="WHO",
    help="Who enriches titles: rules (the item's other fields), none, or an MLLM's checkpoint or run.",
)
@click.option(
    "--images",
    default="local",
    show_default=True,
    metavar="WHO",
    help="Who makes pictures: local (from the item's own), none, or an image-editing pipeline of diffusers.",
)
@click.option(
    "--variants", default=3, show_default=True, type=click.IntRange(1, 64), help="Pictures to make per item."
)
@click.option(
    "--encoder",
    default="compact",
    show_default=True,
    metavar="RUN",
    help="Who judges whether a picture shows its item: a run folder, a checkpoint, or `compact`.",
)
@click.option(
    "--min-agreement",
    default=0.95,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of other items' pictures that a picture must beat; 0 keeps all.",
)
@click.option("--sheet", metavar="SHEET.png", help="Draw some items before and after.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@computing
def augment(**options: Any) -> dict[str, Any]:
    """Enrich the titles of a catalogue and add pictures of its items, for training only.

    Both go into columns of their own, beside where each comes from; all others stay as they are.
    """
    from encoders.augment.augment import AugmentConfig
    from encoders.augment.augment import augment as run

    return run(AugmentConfig(**with_cache(options)))
