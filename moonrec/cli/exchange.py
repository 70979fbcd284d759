"""The command that asks what a gain of an encoder is worth in clicks."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, run_folder, with_cache
from moonrec.cli.framework import CommaSeparated, command
from moonrec.cli.repeated import repeated
from moonrec.errors import UserError

_TABLES = ("items", "impressions", "test", "events")
_SIZES = ("users", "seed")
_DEMO = ("demo", "items", *_SIZES, "seeds", "plan", "out", "json_")


@command(main, "exchange-rate")
@click.option("--items", metavar="TABLE", help="The catalogue; with --demo, how many items it has.")
@click.option("--searches", metavar="TABLE", help="Test searches: what intermediate metrics are measured on.")
@click.option("--impressions", metavar="TABLE", help="What the judge learns from.")
@click.option("--test", metavar="TABLE", help="Test impressions: AUC and GAUC are measured on them.")
@click.option("--events", metavar="TABLE", help="What users did; histories come from here.")
@repeated(
    "--version",
    split=False,
    metavar="NAME=PATH",
    help="An encoder run, `compact` (untrained) or an embedding set; to be repeated.",
)
@repeated(
    "--trajectory",
    split=False,
    metavar="NAME=RUN",
    help="A run of posttrain --keep-epochs: each epoch is a version; may be repeated.",
)
@repeated("--compare", metavar="A:B", help="Tell what the step from version A to B is worth.")
@click.option("--reference", metavar="NAME", help="Show AUC relative to it (default: the first version).")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Of the judge.")
@repeated("--judge", metavar="NAME=VALUE", help="An option of train-ctr for the judge; may be repeated.")
@click.option("--dim", type=click.IntRange(1), help="Cut all vectors to so many dimensions.")
@click.option("--domain-level", type=click.IntRange(1), help="Category level of the domains.")
@click.option(
    "--modality", type=click.Choice(["multimodal", "image", "text"]), default="multimodal", show_default=True
)
@click.option("--tasks", type=CommaSeparated(), help="Of `moonrec evaluate` (default: all that can be).")
@click.option("--plan", is_flag=True, help="Print what would be computed and how long it takes, and stop.")
@click.option("--demo", is_flag=True, help="On simulated data, with versions whose worth is known.")
@click.option("--users", type=click.IntRange(20), help="Demo: so many people shop.")
@click.option("--seed", type=click.IntRange(0), help="Demo: of everything random.")
@computing
@run_folder
def exchange_rate(demo: bool, **options: Any) -> dict[str, Any]:
    """Say what a gain of each intermediate metric is worth in the AUC and GAUC of a fixed click model.

    Every version is measured and judged once: the same command goes on where it was stopped.
    """
    sizes = {name: options.pop(name) for name in _SIZES}
    options = with_cache(options)
    if demo:
        return _demo(options, sizes)
    for name, value in sizes.items():
        if value is not None:
            raise UserError(f"--{name} {value}: is for --demo; leave it out")
    for name in _TABLES:
        if options[name] is None:
            raise UserError(f"--{name} is missing; name the table, or try --demo")
    from moonrec.cli.exchange_study import ExchangeConfig
    from moonrec.cli.exchange_study import exchange_rate as run

    return run(ExchangeConfig(**options))


def _demo(options: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    given = click.get_current_context()
    for name in given.params:
        if name not in _DEMO and given.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UserError(f"--demo makes its own data and versions; leave --{name.replace('_', '-')} out")
    items = options["items"]
    if items is not None and not (items.isascii() and items.isdigit()):
        raise UserError(f"--items {items}: with --demo expected how many items to simulate, as 2400")
    from moonrec.cli.exchange_demo import run_demo

    chosen = {name: value for name, value in sizes.items() if value is not None}
    chosen |= {} if items is None else {"items": int(items)}
    return run_demo(options["out"], seeds=options["seeds"], plan=options["plan"], **chosen)
