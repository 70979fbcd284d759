"""A small log of tastes, models trained on it, and new items that came later; shared by tests of serving."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr.retrieval.config import RetrievalConfig
from ctr.retrieval.train import train_retrieval
from moonrec.embedding_set import EmbeddingSetWriter

GROUPS, PER_GROUP, NEW_PER_GROUP, USERS, DIM = 4, 12, 2, 60, 16
OLD = [f"i{group}_{n}" for group in range(GROUPS) for n in range(PER_GROUP)]
NEW = [f"new{group}_{n}" for group in range(GROUPS) for n in range(NEW_PER_GROUP)]
DAY = 86_400
# Behind all events, in seconds.
LATE = DAY * 18_100


@dataclass(frozen=True)
class Case:
    """The folder of the tables, and what was trained on them.

    Attributes:
        folder: `events.parquet`, `users.parquet`, `items.parquet` (old ones) and `all_items.parquet`, the
            embedding sets `old` and `all`.
        rich: the run of a model of vectors, categories and context.
        plain: that of a model of ids and vectors alone.
    """

    folder: Path
    rich: Path
    plain: Path

    @property
    def config(self) -> RetrievalConfig:
        """That of `plain`."""
        return _config(self.folder, self.plain)


@cache
def trained(base: Path) -> Case:
    """Train below a folder of the test session, once for all modules."""
    folder = base / "retrieve-case"
    folder.mkdir()
    write_tables(folder)
    train_retrieval(_config(folder, folder / "plain"))
    rich = _config(
        folder,
        folder / "rich",
        items=folder / "items.parquet",
        users=folder / "users.parquet",
        categorical=("device",),
        numeric=("age",),
        index="hnsw",
    )
    train_retrieval(rich)
    return Case(folder, folder / "rich", folder / "plain")


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(3)
    centre = rng.normal(size=(GROUPS, DIM))
    group_of = [int(name.lstrip("inew")[0]) for name in [*OLD, *NEW]]
    vectors = centre[group_of] + 0.4 * rng.normal(size=(len(group_of), DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, count in (("old", len(OLD)), ("all", len(OLD) + len(NEW))):
        write_set(folder / name, [*OLD, *NEW][:count], vectors[:count], "encoder-1")
    users, items, times = [], [], []
    for user in range(USERS):
        taste = np.where(np.array(group_of[: len(OLD)]) == user % GROUPS, 6.0, 1.0)
        # Two events at one moment now and then: they are no history of each other.
        when = np.sort(rng.integers(0, 60, 14))
        users += [f"u{user:02d}"] * len(when)
        items += list(rng.choice(OLD, len(when), p=taste / taste.sum()))
        times += [int(DAY * (18_000 + day)) for day in when]
    devices = [None if n == 0 else f"d{n}" for n in rng.integers(0, 3, len(users))]
    table = {"user_id": users, "item_id": items, "timestamp": times, "device": devices}
    pq.write_table(pa.table(table), folder / "events.parquet")
    people = {"user_id": [f"u{n:02d}" for n in range(USERS + 5)], "age": [20.0 + n for n in range(USERS + 5)]}
    pq.write_table(pa.table(people), folder / "users.parquet")
    for name, ids in (("items", OLD), ("all_items", [*OLD, *NEW, "unheard of"])):
        category = [f"shop > g{n % GROUPS}" for n in range(len(ids))]
        if ids[-1] == "unheard of":
            category[-1] = "nobody > knows"
        columns = {"item_id": ids, "title": ids, "category": category}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def write_set(path: Path, ids: list[str], vectors: np.ndarray, encoder: str | None) -> None:
    with EmbeddingSetWriter(path, vectors.shape[1], {"encoder_fingerprint": encoder}) as writer:
        writer.write(ids, vectors)


def request(path: Path, **columns: Any) -> Path:
    """Write a table of requests."""
    pq.write_table(pa.table(columns), path)
    return path


def _config(folder: Path, out: Path, **options: Any) -> RetrievalConfig:
    small = {"dim": DIM, "embedding_dim": 8, "epochs": 2, "history": 8}
    return RetrievalConfig(
        events=folder / "events.parquet", embeddings=folder / "old", out=out, **{**small, **options}
    )
