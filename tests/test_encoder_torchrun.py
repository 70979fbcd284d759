"""Post-training by two processes: the result of one, replicated or sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from encoder_helpers import Shop

from encoders.loading import load_encoder
from encoders.posttrain import posttrain

pytest_plugins = ["encoder_fixtures"]

OPTIONS: dict[str, Any] = {
    "rounds": ("2",), "precision": "fp32", "epochs": 2, "pairs_per_epoch": 256, "batch_size": 10, "queue": 16,
    "keep": 0.0, "patience": 3, "cleaning": ("sku",),
}  # fmt: skip


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


JOINT: dict[str, Any] = OPTIONS | {
    "rounds": ("joint",),
    "batch_size": 4,
    "pairs_per_epoch": 48,
    "intra_weight": 0.0,
}


def by_two_processes(
    shop: Shop, out: Path, *more: str, options: dict[str, Any] = OPTIONS
) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "moonrec.cli"]
    command += ["posttrain", "--items", shop.items, "--searches", shop.searches, "--events", shop.events]
    command += ["--device", "cpu", "--no-regions", "--cache", shop.cache, "--out", str(out)]
    for name, value in options.items():
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        command += [f"--{name.replace('_', '-')}", text]
    command += more
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = json.loads((out / "metrics.json").read_text())
    encoder, _ = load_encoder(str(out))
    assert encoder.fingerprint() == metrics["encoder_fingerprint"]
    return history(out)


@pytest.fixture(scope="module")
def alone(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The history of one process with the batch of both."""
    out = tmp_path_factory.mktemp("alone") / "run"
    posttrain(shop.training(out, **OPTIONS | {"batch_size": 20}))
    return history(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--chunk-size", "8"), ("--fsdp",)], ids=["replicated", "chunked", "sharded"]
)
def test_two_processes_train_like_one_with_both_batches(
    more: tuple[str, ...], shop: Shop, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    together = by_two_processes(shop, tmp_path / "run", *more)
    assert len(together) == len(alone) == 3
    assert alone[1]["loss"] != alone[2]["loss"]
    for found, expected in zip(together, alone, strict=True):
        assert found.keys() == expected.keys()
        if expected["loss"] is not None:
            assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
        assert found["events_log_rank"] == pytest.approx(expected["events_log_rank"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("--fsdp", "--chunk-size", "5")], ids=["replicated", "sharded in chunks"]
)
def test_two_processes_train_jointly_like_one_though_they_hold_other_modalities(
    more: tuple[str, ...], shop: Shop, tmp_path: Path
) -> None:
    posttrain(shop.training(tmp_path / "alone", **JOINT | {"batch_size": 8}))
    alone, together = (
        history(tmp_path / "alone"),
        by_two_processes(shop, tmp_path / "two", *more, options=JOINT),
    )
    assert len(together) == len(alone) == 3
    for one, two in zip(alone[1:], together[1:], strict=True):
        for name in ("loss", "inter_image", "inter_text", "weight_image"):
            assert two[name] == pytest.approx(one[name], rel=0.02), name


@pytest.mark.slow
def test_two_processes_align_pictures_with_words(shop: Shop, tmp_path: Path) -> None:
    history = by_two_processes(shop, tmp_path / "run", "--intra-weight", "1", options=JOINT)
    assert history[-1]["intra"] > 0
