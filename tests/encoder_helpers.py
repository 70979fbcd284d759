"""Small catalogues, logs and random features for the tests of `encoders`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from encoders.compact import CompactConfig, CompactEncoder
from encoders.features import FeatureTable, Shard
from encoders.posttrain import PosttrainConfig
from encoders.towers import GRID, IMAGE_CHANNELS, TEXT_CHANNELS
from moonrec.table_spec import ATTRIBUTES_TYPE, IMAGE_TYPE, IMAGES_TYPE

# Steps this small gain nothing from a second thread, and lose much where tests run beside other work.
torch.set_num_threads(1)

CPU = torch.device("cpu")
DAY = 86_400_000_000
_TYPES = {
    "image": IMAGE_TYPE,
    "images": IMAGES_TYPE,
    "query_image": IMAGE_TYPE,
    "attributes": ATTRIBUTES_TYPE,
    "timestamp": pa.timestamp("us", "UTC"),
    "label": pa.int8(),
}


@dataclass(frozen=True)
class Shop:
    """The paths of a small simulated marketplace, and the cache where features of its products are kept."""

    items: str
    searches: str
    test_searches: str
    events: str
    holdout: str
    cache: str

    def item_ids(self) -> list[str]:
        """The catalogue's ids in file order."""
        return pq.read_table(self.items, columns=["item_id"]).column("item_id").to_pylist()

    def training(self, out: Path, **options: Any) -> PosttrainConfig:
        """Options of a post-training that takes seconds."""
        defaults: dict[str, Any] = {
            "searches": self.searches,
            "events": self.events,
            "epochs": 2,
            "pairs_per_epoch": 256,
            "batch_size": 64,
            "heatmaps": 0,
            "device": "cpu",
            "regions": False,
        }
        return PosttrainConfig(items=self.items, out=str(out), cache=self.cache, **(defaults | options))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as one of moonrec's tables; pictures are given as bytes or as a relative path."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: pa.array([_cell(name, row.get(name)) for row in rows], _TYPES.get(name, pa.string()))
        for name in names
    }
    pq.write_table(pa.table(columns), path)
    return path


def _cell(name: str, value: Any) -> Any:
    if name in ("image", "query_image") and isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if name in ("image", "query_image") and isinstance(value, str):
        return {"bytes": None, "path": value}
    return list(value.items()) if name == "attributes" and value is not None else value


def picture(seed: int, size: int = 48) -> bytes:
    """A PNG of coloured blocks, another one for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def shard_of(
    lengths: Iterable[int], has_image: Iterable[bool], seed: int = 0, image_scale: float = 1.0
) -> Shard:
    """Random features of products with these numbers of text tokens."""
    rng = np.random.default_rng(seed)
    lengths, has_image = list(lengths), np.array(list(has_image), bool)
    image = rng.normal(size=(len(lengths), GRID * GRID, IMAGE_CHANNELS)) * image_scale
    text = rng.normal(size=(sum(lengths), TEXT_CHANNELS))
    return Shard(
        image=(image * has_image[:, None, None]).astype(np.float16),
        has_image=has_image,
        text=text.astype(np.float16),
        aspect=rng.integers(1, 5, sum(lengths)).astype(np.uint8),
        offsets=np.cumsum([0, *lengths]),
    )


def random_features(rows: int = 24, seed: int = 0) -> FeatureTable:
    """Random products in two shards, of which every sixth lacks its picture, its words, or both."""
    rng = np.random.default_rng(seed)
    kind = np.arange(rows) % 6
    lengths = np.where((kind == 1) | (kind == 2), 0, rng.integers(1, 30, rows))
    has_image = (kind != 2) & (kind != 3)
    cut = rows // 3
    return FeatureTable(
        [
            shard_of(lengths[:cut].tolist(), has_image[:cut].tolist(), seed),
            shard_of(lengths[cut:].tolist(), has_image[cut:].tolist(), seed + 1),
        ]
    )


def busy_encoder(seed: int = 0, dim: int = 32) -> CompactEncoder:
    """A small encoder all of whose weights are random, so that every part of it takes effect."""
    torch.manual_seed(seed)
    encoder = CompactEncoder(CompactConfig(dims=(dim,), width=32, regions=False))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.3)
    return encoder.eval()


def history(run: Path) -> list[dict[str, Any]]:
    path = run / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


_POSTTRAIN = """
import json, sys, torch
torch.set_num_threads(1)
from encoders.posttrain import PosttrainConfig, posttrain
options = json.loads(sys.argv[1])
options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
posttrain(PosttrainConfig(**options))
"""


def kill_after_lines(config: PosttrainConfig, lines: int) -> None:
    """Start `config` in a process of its own and end it, with SIGKILL, once its history has `lines` lines and
    the checkpoint that goes with them is written."""
    child = subprocess.Popen([sys.executable, "-c", _POSTTRAIN, json.dumps(vars(config))])
    partial, deadline = Path(config.out + ".partial"), time.monotonic() + 120
    while len(history(partial)) < lines and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    state = partial / "checkpoint" / "state.pt"
    while state.stat().st_mtime < (partial / "history.jsonl").stat().st_mtime and child.poll() is None:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not Path(config.out).exists()
    assert len(history(partial)) == lines
