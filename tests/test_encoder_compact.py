"""The compact encoder: unit vectors that depend on the product alone, saved and loaded bit by bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import CPU, busy_encoder, random_features, shard_of
from torch import Tensor

from encoders.compact import CompactConfig, CompactEncoder
from encoders.encoder import principal_directions
from encoders.encoding import encode
from encoders.features import FeatureBatch, FeatureTable
from encoders.fusion import masked_mean
from encoders.loading import COMPACT, load_encoder
from encoders.precision import pick_device
from encoders.products import EVERYTHING, IMAGE_ONLY, MODALITIES, TEXT_ONLY, view_of
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]


def cosines(x_ND: Tensor) -> Tensor:
    unit_ND = torch.nn.functional.normalize(x_ND.float(), dim=1)
    return unit_ND @ unit_ND.T


def vectors(encoder: CompactEncoder, batch: FeatureBatch) -> Tensor:
    with torch.no_grad():
        return encoder(batch)


def calibrated(features: FeatureTable) -> CompactEncoder:
    encoder, ready = load_encoder(COMPACT)
    assert not ready
    encoder.calibrate(features)
    return encoder


def test_vectors_have_unit_length_and_those_of_nothing_are_zero() -> None:
    batch = random_features(24).gather(np.arange(24))
    length_B = vectors(busy_encoder(), batch).norm(dim=1)
    empty_B = batch.is_empty_B()
    assert int(empty_B.sum()) == 4
    torch.testing.assert_close(length_B[~empty_B], torch.ones(20), atol=1e-5, rtol=0)
    assert not length_B[empty_B].any()


def test_gradients_are_finite_though_some_products_are_empty() -> None:
    encoder = busy_encoder()
    encoder(random_features(24).gather(np.arange(24))).sum().backward()
    grads = [parameter.grad for parameter in encoder.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_a_product_has_the_same_vector_alone_and_in_a_wide_batch() -> None:
    features, encoder = random_features(24), busy_encoder()
    together = vectors(encoder, features.gather(np.arange(24)))
    for row in range(24):
        alone = vectors(encoder, features.gather(np.array([row])))
        torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=0)


def test_the_order_of_a_batch_does_not_matter() -> None:
    features, encoder = random_features(24), busy_encoder()
    order = np.random.default_rng(1).permutation(24)
    shuffled = vectors(encoder, features.gather(order))
    torch.testing.assert_close(
        shuffled, vectors(encoder, features.gather(np.arange(24)))[order], atol=1e-6, rtol=0
    )


def test_padding_and_missing_pictures_do_not_show_in_the_vector() -> None:
    encoder = busy_encoder()
    batch = random_features(24).gather(np.arange(24))
    padding = ~batch.text_mask_BT[..., None]
    without = ~batch.has_image_B[:, None, None]
    noisy = FeatureBatch(
        batch.image_BGC + 3 * without, batch.has_image_B, batch.text_BTC + 3 * padding, batch.aspect_BT,
        batch.text_mask_BT,
    )  # fmt: skip
    torch.testing.assert_close(vectors(encoder, batch), vectors(encoder, noisy), atol=1e-6, rtol=0)


@pytest.mark.parametrize("modality", MODALITIES)
def test_encoding_in_batches_by_length_gives_every_row_its_own_vector(modality: str) -> None:
    features, encoder, view = random_features(24), busy_encoder().train(), view_of(modality)
    rows = np.array([5, 23, 0, 5, 11, 8])
    found, empty = encode(encoder, features, device=CPU, view=view, rows=rows, batch_size=2)
    assert encoder.training
    batch = features.gather(rows, view)
    expected = vectors(encoder.eval(), batch)
    assert empty.tolist() == batch.is_empty_B().tolist()
    # The CPU may multiply in bf16, with eight bits.
    np.testing.assert_allclose(found, expected.numpy(), atol=0.05)
    assert not found[empty].any()


def test_the_untrained_encoder_keeps_the_towers_cosines(features: FeatureTable) -> None:
    encoder = calibrated(features)
    batch = features.gather(np.arange(len(features)))
    image_BC = batch.image_BGC.float().mean(1)
    text_BC = masked_mean(batch.text_BTC.float(), batch.text_mask_BT)
    for view, tower_BC in ((IMAGE_ONLY, image_BC), (TEXT_ONLY, text_BC)):
        shown = features.gather(np.arange(len(features)), view)
        kept = ~shown.is_empty_B()
        assert int(kept.sum()) > 40
        found_PP = cosines(vectors(encoder, shown)[kept])
        torch.testing.assert_close(found_PP, cosines(tower_BC[kept]), atol=0.01, rtol=0)


def test_both_modalities_weigh_the_same_in_the_untrained_encoder(features: FeatureTable) -> None:
    encoder = calibrated(features)
    both = np.flatnonzero(features.has_image() & features.has_text())
    image, text, joint = (
        cosines(vectors(encoder, features.gather(both, view))) for view in (IMAGE_ONLY, TEXT_ONLY, EVERYTHING)
    )
    torch.testing.assert_close(joint, (image + text) / 2, atol=0.01, rtol=0)


def test_fusion_changes_nothing_at_step_0() -> None:
    features = random_features(24)
    encoder = calibrated(features)
    batch = features.gather(np.arange(24))
    before = vectors(encoder, batch)
    encoder.fusion.blocks = torch.nn.ModuleList()
    torch.testing.assert_close(vectors(encoder, batch), before, atol=0, rtol=0)


@pytest.mark.parametrize(("lengths", "has_image"), [([3, 0, 9], [False] * 3), ([0, 0, 0], [True] * 3)])
def test_a_catalogue_of_one_modality_can_be_calibrated_on(lengths: list[int], has_image: list[bool]) -> None:
    features = FeatureTable([shard_of(lengths, has_image)])
    batch = features.gather(np.arange(3))
    found = vectors(calibrated(features), batch)
    torch.testing.assert_close(found.norm(dim=1), (~batch.is_empty_B()).float(), atol=1e-4, rtol=0)


def test_calibration_is_the_same_every_time_and_depends_on_the_catalogue() -> None:
    first = calibrated(random_features(24)).fingerprint()
    assert calibrated(random_features(24)).fingerprint() == first
    assert calibrated(random_features(24, seed=5)).fingerprint() != first


@pytest.mark.parametrize(("products", "different"), [(1, 1), (2, 2), (3, 3), (10, 10), (100, 2), (2000, 2)])
def test_directions_of_few_different_products_are_found(products: int, different: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds_KC = torch.relu(torch.randn(different, 1280, generator=generator) - 1.5)
    x_NC = kinds_KC[torch.arange(products) % different]
    _, projections = principal_directions(x_NC, 128)
    torch.testing.assert_close(cosines(projections[:10]), cosines(x_NC[:10]), atol=1e-3, rtol=0)


def test_principal_directions_are_those_of_an_svd_largest_first() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NC = torch.randn(50, 12, generator=generator) * torch.arange(1, 13)
    directions, projections = principal_directions(x_NC, 5)
    unit = torch.nn.functional.normalize(x_NC, dim=1)
    expected = torch.linalg.svd(unit, full_matrices=False).Vh[:5]
    torch.testing.assert_close((directions @ expected.T).abs(), torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(projections, unit @ directions.T)


def test_a_saved_encoder_comes_back_bit_by_bit_and_holds_nothing_pickled(tmp_path: Path) -> None:
    encoder = busy_encoder()
    encoder.save_pretrained(tmp_path / "model")
    loaded = CompactEncoder.from_pretrained(tmp_path / "model")
    assert loaded.config == encoder.config
    assert loaded.fingerprint() == encoder.fingerprint()
    assert not loaded.training
    for name, value in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    batch = random_features(24).gather(np.arange(24))
    assert torch.equal(vectors(loaded, batch), vectors(encoder, batch))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_a_run_folder_loads_like_its_model_folder(tmp_path: Path) -> None:
    busy_encoder().save_pretrained(tmp_path / "run" / "model")
    encoder, ready = load_encoder(str(tmp_path / "run"))
    assert ready
    assert encoder.fingerprint() == busy_encoder().fingerprint()


def test_saved_weights_can_be_read_by_whoever_can_read_the_configuration(tmp_path: Path) -> None:
    busy_encoder().save_pretrained(tmp_path)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_the_fingerprint_depends_on_every_weight_and_on_the_configuration() -> None:
    encoder = busy_encoder()
    found = {encoder.fingerprint()}
    for parameter in encoder.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1
        found.add(encoder.fingerprint())
    assert len(found) == 1 + len(list(encoder.parameters()))
    assert CompactEncoder(CompactConfig(dims=(8,))).fingerprint() not in found


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"backbone": "other"},
        {"dims": [0]},
        {"dims": []},
        {"dims": "128"},
        {"dims": [True]},
        {"experts": 2},
        {"experts_per_token": 9},
        {"regions": 1},
        {"width": 10_000},
        {"heads": 3},
        {"layers": 1.5},
        {"trained_towers": "yes"},
        {"dims": [64]},
        {"layers": 3},
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    encoder = busy_encoder()
    encoder.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(encoder.config) | change))
    with pytest.raises(UserError, match=str(tmp_path)) as caught:
        CompactEncoder.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "\0"])
def test_a_configuration_that_is_no_json_object_is_refused(text: str, tmp_path: Path) -> None:
    busy_encoder().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        CompactEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, 20_000])
def test_truncated_weights_are_refused(keep: int, tmp_path: Path) -> None:
    busy_encoder().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        CompactEncoder.from_pretrained(tmp_path)


def test_missing_folders_and_files_are_refused(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "nowhere", "my runs/post", "../nowhere", "a/b/c"):
        with pytest.raises(UserError, match="no such folder"):
            load_encoder(name)
    with pytest.raises(UserError, match=r"config\.json"):
        CompactEncoder.from_pretrained(tmp_path)
    busy_encoder().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        CompactEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cuda:99"])
def test_a_device_that_is_not_there_is_the_users_mistake(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        pick_device(name)
