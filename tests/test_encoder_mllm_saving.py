from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mllm_case import FAMILIES, encoder_of, product
from safetensors.torch import load_file, save_file

from encoders.mllm.encoder import MllmEncoder
from encoders.mllm.options import MllmOptions, MllmRuntime
from encoders.mllm.tiny import Family
from moonrec.errors import UserError

PRODUCTS = [product(1, region=True), product(2, image=False), product(3)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    encoder_of(experts=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = encoder_of()
    encoder.model.save_pretrained(folder)
    encoder.reader.tokenizer.save_pretrained(folder)
    encoder.reader.image_processor.save_pretrained(folder)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            target = to / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"experts": 4, "expert_every": 2, "lora_rank": 2, "regions": False, "title_tokens": 3},
        {"experts": 3, "experts_per_token": 1, "dtype": "auto"},
    ],
)
def test_a_loaded_encoder_gives_the_same_bits(
    family: Family, options: dict[str, Any], tmp_path: Path
) -> None:
    encoder = encoder_of(family, **options)
    encoder.save_pretrained(tmp_path)
    loaded = MllmEncoder.from_pretrained(tmp_path)
    assert loaded.config == encoder.config
    assert loaded.fingerprint() == encoder.fingerprint()
    assert not loaded.training
    with torch.no_grad():
        first = encoder(encoder.reader.products(PRODUCTS))
        second = loaded(loaded.reader.products(PRODUCTS))
    assert torch.equal(first, second)
    prompt = ["what is it"]
    assert loaded.generate([None], prompt, 4) == encoder.generate([None], prompt, 4)
    trained = {name for name, one in encoder.named_parameters() if one.requires_grad}
    assert trained == {name for name, one in loaded.named_parameters() if one.requires_grad}


def test_how_it_runs_is_chosen_at_loading(saved: Path) -> None:
    exact = MllmEncoder.from_pretrained(saved)
    with torch.no_grad():
        wanted = exact(exact.reader.products(PRODUCTS))
        for runtime, tolerance in ((MllmRuntime(attention="eager"), 1e-5), (MllmRuntime("bfloat16"), 0.05)):
            other = MllmEncoder.from_pretrained(saved, runtime)
            found = other(other.reader.products(PRODUCTS))
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)
    assert other.model.dtype == torch.bfloat16


def test_an_encoder_over_a_checkpoint_keeps_its_weights(checkpoint: Path) -> None:
    loaded = MllmEncoder.from_checkpoint(str(checkpoint), MllmOptions(dims=(32,), max_pixels=112 * 112))
    encoder = encoder_of()
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.pooled(loaded.reader.products(PRODUCTS)),
            encoder.pooled(encoder.reader.products(PRODUCTS)),
        )
    assert not loaded.config.from_scratch


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no .*safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "not readable as JSON"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "there is no tokenizer_config.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "there is no preprocessor_config"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{}"), "cannot be loaded"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "llava"}'),
            "'llava' is not supp",
        ),
        (lambda folder: (folder / "config.json").write_text("[]"), "not readable as JSON"),
        (lambda folder: drop_weight(folder), "weights are missing"),
    ],
)
def test_an_unusable_checkpoint_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, spoil: Any, said: str
) -> None:
    folder = copy_of(checkpoint, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        MllmEncoder.from_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in sorted(weights) if "q_proj.weight" in name))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "backbone" / "config.json").unlink(), "backbone/config.json"),
        (lambda folder: (folder / "backbone" / "tokenizer.json").unlink(), "cannot be rebuilt"),
        (lambda folder: (folder / "backbone" / "preprocessor_config.json").unlink(), "cannot be rebuilt"),
        (lambda folder: change(folder, "config.json", experts=0), "does not fit"),
        (lambda folder: change(folder, "config.json", dims=[48]), "does not fit"),
        (lambda folder: change(folder, "config.json", dims="many"), "dims 'many'"),
        (lambda folder: change(folder, "config.json", experts=True), "experts True"),
        (lambda folder: change(folder, "config.json", regions=1), "regions 1"),
        (lambda folder: change(folder, "config.json", colour="red"), "does not describe an mllm encoder"),
        (lambda folder: change(folder, "backbone/config.json", model_type="gpt2"), "'gpt2' is not supported"),
        (lambda folder: change(folder, "backbone/config.json", text_config="none"), "cannot be rebuilt"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(saved: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    folder = copy_of(saved, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        MllmEncoder.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_folder_is_refused() -> None:
    with pytest.raises(UserError, match="no such folder"):
        MllmEncoder.from_checkpoint("./nowhere")


def test_nothing_of_a_checkpoint_is_unpickled(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="other weights are not read"):
        MllmEncoder.from_checkpoint(str(folder))
