"""Weights on disk: written without a second copy of them in memory, and refused where they do not fit."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from encoder_helpers import busy_encoder
from safetensors.torch import load_file, save_file
from torch import nn

from encoders.encoder import load_weights, save_weights
from moonrec.atomic import storage_errors
from moonrec.errors import UserError


def test_tensors_that_layers_share_are_stored_for_each_and_come_back(tmp_path: Path) -> None:
    encoder = busy_encoder()
    encoder.tied = nn.Linear(encoder.out.in_features, encoder.out.out_features, bias=False)
    encoder.tied.weight = encoder.out.weight
    encoder.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
    save_weights(encoder, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(stored["tied.weight"], stored["out.weight"])
    expected = {name: value.clone() for name, value in encoder.state_dict().items()}
    for parameter in encoder.parameters():
        nn.init.zeros_(parameter)
    load_weights(encoder, tmp_path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_of_another_shape_are_refused_and_none_is_taken(change: str, tmp_path: Path) -> None:
    encoder = busy_encoder()
    save_weights(encoder, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["out.bias"]
    elif change == "unexpected":
        weights["out.bias2"] = torch.zeros(1)
    else:
        weights["out.bias"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    other = busy_encoder(seed=1)
    before = other.fingerprint()
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit config\.json .*out\.bias"):
        load_weights(other, tmp_path)
    assert other.fingerprint() == before


def test_a_full_disk_is_told_and_the_weights_that_were_there_stay(tmp_path: Path) -> None:
    save_weights(busy_encoder(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"), storage_errors(tmp_path):
            save_weights(busy_encoder(seed=1), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
