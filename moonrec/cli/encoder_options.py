"""Options that several commands around encoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from moonrec.cli.framework import FiniteFloat, Sizes

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _several(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(function: _Command) -> _Command:
        for option in reversed(options):
            function = option(function)
        return function

    return add


computing = _several(
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--cache", metavar="DIR", help="Where features are kept (default: your cache folder)."),
    click.option("--no-cache", is_flag=True, help="Keep none; a killed job starts anew."),
)
run_folder = click.option("-o", "--out", required=True, metavar="RUN", help="The run folder to write.")

starting = _several(
    click.option(
        "--dims", type=Sizes(),
        help="Width of the vectors, then of prefixes that are trained to stand alone, Matryoshka "
        "(default: 256,128,64; a run keeps its own).",
    ),
    click.option(
        "--experts", type=click.IntRange(0),
        help="Experts per feed-forward part, with those of category and attributes; 0 for dense parts "
        "(default: 6 for `compact`; 6 for MLLMs, made where post-training starts, and 0 before; 0 for dual "
        "towers).",
    ),
    click.option(
        "--experts-per-token", type=click.IntRange(1), help="Routed experts that see a token (default: 2).",
    ),
    click.option(
        "--guided/--no-guided", default=None,
        help="Whether all tokens of the category go to one expert and those of the attributes to another; "
        "else every token is routed (default: they do; a run keeps its own).",
    ),
    click.option(
        "--regions/--no-regions", default=None,
        help="Whether the core region's crop enters beside the whole picture (default: it does).",
    ),
    click.option("--train-towers", is_flag=True, help="`compact`: train the pretrained towers too (slow)."),
    click.option(
        "--lora-rank", default=0, show_default=True, type=click.IntRange(0),
        help="MLLM: train low-rank adapters of this rank; 0 trains all weights.",
    ),
    click.option(
        "--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16"]),
        help="Checkpoint: precision of the weights. auto: as stored; float32 where all of them are trained "
        "(--precision says how they are multiplied).",
    ),
    click.option(
        "--attention", default="sdpa", show_default=True,
        type=click.Choice(["sdpa", "eager", "flash_attention_2"]), help="Checkpoint: attention kernel.",
    ),
    click.option(
        "--gradient-checkpointing", is_flag=True,
        help="Checkpoint: compute activations again in the backward pass, for less memory.",
    ),
)  # fmt: skip

optimizing = _several(
    click.option(
        "--batch-size", default=256, show_default=True, type=click.IntRange(2), help="Per process."
    ),
    click.option(
        "--chunk-size", type=click.IntRange(0),
        help="Products in the encoder at once; the gradients are the same (0: the whole batch; default: 16 "
        "for MLLMs, 0 for the others).",
    ),
    click.option("--epochs", default=20, show_default=True, type=click.IntRange(0), help="At most so many."),
    click.option("--learning-rate", default=3e-4, show_default=True, type=FiniteFloat(min_open=True)),
    click.option(
        "--patience", default=3, show_default=True, type=click.IntRange(1), help="Epochs without gain."
    ),
    click.option(
        "--keep", type=FiniteFloat(),
        help="How strongly vectors are held to where they started (default: 1; 0 for MLLMs, whose stage 1 "
        "has none).",
    ),
    click.option(
        "--precision", default="auto", show_default=True, type=click.Choice(["auto", "bf16", "fp32"]),
        help="Of training steps: auto is bf16 where the hardware multiplies it natively. Features, "
        "validation and export go by the hardware.",
    ),
    click.option(
        "--fsdp", is_flag=True, help="Shard weights over the processes of torchrun; wants --keep 0."
    ),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0)),
)  # fmt: skip


def with_cache(options: dict[str, Any]) -> dict[str, Any]:
    """The options with `--no-cache` turned into an empty `cache`."""
    no_cache = options.pop("no_cache")
    return options | ({"cache": ""} if no_cache else {})
