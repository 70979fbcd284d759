"""A small log for the tests of retrieval: users have a taste, vectors tell which, and new items come late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ctr_helpers import write_with_times

from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.data import RetrievalData, load_data, open_inputs
from ctr.retrieval.model import TwoTowers
from ctr.retrieval.saving import RetrievalSettings, build_model
from ctr.retrieval.start import fit_start
from moonrec.embedding_set import EmbeddingSetWriter

TASTES, DIMENSION = 6, 12
MINUTE = 60_000_000
LAUNCH = 9_000
"""The minute from which on new items are there; the latest 15 % of the events begin before it."""
NEW = 60
OPTIONS: dict[str, Any] = {
    "test_share": 0.15, "validation_share": 0.1, "history": 20, "dim": 16, "embedding_dim": 8,
    "batch_size": 128, "epochs": 3, "patience": 9, "checkpoint_minutes": 60.0,
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """Events by time; `device` and `spent` are context, `event` is `view` or `buy`."""

    user_E: np.ndarray
    item_E: np.ndarray
    minute_E: np.ndarray
    event_E: np.ndarray
    taste_I: np.ndarray
    vectors: np.ndarray

    @property
    def item_ids(self) -> list[str]:
        return [f"i{item:03}" for item in range(len(self.vectors))]

    def with_rows(self, **columns: np.ndarray) -> Planted:
        """The same log with other columns; the rows in the order of time."""
        changed = replace(self, **columns)
        order = np.argsort(changed.minute_E, kind="stable")
        rows = {name: getattr(changed, name)[order] for name in ("user_E", "item_E", "minute_E", "event_E")}
        return replace(changed, **rows)

    def table(self) -> pa.Table:
        """The events."""
        taste_E = self.taste_I[self.item_E]
        return pa.table({
            "user_id": pa.array([f"u{user}" for user in self.user_E]),
            "item_id": pa.array([f"i{item:03}" for item in self.item_E]),
            "timestamp": pa.array(self.minute_E * MINUTE),
            "event": pa.array(self.event_E.tolist(), pa.string()),
            "device": pa.array([("phone", "desk", None)[user % 3] for user in self.user_E]),
            "spent": pa.array((taste_E * 1.5).tolist(), pa.float64()),
        })  # fmt: skip

    def save(self, folder: Path) -> dict[str, Any]:
        """Write all tables; the options that name them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_with_times(self.table(), folder / "events.parquet")
        items = {
            "item_id": self.item_ids,
            "title": self.item_ids,
            "category": [f"goods > {taste % 2}" for taste in self.taste_I],
        }
        pq.write_table(pa.table(items), folder / "items.parquet")
        users = {"user_id": [f"u{user}" for user in np.unique(self.user_E)]}
        users["town"] = [f"t{len(user) % 2}" for user in users["user_id"]]
        pq.write_table(pa.table(users), folder / "users.parquet")
        with EmbeddingSetWriter(folder / "embeddings", DIMENSION, {}) as writer:
            writer.write(pa.array(self.item_ids), self.vectors)
        names = {"events": "events.parquet", "items": "items.parquet", "embeddings": "embeddings"}
        return {name: str(folder / file) for name, file in names.items()}


def planted_log(seed: int = 0, users: int = 250, items: int = 300, events: int = 16) -> Planted:
    """Users keep to a taste nine times of ten, take no item twice, and half of what is late is new."""
    random = np.random.default_rng(seed)
    taste_I = random.integers(0, TASTES, items)
    centres = random.normal(size=(TASTES, DIMENSION))
    vectors = centres[taste_I] + 0.4 * random.normal(size=(items, DIMENSION)) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    is_new_I = np.arange(items) >= items - NEW
    weight_I = random.pareto(1.5, items) + 0.2
    user_E = np.repeat(np.arange(users), events)
    minute_E = np.concatenate([np.sort(random.choice(10_000, events, replace=False)) for _ in range(users)])
    item_E = np.empty(len(user_E), np.int64)
    taste_U = random.integers(0, TASTES, users)
    for user in range(users):
        free_I = np.ones(items, bool)
        for at in range(user * events, (user + 1) * events):
            kept = random.random() < 0.9
            wants_new = minute_E[at] >= LAUNCH and random.random() < 0.5
            weight = weight_I * free_I * (is_new_I == wants_new)
            weight = weight * (taste_I == taste_U[user]) if kept else weight
            item_E[at] = random.choice(items, p=weight / weight.sum())
            free_I[item_E[at]] = False
    event_E = np.where(random.random(len(user_E)) < 0.5, "buy", "view")
    log = Planted(user_E, item_E, minute_E, event_E, taste_I, vectors.astype(np.float32))
    return log.with_rows()


def config_of(inputs: Mapping[str, Any], out: Path | str, **options: Any) -> RetrievalConfig:
    """The options of a small run."""
    return RetrievalConfig(**{**OPTIONS, **inputs, **options, "out": out})


def data_of(inputs: Mapping[str, Any], **options: Any) -> RetrievalData:
    """What such a run learns from and is measured on."""
    config = config_of(inputs, "unused", **options)
    return load_data(config, open_inputs(config))


def model_of(data: RetrievalData, dim: int = 16, history: int = 20, seed: int = 0) -> TwoTowers:
    """A model before its first step, fitted to the training targets."""
    settings = RetrievalSettings(8, dim, history, True, seed, None)
    model = build_model(settings, data.vocabulary, data.frozen)
    fit_start(model, data, seed)
    return model.eval()
