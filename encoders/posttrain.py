"""Stage 2: post-training on behaviour, in the rounds of MOON Embedding (https://arxiv.org/abs/2511.11305) and
MOON2.0 (https://arxiv.org/abs/2511.12449).

Round 1 pairs queries and items in many modality combinations, with in-batch negatives and InfoNCE. Round 2
takes purchases only, cleaned with the help of the round-1 model, with hard negatives of the same category,
the items of other processes and of past batches as negatives (MOON, https://arxiv.org/abs/2508.11999), and
circle loss. The joint round is MOON2.0's: queries of all modalities in one batch, weighted by the experts
that they use, pictures aligned with words, doubtful pairs filtered.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.encoder import Encoder
from encoders.heatmap.choose import chosen_products, held_out_items
from encoders.heatmap.in_report import Looks
from encoders.launch import check_fsdp, default_chunk, make_accelerator, needs_find_unused
from encoders.loading import COMPACT, StartOptions, cache_folder, start_encoder
from encoders.look import Look
from encoders.modality_mix import ModalityMix
from encoders.posttrain_report import write_report
from encoders.posttrain_rounds import RoundMaker, joint_config
from encoders.training_data import calibration_rows, load_products, open_tables
from encoders.training_loop import Trainer
from encoders.training_state import Checkpoint
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.runs import open_run, partial_folder
from moonrec.tables import Table

ROUNDS = ("1", "joint", "2")
OBJECTIVE_WEIGHTS = ("learned", "even")
CLEANING = ("hardest", "sku", "category", "entity")


@dataclass(frozen=True)
class PosttrainConfig:
    """Options of `moonrec posttrain`, with the names of the flags."""

    items: str
    out: str
    searches: str | None = None
    events: str | None = None
    event_types: tuple[str, ...] = ()
    holdout: str | None = None
    impressions: str | None = None
    from_: str = COMPACT
    rounds: tuple[str, ...] = ("1", "2")
    mix: tuple[float, float] = (1.0, 1.0)
    modality_mix: str | None = None
    purchase_types: tuple[str, ...] = ()
    cleaning: tuple[str, ...] = CLEANING
    loss: str = "circle"
    hard_negatives: int = 1
    spatial: bool = True
    queue: int = 4096
    objective_weights: str = "learned"
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    balance_weight: float = 0.01
    sparsity_weight: float = 0.01
    filter: bool = True
    augmented: bool = True
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
    pairs_per_epoch: int = 16_384
    learning_rate: float = 3e-4
    patience: int = 3
    window: int = 3
    max_gap_days: float = 365.0
    heatmaps: int = 3
    keep_epochs: bool = False
    seed: int = 0
    device: str = "auto"
    cache: str | None = None

    def start_options(self) -> StartOptions:
        """How an encoder that starts here is built."""
        return StartOptions.of(self, "posttrain")


def posttrain(config: PosttrainConfig) -> dict[str, Any]:
    """Train an encoder on behaviour and write its run folder; returns what `metrics.json` holds.

    Raises:
        UserError: no source of pairs, options that contradict each other, tables that do not fit, a loss that
            is not finite, or an output that cannot be written.
    """
    check_options(config)
    tables = open_tables(
        items=config.items,
        searches=config.searches,
        events=config.events,
        holdout=config.holdout,
        impressions=config.impressions,
    )
    encoder, ready = start_encoder(config.from_, config.start_options(), tables["items"])
    accelerator = make_accelerator(
        config.device,
        config.precision,
        find_unused=needs_find_unused(encoder),
    )
    check_fsdp(config.fsdp, _keep_weight(config, encoder))
    inputs = {name: table.fingerprint() for name, table in tables.items()} | {"from": encoder.fingerprint()}
    with ExitStack() as stack:
        run = None
        if accelerator.is_main_process:
            run = stack.enter_context(
                open_run(Path(config.out), "posttrain", _flags(config), inputs, config.seed)
            )
        accelerator.wait_for_everyone()
        partial = partial_folder(config.out)
        cache = cache_folder(config.cache)
        with accelerator.main_process_first():
            products = load_products(
                tables["items"],
                tables.get("searches"),
                encoder,
                look=Look(encoder, accelerator.device, cache, write=accelerator.is_main_process),
                device=accelerator.device,
                cache=cache,
                folder=partial,
                augmented=config.augmented,
            )
        maker = RoundMaker(
            config, tables, products, encoder,
            keep=_keep_weight(config, encoder),
            processes=accelerator.num_processes, device=accelerator.device,
        )  # fmt: skip
        if not ready:
            rows = calibration_rows(maker.sources, len(products.item_ids))
            encoder.to(accelerator.device).calibrate(products.table, rows, config.seed)
        before = copy.deepcopy(encoder) if run is not None and _drawn(config, encoder) else None
        checkpoint = Checkpoint(partial / "checkpoint", writes=accelerator.is_main_process)
        trainer = Trainer(
            encoder, products, accelerator, run, checkpoint,
            chunk_size=default_chunk(encoder, config.chunk_size), fsdp=config.fsdp, seed=config.seed,
            keep_epochs=config.keep_epochs,
        )  # fmt: skip
        makers = {"1": maker.first, "joint": maker.joint, "2": maker.second}
        rounds = trainer.train([makers[name] for name in config.rounds])
        accelerator.wait_for_everyone()
        whole = trainer.whole_encoder()
        metrics: dict[str, Any] = {
            "rounds": rounds,
            "validation": {
                "start": rounds[0]["validation"]["start"],
                "best": rounds[-1]["validation"]["best"],
            },
            "augmented": products.variants.counts(),
            "broken_images": products.broken.to_dict(),
        }
        if run is not None and whole is not None:
            metrics["encoder_fingerprint"] = whole.fingerprint()
            whole.save_pretrained(run.model_dir)
            run.save_metrics(metrics)
            looks = None
            if before is not None:
                examples = held_out_items(maker.sources, products, config.heatmaps)
                look = Look(whole, accelerator.device, cache)
                looks = _looks(before, whole, tables["items"], examples, look)
            write_report(run, metrics, _flags(config), looks)
    return metrics


def _drawn(config: PosttrainConfig, encoder: Encoder) -> bool:
    """Whether the report shows heatmaps before and after; a language model is not kept twice for it."""
    return config.heatmaps > 0 and encoder.config.backbone != "mllm"


def _looks(before: Encoder, after: Encoder, items: Table, examples: list[str], look: Look) -> Looks:
    """What the heatmaps of some items are drawn from."""
    products = chosen_products(items, examples) if examples else []
    shown = [product for batch in look(items, [products]) for product in batch]
    return Looks(before.to(look.device), after.to(look.device), shown, look.device)


def _keep_weight(config: PosttrainConfig, encoder: Encoder) -> float:
    return encoder.keep_weight if config.keep is None else config.keep


def check_options(config: PosttrainConfig) -> None:
    """Raise a `UserError` for options that contradict each other, before anything is read."""
    tables = [(f"--{name}", getattr(config, name)) for name in ("items", "searches", "events", "holdout")]
    refuse_inside_inputs(config.out, [*tables, ("--from", folder_or_none(config.from_))])
    if config.searches is None and config.events is None:
        raise UserError("post-training needs --searches, --events, or both: behaviour is the teacher")
    order = [name for name in ROUNDS if name in config.rounds]
    if not config.rounds or list(config.rounds) != order:
        raise UserError(
            f"--rounds {','.join(config.rounds)}: expected some of {','.join(ROUNDS)}, in this order"
        )
    if config.objective_weights not in OBJECTIVE_WEIGHTS:
        raise UserError(
            f"--objective-weights {config.objective_weights}: expected one of {', '.join(OBJECTIVE_WEIGHTS)}"
        )
    joint_config(config)
    if config.modality_mix is not None:
        ModalityMix.parse(config.modality_mix)
    unknown = set(config.cleaning) - {*CLEANING, "none"}
    if unknown or ("none" in config.cleaning and len(config.cleaning) > 1):
        raise UserError(
            f"--cleaning {','.join(config.cleaning)}: expected none, or some of {','.join(CLEANING)}"
        )


def _flags(config: PosttrainConfig) -> dict[str, Any]:
    flags = asdict(config)
    flags["from"] = flags.pop("from_")
    return flags
