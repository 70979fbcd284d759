"""Commands that train encoders: stage 1 on the catalogue, stage 2 on behaviour."""

from __future__ import annotations

from typing import Any

import click

from moonrec.cli import main
from moonrec.cli.encoder_options import computing, optimizing, run_folder, starting, with_cache
from moonrec.cli.framework import CommaSeparated, FiniteFloat, Ratio, command


@command(main, "pretrain")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@click.option(
    "--backbone",
    default="compact",
    show_default=True,
    metavar="NAME|PATH",
    help="compact, tiny-mllm, or a checkpoint (Qwen-VL, CLIP, SigLIP, Chinese-CLIP) by folder or hub name.",
)
@click.option(
    "--samples-per-epoch", default=16384, show_default=True, type=click.IntRange(1), help="At most so many."
)
@starting
@optimizing
@computing
@run_folder
def pretrain(**options: Any) -> dict[str, Any]:
    """Train an encoder on what the catalogue itself says (stage 1).

    An MLLM answers questions about products; the backbones with towers align pictures with words.
    """
    from encoders.pretrain import PretrainConfig
    from encoders.pretrain import pretrain as run

    return run(PretrainConfig(**with_cache(options)))


@command(main, "posttrain")
@click.option("--items", required=True, metavar="TABLE", help="The catalogue.")
@click.option("--searches", metavar="TABLE", help="What users searched and took.")
@click.option("--events", metavar="TABLE", help="What users did; items close in time are pairs.")
@click.option("--event-types", type=CommaSeparated(), default=(), help="Only these, such as click,cart.")
@click.option("--holdout", metavar="TABLE", help="Test impressions: nothing from then on is learnt.")
@click.option(
    "--impressions", metavar="TABLE", help="Training impressions: round 2 takes their category mix."
)
@click.option(
    "--from",
    "from_",
    default="compact",
    show_default=True,
    metavar="RUN|NAME|PATH",
    help="A run to go on from, or a backbone as in `pretrain`.",
)
@click.option(
    "--rounds",
    type=CommaSeparated(),
    default="1,2",
    show_default=True,
    help="Some of 1, joint, 2, in this order: one query modality per batch; all of them; cleaned purchases.",
)
@click.option("--mix", type=Ratio(), default="1:1", show_default=True, help="Shares of searches and events.")
@click.option(
    "--modality-mix",
    metavar="A:B:C",
    help="Shares of queries shown as image, text, and both (default: 12:3:2; in the joint round 1:1:1, which "
    "shows every query in all that it has).",
)
@click.option(
    "--purchase-types",
    type=CommaSeparated(),
    default=(),
    help="Round 2: events that are purchases (default: those called purchase, order or buy; else all).",
)
@click.option(
    "--cleaning",
    type=CommaSeparated(),
    default="hardest,sku,category,entity",
    show_default=True,
    help="Round 2: which of the cleaning steps run, or none.",
)
@click.option(
    "--loss",
    default="circle",
    show_default=True,
    type=click.Choice(["circle", "infonce"]),
    help="Of round 2.",
)
@click.option(
    "--hard-negatives",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Rounds joint and 2: items of the same category per pair.",
)
@click.option(
    "--spatial/--no-spatial",
    default=True,
    show_default=True,
    help="Rounds joint and 2: the items of all processes are negatives.",
)
@click.option(
    "--queue",
    default=4096,
    show_default=True,
    type=click.IntRange(0),
    help="Rounds joint and 2: items of past batches that are negatives.",
)
@click.option(
    "--objective-weights",
    default="learned",
    show_default=True,
    type=click.Choice(["learned", "even"]),
    help="Joint round: whether query modalities are weighted by the experts that they use, or alike (always "
    "alike without experts).",
)
@click.option(
    "--inter-weight",
    default=1.0,
    show_default=True,
    type=FiniteFloat(),
    help="Joint round: of queries against items.",
)
@click.option(
    "--intra-weight",
    default=1.0,
    show_default=True,
    type=FiniteFloat(),
    help="Joint round: of items' pictures against their words.",
)
@click.option(
    "--sparsity-weight",
    default=0.01,
    show_default=True,
    type=FiniteFloat(),
    help="Joint round: of how undecided experts are between the modalities (only with learned weights).",
)
@click.option(
    "--balance-weight",
    default=0.01,
    show_default=True,
    type=FiniteFloat(),
    help="Of using all routed experts alike.",
)
@click.option(
    "--filter/--no-filter",
    default=True,
    show_default=True,
    help="Joint round: pairs that the encoder does not believe count less.",
)
@click.option(
    "--augmented/--no-augmented",
    default=True,
    show_default=True,
    help="Show items by what `moonrec augment` made of them, too, where the table has it.",
)
@click.option(
    "--pairs-per-epoch", default=16384, show_default=True, type=click.IntRange(1), help="At most so many."
)
@click.option(
    "--window", default=3, show_default=True, type=click.IntRange(1), help="Steps between a pair's events."
)
@click.option(
    "--keep-epochs",
    is_flag=True,
    help="Keep the encoder of every epoch in RUN/epochs, as versions for `moonrec exchange-rate`.",
)
@click.option(
    "--heatmaps",
    default=3,
    show_default=True,
    type=click.IntRange(0, 24),
    help="Products in the report with what their vectors come from, before and after (not for MLLMs).",
)
@click.option(
    "--max-gap-days", default=365.0, show_default=True, type=FiniteFloat(), help="Days between them."
)
@starting
@optimizing
@computing
@run_folder
def posttrain(**options: Any) -> dict[str, Any]:
    """Train an encoder on behaviour: searches, events, or both (stage 2)."""
    from encoders.posttrain import PosttrainConfig
    from encoders.posttrain import posttrain as run

    return run(PosttrainConfig(**with_cache(options)))
