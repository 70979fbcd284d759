"""Stage 2: post-training on behaviour. Searches and pairs of events teach the encoder what is alike.

The towers stay frozen by default and their features come from the cache, so that a step costs only the fusion
transformer; `--train-towers` trains everything. Every batch and every hidden modality is decided by the seed,
the epoch and the step alone: a run that was killed goes on from its last epoch to the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from encoders.compact import CompactConfig, CompactEncoder
from encoders.contrastive_step import ContrastiveStep
from encoders.encoding import encode
from encoders.features import FeatureTable, ProductFeatures
from encoders.infonce import InfoNCE
from encoders.loading import UNTRAINED, load_encoder
from encoders.pairs import Pairs, PairSource
from encoders.posttrain_report import write_report
from encoders.precision import has_fast_bf16, pick_device
from encoders.raw_batches import LiveFeatures, RawTable
from encoders.sampling import epoch_plan
from encoders.towers import Towers
from encoders.training_data import TrainingData, load_training_data, open_tables
from encoders.training_state import TrainingState
from encoders.validation_recall import ValidationRecall
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.runs import Run, open_run, partial_folder

_TOWER_RATE = 0.1
_STARTED_RATE = 0.1
_CANDIDATES = 20_000
_CANDIDATES_LIVE = 4_000


@dataclass(frozen=True)
class PosttrainConfig:
    """Options of `moonrec posttrain`, with the names of the flags."""

    items: str
    out: str
    searches: str | None = None
    events: str | None = None
    event_types: tuple[str, ...] = ()
    holdout: str | None = None
    from_: str = UNTRAINED
    mix: tuple[float, float] = (1.0, 1.0)
    train_towers: bool = False
    dim: int = CompactConfig.dim
    batch_size: int = 256
    epochs: int = 20
    pairs_per_epoch: int = 16_384
    learning_rate: float = 3e-4
    patience: int = 3
    window: int = 3
    max_gap_days: float = 365.0
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


def posttrain(config: PosttrainConfig) -> dict[str, Any]:
    """Train an encoder on behaviour and write its run folder; returns what `metrics.json` holds.

    Raises:
        UserError: no source of pairs, tables that do not fit, or an output that cannot be written.
    """
    if config.searches is None and config.events is None:
        raise UserError("post-training needs --searches, --events, or both: behaviour is the teacher")
    accelerator = _accelerator(config)
    tables = open_tables(config)
    encoder = _start_encoder(config)
    inputs = {name: table.fingerprint() for name, table in tables.items()} | {"from": encoder.fingerprint()}
    with ExitStack() as stack:
        run = None
        if accelerator.is_main_process:
            flags = asdict(config)
            flags["from"] = flags.pop("from_")
            run = stack.enter_context(open_run(Path(config.out), "posttrain", flags, inputs, config.seed))
        accelerator.wait_for_everyone()
        partial = partial_folder(config.out)
        with accelerator.main_process_first():
            pixels = partial / f"pixels-{accelerator.process_index}.npy"
            data = load_training_data(config, tables, encoder, accelerator.device, pixels)
        if config.from_ == UNTRAINED:
            encoder.calibrate(data.features, data.calibration_rows(), config.seed)
        metrics = _train(config, encoder, data, accelerator, run, partial / "checkpoint")
        accelerator.wait_for_everyone()
        if run is not None:
            encoder.save_pretrained(run.model_dir)
            metrics["broken_images"] = data.broken.to_dict()
            run.save_metrics(metrics)
            write_report(run, metrics, flags)
    return metrics


def _accelerator(config: PosttrainConfig) -> Accelerator:
    device = pick_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if has_fast_bf16(device) else "no",
        kwargs_handlers=[
            # A batch without any picture leaves the image tower without gradients.
            DistributedDataParallelKwargs(find_unused_parameters=config.train_towers),
            # The others wait while the first process featurizes the catalogue.
            InitProcessGroupKwargs(timeout=timedelta(days=2)),
        ],
    )


def _start_encoder(config: PosttrainConfig) -> CompactEncoder:
    torch.manual_seed(config.seed)
    if config.from_ == UNTRAINED:
        towers = Towers.pretrained() if config.train_towers else None
        return CompactEncoder(
            CompactConfig(dim=config.dim, trained_towers=config.train_towers), towers=towers
        )
    encoder, _ = load_encoder(config.from_)
    if encoder.config.dim != config.dim:
        raise UserError(
            f"{config.from_}: its vectors have {encoder.config.dim} dimensions, --dim says {config.dim}; "
            f"leave the start or say --dim {encoder.config.dim}"
        )
    if not config.train_towers or encoder.towers is not None:
        return encoder
    grown = CompactEncoder(
        CompactConfig(**asdict(encoder.config) | {"trained_towers": True}), towers=Towers.pretrained()
    )
    grown.load_state_dict(encoder.state_dict(), strict=False)
    return grown


def _train(
    config: PosttrainConfig,
    encoder: CompactEncoder,
    data: TrainingData,
    accelerator: Accelerator,
    run: Run | None,
    checkpoint: Path,
) -> dict[str, Any]:
    device, items = accelerator.device, len(data.product_of_item)
    step = ContrastiveStep(encoder.to(device)).train()
    if encoder.towers is not None:
        encoder.towers.requires_grad_(config.train_towers)
    optimizer = torch.optim.AdamW(
        _parameter_groups(encoder, step.loss, config), betas=(0.9, 0.98), weight_decay=0.01
    )
    prepared, optimizer = accelerator.prepare(step, optimizer)
    live: ProductFeatures = data.features
    if data.raw is not None and encoder.towers is not None:
        live = LiveFeatures(data.raw, encoder.towers, device)
    validate = ValidationRecall(
        data.sources,
        items=items,
        candidates=_CANDIDATES if data.raw is None else _CANDIDATES_LIVE,
        seed=config.seed,
    )
    start_ME = torch.from_numpy(encode(encoder, live, device=device, rows=np.arange(items))[0])
    state = TrainingState.start(validate(encoder, live, device), encoder)
    if (checkpoint / "state.pt").exists():
        state = TrainingState.resume(checkpoint / "state.pt", encoder, step.loss, optimizer)
        if run is not None:
            run.rewind_history(state.history_lines)
    elif run is not None:
        run.rewind_history(0)
        run.log(epoch=0, loss=None, **state.start_recall)
        state.save(checkpoint / "state.pt", encoder, step.loss, optimizer, len(run.history))
    begun, pairs_seen = time.perf_counter(), 0
    while state.epoch < config.epochs and state.stale < config.patience:
        state.epoch += 1
        losses = []
        # Dropout of trained towers must be the same after a resume.
        torch.manual_seed(config.seed * 100_003 + state.epoch)
        plan = epoch_plan(
            data.sources,
            _mix(config, data.sources),
            batch_size=config.batch_size * accelerator.num_processes,
            pairs_per_epoch=config.pairs_per_epoch,
            seed=config.seed,
            epoch=state.epoch,
        )
        for number, (source, rows) in enumerate(progress(plan, f"epoch {state.epoch}", len(plan))):
            if len(rows) < accelerator.num_processes:
                continue
            share = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
            pairs = data.sources[source].training[share]
            hide = np.random.default_rng((config.seed, 5, state.epoch, number))
            modalities = hide if data.sources[source].name == "events" else None
            loss = _loss(prepared, data, pairs, start_ME[pairs.positive], modalities, device)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            pairs_seen += len(rows)
        if not losses:
            raise UserError("there are fewer pairs than processes; train with fewer processes")
        if not np.isfinite(losses).all():
            raise UserError(f"the loss is not finite in epoch {state.epoch}; lower --learning-rate")
        state.record(validate(encoder, live, device), encoder)
        if run is not None:
            scale = float(step.loss.scale().detach())
            run.log(epoch=state.epoch, loss=float(np.mean(losses)), temperature=1 / scale, **state.recall)
            state.save(checkpoint / "state.pt", encoder, step.loss, optimizer, len(run.history))
    seconds = time.perf_counter() - begun
    encoder.load_state_dict(state.best)
    encoder.cpu().eval()
    return {
        "validation": {"start": state.start_recall, "best": state.best_recall},
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "pairs": {
            s.name: {"training": len(s.training), "validation": len(s.validation), "undated": s.undated}
            for s in data.sources
        },
        "train": {"seconds": seconds, "pairs_per_second": pairs_seen / max(seconds, 1e-9)},
        "encoder_fingerprint": encoder.fingerprint(),
    }


def _loss(
    step: nn.Module,
    data: TrainingData,
    pairs: Pairs,
    start_PE: Tensor,
    rng: np.random.Generator | None,
    device: torch.device,
) -> Tensor:
    table: FeatureTable | RawTable = data.features if data.raw is None else data.raw
    groups = (data.product_of_item[pairs.positive], pairs.user)
    own = np.where(pairs.own >= 0, data.product_of_item[pairs.own], -1)
    return step(
        table.gather(pairs.anchor).to(device),
        table.gather(pairs.positive).to(device),
        start_PE.to(device),
        [torch.from_numpy(np.ascontiguousarray(group)).to(device) for group in groups],
        torch.from_numpy(own).to(device),
        rng,
    )


def _parameter_groups(
    encoder: CompactEncoder, loss: InfoNCE, config: PosttrainConfig
) -> list[dict[str, Any]]:
    towers: list[nn.Parameter] = []
    started: list[nn.Parameter] = []
    fresh: list[nn.Parameter] = []
    for name, parameter in encoder.named_parameters():
        part = name.split(".")[0]
        group = towers if part == "towers" else started if part in ("image_in", "text_in", "out") else fresh
        group.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": fresh, "lr": config.learning_rate},
        # Adam moves every weight by about the learning rate whatever its size, and a principal direction over
        # 1,280 channels has entries of .03: an epoch of noisy pairs at the full rate wipes it out (measured).
        {"params": started, "lr": config.learning_rate * _STARTED_RATE},
        {"params": list(loss.parameters()), "lr": config.learning_rate * 10, "weight_decay": 0.0},
    ]
    if config.train_towers:
        groups.append({"params": towers, "lr": config.learning_rate * _TOWER_RATE})
    return groups


def _mix(config: PosttrainConfig, sources: Sequence[PairSource]) -> list[float]:
    share = dict(zip(("searches", "events"), config.mix, strict=True))
    return [share[source.name] for source in sources]
