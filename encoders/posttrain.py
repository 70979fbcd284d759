"""Stage 2: post-training on behaviour. Searches and pairs of events teach the encoder what is alike.

The towers stay frozen by default and their features come from the cache, so that a step costs only the fusion
transformer; `--train-towers` trains everything. Every batch and every hidden modality is decided by the seed,
the epoch and the step alone: a run that was killed goes on from its last epoch to the same weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from encoders.compact import CompactConfig, CompactEncoder
from encoders.features import FeatureBatch, FeatureTable, ProductFeatures
from encoders.infonce import InfoNCE
from encoders.loading import UNTRAINED, featurizer_for, load_encoder
from encoders.pairs import Pairs, PairSource, pairs_from_events, pairs_from_searches, product_codes
from encoders.posttrain_report import write_report
from encoders.precision import has_fast_bf16, pick_device
from encoders.products import BrokenImages, iter_items, iter_queries
from encoders.raw_batches import LiveFeatures, RawBatch, RawTable, run_towers
from encoders.sampling import drop_modalities, epoch_plan
from encoders.towers import Towers
from encoders.validation_recall import ValidationRecall, score
from moonrec.atomic import atomic_file
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.runs import Run, open_run
from moonrec.tables import EVENTS, IMPRESSIONS, ITEMS, SEARCHES, Table, open_table

_TOWER_RATE = 0.1
_STARTED_RATE = 0.1
_KEEP = 0.0
_SELF = 0.0
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
    epochs: int = 30
    pairs_per_epoch: int = 16_384
    learning_rate: float = 3e-4
    patience: int = 3
    window: int = 3
    max_gap_days: float = 30.0
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


@dataclass(frozen=True)
class TrainingData:
    """Everything the loop reads; feature rows are the catalogue's, then the queries'."""

    features: FeatureTable
    raw: RawTable | None
    sources: list[PairSource]
    product_of_item: np.ndarray
    broken: BrokenImages


class ContrastiveStep(nn.Module):
    """Encoder and loss as one module, so that data parallelism sees a single forward."""

    def __init__(self, encoder: CompactEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss = InfoNCE()
        self._start = [copy.deepcopy(encoder).requires_grad_(False).eval()]

    def forward(
        self,
        anchors: FeatureBatch | RawBatch,
        positives: FeatureBatch | RawBatch,
        groups_P: Sequence[Tensor],
        rng: np.random.Generator | None,
    ) -> Tensor:
        """The loss of a batch; with `rng`, some anchors are shown in one modality only."""
        anchor_features, positive_features = self._features(anchors), self._features(positives)
        if rng is not None:
            anchor_features = drop_modalities(anchor_features, rng)
        a, p = self.encoder(anchor_features), self.encoder(positive_features)
        loss = self.loss(a, p, *groups_P)
        if _SELF:
            rows = len(p)
            pick = np.arange(rows) % 2 == 0
            one = positive_features.hide(image=pick, text=~pick)
            if rng is None:
                one = positive_features.hide(image=np.zeros(rows,bool), text=np.ones(rows,bool))
            e = ~one.is_empty_B()
            loss = loss + _SELF * self.loss(self.encoder(one)[e], p[e], groups_P[0][e])
        if _KEEP:
            with torch.no_grad():
                a0, p0 = self._start[0](anchor_features), self._start[0](positive_features)
            loss = loss + _KEEP * (2 - (a * a0).sum(1).mean() - (p * p0).sum(1).mean())
        return loss

    def _features(self, batch: FeatureBatch | RawBatch) -> FeatureBatch:
        if isinstance(batch, FeatureBatch):
            return batch
        assert self.encoder.towers is not None
        return run_towers(self.encoder.towers, batch)


def posttrain(config: PosttrainConfig) -> dict[str, Any]:
    """Train an encoder on behaviour and write its run folder; returns what `metrics.json` holds.

    Raises:
        UserError: no source of pairs, tables that do not fit, or an output that cannot be written.
    """
    if config.searches is None and config.events is None:
        raise UserError("post-training needs --searches, --events, or both: behaviour is the teacher")
    device = pick_device(config.device)
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="bf16" if has_fast_bf16(device) else "no"
    )
    tables = _open_tables(config)
    encoder = _start_encoder(config)
    inputs = {name: table.fingerprint() for name, table in tables.items()} | {"from": encoder.fingerprint()}
    with ExitStack() as stack:
        run = None
        if accelerator.is_main_process:
            flags = asdict(config) | {"event_types": list(config.event_types), "mix": list(config.mix)}
            flags["from"] = flags.pop("from_")
            run = stack.enter_context(open_run(Path(config.out), "posttrain", flags, inputs, config.seed))
        accelerator.wait_for_everyone()
        partial = Path(config.out + ".partial")
        with accelerator.main_process_first():
            data = _load(config, tables, encoder, accelerator.device, partial)
        if config.from_ == UNTRAINED:
            encoder.calibrate(data.features, config.seed)
        metrics = _train(config, encoder, data, accelerator, run, partial / "checkpoint")
        accelerator.wait_for_everyone()
        if run is not None:
            encoder.save_pretrained(run.model_dir)
            metrics["broken_images"] = data.broken.to_dict()
            run.save_metrics(metrics)
            write_report(run, metrics, flags)
    return metrics


def _open_tables(config: PosttrainConfig) -> dict[str, Table]:
    tables = {"items": open_table(config.items, ITEMS)}
    if config.searches is not None:
        tables["searches"] = open_table(config.searches, SEARCHES)
    if config.events is not None:
        tables["events"] = open_table(config.events, EVENTS)
    if config.holdout is not None:
        tables["holdout"] = open_table(config.holdout, IMPRESSIONS)
    return tables


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


def _load(
    config: PosttrainConfig,
    tables: dict[str, Table],
    encoder: CompactEncoder,
    device: torch.device,
    partial: Path,
) -> TrainingData:
    items, searches, holdout = tables["items"], tables.get("searches"), tables.get("holdout")
    featurizer = featurizer_for(encoder, config.cache, device)
    features = featurizer.table(progress(iter_items(items), "catalogue features"))
    item_ids = items.read(["item_id"]).column("item_id").to_pylist()
    sources = []
    if searches is not None:
        queries = featurizer.table(progress(iter_queries(searches), "query features"))
        usable = np.concatenate(
            [~queries.gather(part).is_empty_B().numpy() for part in _chunks(len(queries))]
        )
        features = features + queries
        sources.append(pairs_from_searches(searches, item_ids, usable, config.seed, holdout))
    if (events := tables.get("events")) is not None:
        sources.append(
            pairs_from_events(
                events, item_ids, event_types=config.event_types, holdout=holdout, window=config.window,
                max_gap_days=config.max_gap_days,
            )
        )  # fmt: skip
    raw = None
    if config.train_towers:
        batches = (
            batch
            for table in (iter_items(items), iter_queries(searches) if searches else [])
            for batch in table
        )
        raw = RawTable.build(batches, len(features), partial / "pixels.npy", BrokenImages())
    return TrainingData(features, raw, sources, product_codes(items, item_ids), featurizer.broken)


def _chunks(rows: int, size: int = 4096) -> list[np.ndarray]:
    return np.split(np.arange(rows), range(size, rows, size))


def _train(
    config: PosttrainConfig,
    encoder: CompactEncoder,
    data: TrainingData,
    accelerator: Accelerator,
    run: Run | None,
    checkpoint: Path,
) -> dict[str, Any]:
    device = accelerator.device
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
        items=len(data.product_of_item),
        candidates=_CANDIDATES if data.raw is None else _CANDIDATES_LIVE,
        seed=config.seed,
    )
    state = _State.start(validate(encoder, live, device), encoder)
    if (checkpoint / "state.pt").exists():
        state = _State.resume(checkpoint / "state.pt", encoder, step.loss, optimizer)
        if run is not None:
            run.rewind_history(state.history_lines)
    elif run is not None:
        run.log(epoch=0, loss=None, **state.start_recall)
        state.save(checkpoint / "state.pt", encoder, step.loss, optimizer, len(run.history))
    begun, pairs_seen = time.perf_counter(), 0
    while state.epoch < config.epochs and state.stale < config.patience:
        state.epoch += 1
        losses = []
        plan = epoch_plan(
            data.sources,
            _mix(config, data.sources),
            batch_size=config.batch_size * accelerator.num_processes,
            pairs_per_epoch=config.pairs_per_epoch,
            seed=config.seed,
            epoch=state.epoch,
        )
        for number, (source, rows) in enumerate(progress(plan, f"epoch {state.epoch}", len(plan))):
            share = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
            loss = _loss(
                prepared, data, data.sources[source], share, device, (config.seed, 5, state.epoch, number)
            )
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            pairs_seen += len(rows)
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
            s.name: {"training": len(s.training), "validation": len(s.validation)} for s in data.sources
        },
        "train": {"seconds": seconds, "pairs_per_second": pairs_seen / max(seconds, 1e-9)},
        "encoder_fingerprint": encoder.fingerprint(),
    }


def _loss(
    step: nn.Module,
    data: TrainingData,
    source: PairSource,
    rows: np.ndarray,
    device: torch.device,
    entropy: tuple[int, ...],
) -> Tensor:
    pairs: Pairs = source.training[rows]
    table: FeatureTable | RawTable = data.features if data.raw is None else data.raw
    groups = (data.product_of_item[pairs.positive], pairs.user)
    rng = np.random.default_rng(entropy) if source.name == "events" else None
    return step(
        table.gather(pairs.anchor).to(device),
        table.gather(pairs.positive).to(device),
        [torch.from_numpy(np.ascontiguousarray(group)).to(device) for group in groups],
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
        # 1,280 channels has entries of .03: at the full rate one epoch of noisy pairs wipes it out (measured).
        {"params": started, "lr": config.learning_rate * _STARTED_RATE},
        {"params": list(loss.parameters()), "lr": config.learning_rate * 10, "weight_decay": 0.0},
    ]
    if config.train_towers:
        groups.append({"params": towers, "lr": config.learning_rate * _TOWER_RATE})
    return groups


def _mix(config: PosttrainConfig, sources: Sequence[PairSource]) -> list[float]:
    share = dict(zip(("searches", "events"), config.mix, strict=True))
    return [share[source.name] for source in sources]


@dataclass
class _State:
    """Where training stands: enough to go on after a kill, and the best weights so far."""

    epoch: int
    stale: int
    start_recall: dict[str, float]
    recall: dict[str, float]
    best_recall: dict[str, float]
    best_epoch: int
    best: dict[str, Tensor]
    history_lines: int = 0

    @classmethod
    def start(cls, recall: dict[str, float], encoder: CompactEncoder) -> _State:
        """Before the first step; if no epoch beats this, the untouched encoder is kept."""
        return cls(0, 0, recall, recall, recall, 0, _copy(encoder))

    @classmethod
    def resume(
        cls, path: Path, encoder: CompactEncoder, loss: InfoNCE, optimizer: torch.optim.Optimizer
    ) -> _State:
        """Read a checkpoint, and put weights and optimizer back."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        encoder.load_state_dict(saved["encoder"])
        loss.load_state_dict(saved["loss"])
        optimizer.load_state_dict(saved["optimizer"])
        return cls(**saved["state"])

    def record(self, recall: dict[str, float], encoder: CompactEncoder) -> None:
        """Note an epoch's validation recall; without validation pairs the last epoch is the best."""
        self.recall = recall
        if not recall or score(recall, self.start_recall) > score(self.best_recall, self.start_recall):
            self.best_recall, self.best_epoch, self.best, self.stale = recall, self.epoch, _copy(encoder), 0
        else:
            self.stale += 1

    def save(
        self, path: Path, encoder: CompactEncoder, loss: InfoNCE, optimizer: torch.optim.Optimizer, lines: int
    ) -> None:
        """Write a checkpoint, atomically."""
        self.history_lines = lines
        values = {
            "encoder": encoder.state_dict(),
            "loss": loss.state_dict(),
            "optimizer": optimizer.state_dict(),
            "state": vars(self),
        }
        with atomic_file(path) as temporary:
            torch.save(values, temporary)


def _copy(encoder: CompactEncoder) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
