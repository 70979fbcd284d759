"""Two processes that share one encoder's weights, of whatever precisions they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import CPU, busy_encoder, random_features
from mllm_case import encoder_of, product

from encoders.dual import DualEncoder, DualOptions
from encoders.encoder import Encoder
from encoders.launch import PlacedEncoder, make_accelerator
from encoders.training_state import put_weights, weights_of
from moonrec.process_group import leave_process_group

PRODUCTS = [product(1, region=True), product(2, image=False), product(3)]
WORDS = ("red", "cup", "cotton", "steel")


def dual() -> Encoder:
    return DualEncoder.tiny(WORDS, options=DualOptions(dims=(24,), dtype="bfloat16", experts=4))


CASES: dict[str, Callable[[], Encoder]] = {
    "compact": busy_encoder,
    "dual": dual,
    "float32": lambda: encoder_of("qwen3_vl"),
    "bfloat16": lambda: encoder_of(experts=4, dtype="bfloat16"),
    "adapters": lambda: encoder_of(experts=4, lora_rank=2, dtype="bfloat16"),
}


@pytest.mark.slow
def test_sharded_encoders_of_every_kind_learn_and_come_back_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    subprocess.run([*command, str(tmp_path)], check=True, timeout=300, env=environment)
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == {(name, precision) for name in CASES for precision in ("fp32", "bf16")}
        for case, facts in found.items():
            exact = case in {("compact", "fp32"), ("float32", "fp32")}
            assert facts.pop("off") < (1e-5 if exact else 0.05), case
            assert facts == {"whole": True, "learnt": True, "restored": True}, case


def facts_of(make: Callable[[], Encoder], precision: str) -> dict[str, Any]:
    """Whether the encoder comes back whole, learns and is put back; how far its sharded vectors are off."""
    accelerator = make_accelerator("cpu", precision, find_unused=True)
    encoder = make()
    features = encoder.config.backbone == "compact"
    table = random_features(3) if features else encoder.preparer(None, CPU).table([PRODUCTS])
    batch = table.gather(np.arange(3))
    before = encoder.fingerprint()
    with torch.no_grad():
        alone_BE = encoder(batch)
    placed = PlacedEncoder(encoder, accelerator, fsdp=True)
    whole, start = placed.whole(), weights_of(encoder)
    facts: dict[str, Any] = {"whole": whole is None or whole.fingerprint() == before}
    optimizer = torch.optim.AdamW([one for one in encoder.parameters() if one.requires_grad], lr=1e-2)
    vectors_BE = placed.wrap(encoder).module(batch)
    (vectors_BE @ vectors_BE.T).sum().backward()
    facts["off"] = float((vectors_BE.detach() - alone_BE).abs().max())
    optimizer.step()
    changed = placed.whole()
    facts["learnt"] = changed is None or changed.fingerprint() != before
    put_weights(encoder, start)
    again = placed.whole()
    facts["restored"] = again is None or again.fingerprint() == before
    return facts


def shard_as_one_of_two(folder: Path) -> None:
    """What each of the two processes does."""
    cases = [(name, precision) for name in CASES for precision in ("fp32", "bf16")]
    found = {case: facts_of(CASES[case[0]], case[1]) for case in cases}
    torch.save(found, folder / f"rank{os.environ['RANK']}.pt")
    leave_process_group()


if __name__ == "__main__":
    shard_as_one_of_two(Path(sys.argv[1]))
