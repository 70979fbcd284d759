"""Stage 1: pretraining on what the catalogue itself says, before any behaviour is looked at.

An MLLM learns to answer questions about products, token by token. The backbones with towers, `compact` and
`dual`, align each product's picture with its words (CLIP's objective, https://arxiv.org/abs/2103.00020), so
that either can be searched with the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from encoders.catalogue_pairs import catalogue_pairs
from encoders.encoder import Encoder
from encoders.launch import check_fsdp, default_chunk, make_accelerator, needs_find_unused
from encoders.loading import COMPACT, StartOptions, cache_folder, start_encoder
from encoders.look import Look
from encoders.modality_mix import Combination, Pool, SourcePools
from encoders.objective.config import ObjectiveConfig
from encoders.pretrain_report import write_report
from encoders.products import IMAGE_ONLY, TEXT_ONLY
from encoders.raw_products import RawTable
from encoders.sampling import PlannedBatch, epoch_plan
from encoders.training_data import Products, load_products, open_tables
from encoders.training_loop import Trainer
from encoders.training_round import Round
from encoders.training_state import Checkpoint
from encoders.validation_recall import ValidationRecall
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.runs import Run, open_run, partial_folder
from moonrec.tables import Table

_CANDIDATES = 20_000
_ALIGNMENT = Combination(IMAGE_ONLY, TEXT_ONLY, 1.0)


@dataclass(frozen=True)
class PretrainConfig:
    """Options of `moonrec pretrain`, with the names of the flags.

    `chunk_size` None is 16 products at once for an MLLM, and the whole batch (0) for the others.
    """

    items: str
    out: str
    backbone: str = COMPACT
    keep: float | None = None
    dims: tuple[int, ...] | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    guided: bool | None = None
    regions: bool | None = None
    train_towers: bool = False
    lora_rank: int = 0
    dtype: str = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    precision: str = "auto"
    fsdp: bool = False
    batch_size: int = 256
    chunk_size: int | None = None
    epochs: int = 20
    samples_per_epoch: int = 16_384
    learning_rate: float = 3e-4
    patience: int = 3
    seed: int = 0
    device: str = "auto"
    cache: str | None = None

    def start_options(self) -> StartOptions:
        """How the encoder is built."""
        return StartOptions.of(self, "pretrain")


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Train an encoder on a catalogue and write its run folder; returns what `metrics.json` holds.

    Raises:
        UserError: nothing to learn from (no product with both picture and words; for an MLLM, no question),
            no such backbone, an option that it has no use for, a loss that is not finite, or an output that
            cannot be written.
    """
    refuse_inside_inputs(
        config.out, [("--items", config.items), ("--backbone", folder_or_none(config.backbone))]
    )
    tables = open_tables(items=config.items)
    items = tables["items"]
    encoder, ready = start_encoder(config.backbone, config.start_options(), items)
    if config.keep is not None and encoder.config.backbone == "mllm":
        raise UserError(
            f"--keep {config.keep:g}: an MLLM learns answers here, and no vectors that could be held; leave "
            "it out, or say it in posttrain"
        )
    accelerator = make_accelerator(config.device, config.precision, find_unused=needs_find_unused(encoder))
    keep = encoder.keep_weight if config.keep is None else config.keep
    check_fsdp(config.fsdp, keep)
    inputs = {"items": items.fingerprint(), "from": encoder.fingerprint()}
    with ExitStack() as stack:
        run = None
        if accelerator.is_main_process:
            run = stack.enter_context(
                open_run(Path(config.out), "pretrain", asdict(config), inputs, config.seed)
            )
        accelerator.wait_for_everyone()
        partial, cache = partial_folder(config.out), cache_folder(config.cache)
        look = Look(encoder, accelerator.device, cache, write=accelerator.is_main_process)
        with accelerator.main_process_first():
            products = load_products(
                items, None, encoder, look=look, device=accelerator.device, cache=cache, folder=partial
            )
        checkpoint = partial / "checkpoint"
        if encoder.config.backbone == "mllm":
            metrics, whole = _next_token(config, encoder, items, products, accelerator, run, checkpoint)
            if whole is not None:
                # What the trunk says has changed: the projection starts from what it says now.
                whole.to(accelerator.device).calibrate(products.table, None, config.seed)
        else:
            if not ready:
                encoder.calibrate(products.table, None, config.seed)
            notes = Checkpoint(checkpoint, writes=accelerator.is_main_process)
            trainer = Trainer(
                encoder, products, accelerator, run, notes,
                chunk_size=default_chunk(encoder, config.chunk_size), fsdp=config.fsdp, seed=config.seed,
            )  # fmt: skip
            make = _alignment(config, items.path, products, encoder, keep, accelerator.num_processes)
            metrics = trainer.train([make])[0]
            whole = trainer.whole_encoder()
        accelerator.wait_for_everyone()
        metrics["broken_images"] = products.broken.to_dict()
        if run is not None and whole is not None:
            metrics["encoder_fingerprint"] = whole.fingerprint()
            whole.save_pretrained(run.model_dir)
            run.save_metrics(metrics)
            write_report(run, metrics, asdict(config))
    return metrics


def _alignment(
    config: PretrainConfig, path: Path, products: Products, encoder: Encoder, keep: float, processes: int
) -> Callable[[], Round]:
    """The round in which each picture must find its own words among those of the batch."""
    source = catalogue_pairs(products, config.seed)
    if not len(source.training):
        raise UserError(
            f"{path}: aligning pictures with words needs products that have both, and fewer than two have"
        )
    items = len(products.item_ids)
    everything = np.arange(len(source.training))
    pools = SourcePools((Pool(_ALIGNMENT, everything, 1.0),), len(everything), 0, ())

    def plan(epoch: int) -> list[PlannedBatch]:
        return epoch_plan(
            [pools],
            [1.0],
            batch_size=config.batch_size * processes,
            pairs_per_epoch=config.samples_per_epoch,
            seed=config.seed,
            epoch=epoch,
            multiple_of=processes,
        )

    validate = ValidationRecall(
        [source],
        items=items,
        candidates=_CANDIDATES,
        seed=config.seed,
        query_view=IMAGE_ONLY,
        item_view=TEXT_ONLY,
    )
    objective = ObjectiveConfig("infonce", encoder.config.dims, keep_weight=keep)
    return lambda: Round(
        "alignment", [source], plan, objective, validate, config.learning_rate, config.epochs, config.patience
    )


def _next_token(
    config: PretrainConfig,
    encoder: Encoder,
    items: Table,
    products: Products,
    accelerator: Accelerator,
    run: Run | None,
    checkpoint: Path,
) -> tuple[dict[str, Any], Encoder | None]:
    from encoders.mllm.encoder import MllmEncoder
    from encoders.pretrain_mllm import NextTokenConfig, pretrain_mllm

    assert isinstance(encoder, MllmEncoder)
    assert isinstance(products.table, RawTable)
    options = NextTokenConfig(
        epochs=config.epochs,
        questions_per_epoch=config.samples_per_epoch,
        batch_size=config.batch_size,
        micro_batch=default_chunk(encoder, config.chunk_size) or config.batch_size,
        learning_rate=config.learning_rate,
        patience=config.patience,
        seed=config.seed,
    )
    return pretrain_mllm(
        options, encoder, items, products.table.products, accelerator, run, checkpoint, fsdp=config.fsdp
    )
