"""Unguided experts, all of which are routed to: how encoders come by them, keep them and refuse to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from encoder_helpers import CPU, Shop
from mllm_case import encoder_of, product

from encoders.compact import CompactConfig, CompactEncoder
from encoders.dual import DualEncoder, DualOptions
from encoders.encoder import Encoder
from encoders.loading import COMPACT, StartOptions, load_encoder, start_encoder
from moonrec.cli import main
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]


def compact(**options: Any) -> Encoder:
    return CompactEncoder(CompactConfig(dims=(24,), width=32, **options))


def dual(**options: Any) -> Encoder:
    return DualEncoder.tiny(("red", "mug"), options=DualOptions(dims=(24,), **options))


def mllm(**options: Any) -> Encoder:
    return encoder_of(**options)


each_backbone = pytest.mark.parametrize("make", [compact, dual, mllm])


def saved(encoder: Encoder, folder: Path) -> str:
    encoder.save_pretrained(folder / "model")
    return str(folder)


@torch.no_grad()
def vectors(encoder: Encoder) -> torch.Tensor:
    encoder.eval()
    table = encoder.preparer(None, CPU).table([[product(1), product(2), product(3, image=False)]])
    return encoder(table.gather(np.arange(3)))


def forced(encoder: Encoder) -> set[int]:
    return {one.forced for one in encoder.guided_experts()}


@each_backbone
@pytest.mark.parametrize("guided", [True, False])
def test_a_run_keeps_whether_its_experts_are_guided(
    make: Callable[..., Encoder], guided: bool, tmp_path: Path
) -> None:
    encoder = make(experts=4, guided=guided)
    name = saved(encoder, tmp_path)
    for options in (StartOptions(), StartOptions(guided=guided, stage="posttrain")):
        loaded, _ = start_encoder(name, options)
        assert forced(loaded) == {2 if guided else 0}
        assert loaded.fingerprint() == encoder.fingerprint()
        assert torch.equal(vectors(loaded), vectors(encoder))
    other = StartOptions(guided=not guided)
    with pytest.raises(UserError, match=f"--guided: .* was built with {guided}"):
        start_encoder(name, other)


@each_backbone
def test_a_run_of_before_there_was_a_choice_is_guided(make: Callable[..., Encoder], tmp_path: Path) -> None:
    name = saved(make(experts=4), tmp_path)
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    del values["guided"]
    path.write_text(json.dumps(values))
    assert forced(load_encoder(name)[0]) == {2}
    path.write_text(json.dumps(values | {"guided": "no"}))
    with pytest.raises(UserError, match=r"guided.* true or false"):
        load_encoder(name)


@each_backbone
def test_unguided_all_experts_can_be_one_tokens(make: Callable[..., Encoder], tmp_path: Path) -> None:
    name = saved(make(experts=2, experts_per_token=2, guided=False), tmp_path)
    assert forced(load_encoder(name)[0]) == {0}
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"experts_per_token": 2', '"experts_per_token": 3'))
    with pytest.raises(UserError, match=r"2 experts.* 3 per token"):
        load_encoder(name)


@pytest.mark.parametrize("make", [compact, mllm])
def test_a_dense_run_is_given_unguided_experts_that_change_nothing(
    make: Callable[..., Encoder], tmp_path: Path
) -> None:
    dense = make(experts=0)
    options = StartOptions(experts=4, guided=False, stage="posttrain")
    encoder, _ = start_encoder(saved(dense, tmp_path), options)
    assert (forced(encoder), encoder.config.guided) == ({0}, False)
    torch.testing.assert_close(vectors(encoder), vectors(dense), atol=1e-5, rtol=0)


def test_a_dense_run_remembers_how_its_experts_are_to_be(tmp_path: Path) -> None:
    name = saved(mllm(experts=0, guided=False), tmp_path)
    assert forced(start_encoder(name, StartOptions(stage="posttrain"))[0]) == {0}
    guided = start_encoder(name, StartOptions(stage="posttrain", guided=True))[0]
    assert (forced(guided), guided.config.guided) == ({2}, True)
    assert not start_encoder(name, StartOptions(guided=True))[0].guided_experts()


def test_a_dense_dual_run_is_given_no_experts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--experts: .* was built with 0"):
        start_encoder(saved(dual(), tmp_path), StartOptions(experts=4))


def test_numbers_of_experts_are_refused_that_only_unguided_ones_can_have() -> None:
    few = StartOptions(experts=2, experts_per_token=1, guided=False)
    assert forced(start_encoder(COMPACT, few)[0]) == {0}
    with pytest.raises(UserError, match="two are for category and attributes"):
        start_encoder(COMPACT, StartOptions(experts=2, experts_per_token=1))
    with pytest.raises(UserError, match=r"2 experts, 3 per token: say --experts 0"):
        start_encoder(COMPACT, StartOptions(experts=2, experts_per_token=3, guided=False))


def test_the_command_trains_unguided_experts_and_says_who_saw_what(shop: Shop, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["--no-guided", "--epochs", "1", "--batch-size", "16", "--no-regions", "--device", "cpu"]
    command = ["pretrain", "--items", shop.items, "--cache", shop.cache, *flags, "-o", str(run)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert forced(load_encoder(str(run))[0]) == {0}
    shares = json.loads((run / "metrics.json").read_text())["experts"]
    assert shares["category"][0] < 1
    assert sum(shares["image"][:2]) > 0
    assert all(len(of) == 6 and sum(of) == pytest.approx(1) for of in shares.values())
