"""Post-training by two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from encoder_helpers import Shop

from encoders.compact import CompactEncoder

pytest_plugins = ["encoder_fixtures"]


@pytest.mark.slow
def test_two_processes_post_train_one_encoder(shop: Shop, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "moonrec.cli"]
    command += ["posttrain", "--items", shop.items, "--searches", shop.searches, "--events", shop.events]
    command += ["--holdout", shop.holdout, "--epochs", "1", "--pairs-per-epoch", "256", "--batch-size", "32"]
    command += ["--device", "cpu", "--cache", shop.cache, "--out", str(tmp_path / "run")]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    encoder = CompactEncoder.from_pretrained(tmp_path / "run")
    assert encoder.fingerprint() == metrics["encoder_fingerprint"]
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
