"""Export: the encoder's vectors, in the catalogue's order, complete or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import CPU, Shop, picture, write_table

from encoders.compact import CompactEncoder
from encoders.encoding import encode
from encoders.export import ExportConfig, export
from encoders.features import FeatureTable
from encoders.loading import UNTRAINED
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]


def exported(out: Path, shop: Shop, encoder: Path | str, **options: Any) -> EmbeddingSet:
    defaults = {"items": shop.items, "cache": shop.cache, "device": "cpu"}
    export(ExportConfig(encoder=str(encoder), out=str(out), **(defaults | options)))
    return EmbeddingSet.open(out)


@pytest.mark.parametrize("modality", ["multimodal", "image", "text"])
def test_vectors_are_the_encoders_in_the_order_of_the_catalogue(
    modality: str, shop: Shop, trained: Path, features: FeatureTable, tmp_path: Path
) -> None:
    found = exported(tmp_path / "set", shop, trained, modality=modality)
    encoder = CompactEncoder.from_pretrained(trained)
    vectors, empty = encode(encoder, features, device=CPU, modality=modality)
    covered = [key for key, nothing in zip(shop.item_ids(), empty, strict=True) if not nothing]
    assert found.ids.to_pylist() == covered
    np.testing.assert_array_equal(found.matrix(), vectors[~empty].astype(np.float16))
    assert found.metadata["modality"] == modality
    assert found.metadata["encoder_fingerprint"] == encoder.fingerprint()
    assert found.metadata["empty"] == empty.sum()


def test_fewer_dimensions_are_the_prefix_at_unit_length(shop: Shop, trained: Path, tmp_path: Path) -> None:
    full = exported(tmp_path / "full", shop, trained).matrix().astype(np.float32)
    short = exported(tmp_path / "short", shop, trained, dim=24)
    expected = full[:, :24] / np.linalg.norm(full[:, :24], axis=1, keepdims=True)
    assert short.dimension == 24
    np.testing.assert_allclose(short.matrix(), expected, atol=2e-3)


def test_the_same_call_gives_the_same_embedding_set(shop: Shop, tmp_path: Path) -> None:
    first, again = (exported(tmp_path / name, shop, UNTRAINED) for name in ("first", "again"))
    assert first.fingerprint == again.fingerprint
    assert first.metadata["encoder_fingerprint"] == again.metadata["encoder_fingerprint"]
    assert first.dimension == 128
    assert len(first) == 60


def test_products_that_show_nothing_are_left_out_and_counted(
    trained: Path, shop: Shop, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "001", "title": "red dress", "image": picture(1)},
        {"item_id": "002", "title": None, "image": None},
        {"item_id": "1", "title": " ", "image": picture(2)},
        {"item_id": "3", "title": "blue shirt", "image": b"broken"},
    ]
    items = str(write_table(tmp_path / "items.parquet", rows))
    both = exported(tmp_path / "both", shop, trained, items=items)
    assert both.ids.to_pylist() == ["001", "1", "3"]
    assert both.metadata["empty"] == 1
    assert both.metadata["broken_images"] == {
        "count": 1,
        "examples": [{"id": "3", "reason": "does not decode"}],
    }
    image = exported(tmp_path / "image", shop, trained, items=items, modality="image")
    assert image.ids.to_pylist() == ["001", "1"]
    assert exported(tmp_path / "text", shop, UNTRAINED, items=items, modality="text").metadata["empty"] == 2
    # The untrained encoder passes the catalogue twice; a broken picture counts once.
    assert exported(tmp_path / "one", shop, UNTRAINED, items=items).metadata["broken_images"]["count"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "sound"}, "--modality sound"),
        ({"dim": 129}, "--dim 129"),
        ({"dim": 0}, "--dim 0"),
        ({"encoder": "/nowhere/at/all"}, "no such folder"),
    ],
)
def test_impossible_wishes_are_refused(
    options: dict[str, Any], message: str, shop: Shop, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        exported(tmp_path / "set", shop, **({"encoder": trained} | options))
    assert not list(tmp_path.iterdir())


def test_a_catalogue_that_shows_nothing_writes_nothing(shop: Shop, trained: Path, tmp_path: Path) -> None:
    items = write_table(tmp_path / "items.parquet", [{"item_id": "1", "title": "only words"}])
    with pytest.raises(UserError, match="no product shows anything as image"):
        exported(tmp_path / "set", shop, trained, items=str(items), modality="image")
    assert {path.name for path in tmp_path.iterdir()} == {"items.parquet"}


_EXPORT = """
import sys, torch
torch.set_num_threads(1)
from encoders.export import ExportConfig, export
encoder, items, out, cache = sys.argv[1:]
export(ExportConfig(encoder=encoder, items=items, out=out, cache=cache, device="cpu"))
"""


def test_a_killed_export_leaves_no_half_set_and_the_next_one_goes_on(
    shop: Shop, trained: Path, tmp_path: Path
) -> None:
    rows = [{"item_id": f"i{i}", "title": f"sock number {i} " + "wool " * (i % 25)} for i in range(1500)]
    items = str(write_table(tmp_path / "items.parquet", rows))
    out, cache = tmp_path / "out" / "set", tmp_path / "cache"
    out.parent.mkdir()
    child = subprocess.Popen([sys.executable, "-c", _EXPORT, str(trained), items, str(out), str(cache)])
    deadline = time.monotonic() + 120
    while not list(cache.rglob("offsets.npy")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not out.exists()
    shards = len(list(cache.rglob("offsets.npy")))
    assert 0 < shards < 6
    resumed = exported(out, shop, trained, items=items, cache=str(cache))
    assert [path.name for path in out.parent.iterdir() if "tmp" in path.name] == []
    fresh = exported(tmp_path / "fresh", shop, trained, items=items, cache=str(cache))
    assert len(resumed) == 1500
    assert resumed.fingerprint == fresh.fingerprint
