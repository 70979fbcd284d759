"""What an encoder becomes where it is used, pretrained and post-trained: experts, adapters and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import CPU, busy_encoder
from mllm_case import encoder_of, product

from encoders.compact import CompactConfig, CompactEncoder
from encoders.dual import DualEncoder, DualOptions
from encoders.encoder import Encoder
from encoders.launch import default_chunk, needs_find_unused
from encoders.loading import Stage, StartOptions, load_encoder, start_encoder
from encoders.raw_products import RawTable
from encoders.towers import Towers
from moonrec.errors import UserError

HALF, FULL = {torch.bfloat16}, {torch.float32}
STAGES: tuple[Stage, ...] = ("use", "pretrain", "posttrain")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of an MLLM without experts and adapters, stored in bf16."""
    return saved(encoder_of(dtype="bfloat16"), tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run of an MLLM in bf16 with experts and adapters."""
    encoder = encoder_of(experts=4, lora_rank=4, dtype="bfloat16")
    return saved(encoder, tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as transformers writes it, in bf16."""
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = encoder_of(dtype="bfloat16")
    for part in (encoder.model, encoder.reader.tokenizer, encoder.reader.image_processor):
        part.save_pretrained(folder)
    return str(folder)


def saved(encoder: Encoder, folder: Path) -> str:
    encoder.save_pretrained(folder / "model")
    return str(folder)


def start(name: str, **options: Any) -> Encoder:
    return start_encoder(name, StartOptions(**options))[0]


def precisions(encoder: Encoder, *, trained: bool) -> set[torch.dtype]:
    """Of the model's parameters, without `out`, which is always float32."""
    named = [(name, one) for name, one in encoder.named_parameters() if not name.startswith("out.")]
    return {one.dtype for _, one in named if one.requires_grad == trained}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["dense", "checkpoint"])
def test_an_mllm_is_given_experts_where_post_training_starts(
    kind: str, stage: Stage, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(kind)
    experts = 6 if stage == "posttrain" else 0
    assert start(name, stage=stage).config.experts == experts
    assert start(name, stage=stage, experts=0).config.experts == 0
    assert start(name, stage=stage, experts=4, experts_per_token=1).config.experts == 4


def test_an_encoder_with_experts_or_adapters_keeps_what_it_has(adapted: str, tmp_path: Path) -> None:
    only_adapters = saved(encoder_of(lora_rank=2), tmp_path / "adapters")
    only_experts = saved(encoder_of(experts=4), tmp_path / "experts")
    assert start(only_adapters, stage="posttrain").config.experts == 0
    assert start(only_experts, stage="posttrain").config.experts == 4
    loaded = start(adapted, stage="posttrain", lora_rank=4).config
    assert (loaded.experts, loaded.lora_rank) == (4, 4)
    with pytest.raises(UserError, match=r"--lora-rank: .* was built with 4"):
        start(adapted, stage="posttrain", lora_rank=16)
    compact = saved(CompactEncoder(CompactConfig(experts=0)), tmp_path / "compact")
    assert start(compact, stage="posttrain").config.experts == 0


def test_a_dense_encoder_is_given_experts_and_adapters_at_once(dense: str) -> None:
    encoder = start(dense, stage="posttrain", experts=4, lora_rank=2)
    assert (encoder.config.experts, encoder.config.lora_rank) == (4, 2)
    trained = [name for name, one in encoder.named_parameters() if one.requires_grad]
    for part in ("lora_A", ".experts.", ".router"):
        assert any(part in name for name in trained)


@pytest.mark.parametrize("kind", ["dense", "checkpoint"])
def test_weights_are_float32_where_all_of_them_are_trained(kind: str, request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue(kind)
    for stage, expected in (("use", HALF), ("pretrain", FULL), ("posttrain", FULL)):
        assert precisions(start(name, stage=stage), trained=True) == expected
        assert precisions(start(name, stage=stage, dtype="bfloat16"), trained=True) == HALF
    low = start(name, stage="posttrain", experts=4, lora_rank=2)
    assert precisions(low, trained=False) == HALF
    assert precisions(low, trained=True) == FULL


def test_the_frozen_weights_beside_adapters_stay_as_they_are_stored(adapted: str) -> None:
    before = encoder_of(experts=4, lora_rank=4, dtype="bfloat16").fingerprint()
    for stage in STAGES:
        encoder = start(adapted, stage=stage)
        assert (precisions(encoder, trained=False), precisions(encoder, trained=True)) == (HALF, FULL)
        assert encoder.fingerprint() == before
    found = encoder(encoder.preparer(None, CPU).table([[product(1), product(2)]]).gather(np.arange(2)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_the_towers_of_a_dual_encoder_are_trained_in_float32(tmp_path: Path) -> None:
    options = DualOptions(dims=(24,), dtype="bfloat16")
    name = saved(DualEncoder.tiny(("red", "cup"), options=options), tmp_path)
    assert precisions(start(name, stage="use"), trained=True) == HALF
    for stage in STAGES[1:]:
        assert precisions(start(name, stage=stage), trained=True) == FULL


def test_trained_towers_are_frozen_features_until_they_are_to_be_trained(tmp_path: Path) -> None:
    own = CompactEncoder(CompactConfig(width=32, trained_towers=True), towers=Towers())
    name = saved(own, tmp_path)
    frozen, _ = load_encoder(name)
    trained = start(name, train_towers=True, stage="posttrain")
    assert not needs_find_unused(frozen)
    assert needs_find_unused(trained)
    assert not any("towers" in key for key, one in frozen.named_parameters() if one.requires_grad)
    assert any("towers" in key for key, one in trained.named_parameters() if one.requires_grad)
    assert frozen.fingerprint() == own.fingerprint() == trained.fingerprint()


def test_chunks_and_unused_parameters_go_by_the_backbone() -> None:
    dual = DualEncoder.tiny(("red", "cup"))
    for encoder, chunk, unused in ((busy_encoder(), 0, False), (dual, 0, True), (encoder_of(), 16, True)):
        assert default_chunk(encoder, None) == chunk
        assert default_chunk(encoder, 5) == 5
        assert default_chunk(encoder, 0) == 0
        assert needs_find_unused(encoder) == unused


def test_an_mllm_spools_what_it_trains_on_into_the_folder_of_the_run(tmp_path: Path) -> None:
    encoder = encoder_of()
    table = encoder.training_preparer(None, CPU, tmp_path / "spool").table([[product(1)]])
    assert isinstance(table, RawTable)
    assert (tmp_path / "spool").is_dir()
