"""Folders of dual encoders: what is saved comes back bit by bit, what is wrong with one is said in a line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_encoder_dual import CPU, PRODUCTS, WORDS, families, tiny, vectors

from encoders.dual import DualEncoder, DualOptions, DualRuntime
from moonrec.errors import UserError


def checkpoint(folder: Path, family: str = "clip", dtype: str = "float32") -> DualEncoder:
    """Write a tiny checkpoint in the form of Hugging Face; returns the encoder that it stands for."""
    encoder = tiny(family, dtype=dtype)
    encoder.towers.save_pretrained(folder)
    encoder._checkpoint.save(folder)
    return encoder


@families
def test_a_checkpoint_becomes_the_encoder_of_its_towers(family: str, tmp_path: Path) -> None:
    expected = vectors(checkpoint(tmp_path, family), PRODUCTS)
    encoder = DualEncoder.from_checkpoint(tmp_path, DualOptions(dims=(24,)))
    assert not encoder.training
    assert torch.equal(vectors(encoder, PRODUCTS), expected)


@families
@pytest.mark.parametrize("experts", [0, 3])
def test_what_is_saved_comes_back_bit_by_bit(family: str, experts: int, tmp_path: Path) -> None:
    encoder = tiny(family, dims=(16, 8), regions=False, experts=experts, experts_per_token=1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    encoder.save_pretrained(tmp_path / "model")
    loaded = DualEncoder.from_pretrained(tmp_path / "model")
    assert loaded.config == encoder.config
    assert not loaded.training
    assert loaded.fingerprint() == encoder.fingerprint()
    assert torch.equal(vectors(loaded, PRODUCTS), vectors(encoder, PRODUCTS))


def test_the_precision_of_the_weights_is_kept_or_chosen(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint", dtype="bfloat16")
    kept = DualEncoder.from_checkpoint(tmp_path / "checkpoint", DualOptions(dims=(24,)))
    assert kept.towers.dtype == torch.bfloat16
    assert kept.out.weight.dtype == torch.float32
    kept.save_pretrained(tmp_path / "model")
    again = DualEncoder.from_pretrained(tmp_path / "model")
    assert again.towers.dtype == torch.bfloat16
    assert torch.equal(vectors(again, PRODUCTS), vectors(kept, PRODUCTS))
    wide = DualEncoder.from_pretrained(tmp_path / "model", DualRuntime(dtype="float32", attention="eager"))
    assert wide.towers.dtype == torch.float32
    torch.testing.assert_close(vectors(wide, PRODUCTS), vectors(kept, PRODUCTS), atol=0.02, rtol=0)


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("text_projection.weight")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_the_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def edit(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def larger_tokenizer(folder: Path) -> None:
    more = DualEncoder.tiny([f"{a}{b}" for a in WORDS for b in WORDS] * 9)
    more._checkpoint.tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove("config.json"), "cannot be loaded"),
        (remove("model.safetensors"), "model.safetensors"),
        (remove("preprocessor_config.json"), "preprocessor_config.json"),
        (remove("tokenizer.json"), "cannot be loaded"),
        (drop_a_weight, "1 weights are missing, text_projection.weight for one"),
        (pickle_the_weights, "model.safetensors"),
        (cut_short, "cannot be loaded"),
        (larger_tokenizer, "its tokenizer has [0-9]+ words, its text tower [0-9]+"),
        (edit("config.json", model_type="bert"), "is of the type bert; expected one of clip, siglip"),
        (edit("config.json", text_config=7), "cannot be loaded"),
        (edit("config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evil"), "cannot be loaded"),
        (edit("preprocessor_config.json", crop_size={"height": 48, "width": 48}), "pictures of \\(48, 48\\)"),
        (edit("tokenizer_config.json", tokenizer_class="SiglipTokenizer"), "not installed .*SentencePiece"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said_in_one_line(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    checkpoint(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}.*{says}") as told:
        DualEncoder.from_checkpoint(tmp_path)
    assert "\n" not in str(told.value)


def remove_tree(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove("config.json"), "config.json: no readable encoder configuration"),
        (remove("model.safetensors"), "model.safetensors: does not fit"),
        (cut_short, "model.safetensors: does not fit"),
        (remove_tree("backbone"), "backbone: no such folder"),
        (remove("backbone/config.json"), "backbone: cannot be loaded"),
        (remove("backbone/tokenizer.json"), "backbone: cannot be loaded"),
        (remove("backbone/preprocessor_config.json"), "backbone: cannot be loaded"),
        (edit("config.json", backbone="compact"), "does not describe a dual encoder"),
        (edit("config.json", speed=9), "does not describe a dual encoder"),
        (edit("config.json", dims=[8, 16]), "expected whole numbers from large to small"),
        (edit("config.json", dims=["a"]), "expected whole numbers from large to small"),
        (edit("config.json", dims=12), "expected whole numbers from large to small"),
        (edit("config.json", dims=[16]), "model.safetensors: does not fit"),
        (edit("config.json", regions="yes"), "expected true or false"),
        (edit("config.json", experts=2), "two are forced"),
        (edit("config.json", experts=4, experts_per_token=3), "two are forced"),
        (edit("config.json", experts=-1), "experts -1"),
        (edit("config.json", experts=3, experts_per_token=1), "model.safetensors: does not fit"),
    ],
)
def test_what_is_wrong_with_a_saved_encoder_is_said_in_one_line(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    tiny().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=says) as told:
        DualEncoder.from_pretrained(tmp_path)
    assert str(told.value).startswith(str(tmp_path))
    assert "\n" not in str(told.value)


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(UserError, match="attention 'fast': expected one of sdpa, eager"):
        tiny(attention="fast")
    with pytest.raises(UserError, match="dtype 'float8': expected one of auto, float32"):
        tiny(dtype="float8")
    with pytest.raises(UserError, match="dims \\(\\), expected whole numbers"):
        tiny(dims=())


def test_a_loaded_encoder_reads_products_as_before(tmp_path: Path) -> None:
    encoder = tiny()
    encoder.save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path)
    spool = tmp_path / "spool"
    table = loaded.training_preparer(None, CPU, spool).table([PRODUCTS[:3]], [PRODUCTS[3:]])
    with torch.no_grad():
        assert torch.equal(loaded(table.gather(np.arange(6))), vectors(encoder, PRODUCTS))
