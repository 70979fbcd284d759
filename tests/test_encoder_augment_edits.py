"""Pictures edited by a pipeline of diffusers: a tiny one, built here, saved, and loaded as a large one is."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from encoder_helpers import CPU, picture
from PIL import Image

from encoders.augment.edit_instructions import instruction, instructions
from encoders.augment.editing_pipeline import _is_editor
from encoders.augment.images_diffusers import EditedImages
from encoders.mllm.tiny import train_tokenizer
from encoders.products import Aspect, Product
from moonrec.errors import UserError

MUG = Product("a", picture(0, 40), ((Aspect.TITLE, "red {mug}"),))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InstructPix2Pix with a few thousand weights."""
    from transformers import CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = train_tokenizer(text for texts in instructions().values() for text in texts)
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    blocks = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 2}
    pipeline: Any = diffusers.StableDiffusionInstructPix2PixPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            **blocks,
        ),
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            **blocks,
        ),
        scheduler=diffusers.EulerAncestralDiscreteScheduler(),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        safety_checker=_safety_checker(),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16),
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny-edit"
    pipeline.save_pretrained(folder)
    return folder


def _safety_checker() -> Any:
    """One that lets everything pass: no similarity is over its thresholds, which are 1."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=8))


@pytest.fixture(scope="module")
def edited(checkpoint: Path) -> EditedImages:
    return EditedImages.from_checkpoint(str(checkpoint), CPU, steps=2)


def test_a_loaded_pipeline_edits_pictures_as_large_as_the_original(edited: EditedImages) -> None:
    first, second = edited.variants(MUG, 2, np.random.default_rng(0))
    assert first.source == second.source == edited.name == "edited:tiny-edit"
    assert first.image.mode == "RGB"
    assert first.image.size == (40, 40)
    assert first.image.tobytes() != second.image.tobytes()


def test_the_same_seed_gives_the_same_edits_and_another_one_others(edited: EditedImages) -> None:
    first, again, other = (
        edited.variants(MUG, 1, np.random.default_rng(seed))[0].image.tobytes() for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_weights_of_the_checkpoint_are_those_that_edit(checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    unet = diffusers.UNet2DConditionModel.from_pretrained(other / "unet")
    with torch.no_grad():
        unet.conv_out.weight.zero_()
    unet.save_pretrained(other / "unet")
    made = [
        EditedImages.from_checkpoint(str(folder), CPU, steps=2).variants(MUG, 1, np.random.default_rng(0))[0]
        for folder in (checkpoint, other)
    ]
    assert made[0].image.tobytes() != made[1].image.tobytes()


def test_a_fingerprint_tells_weights_and_steps_but_not_the_place(checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(checkpoint, tmp_path / "elsewhere" / checkpoint.name)

    def of(folder: Path, steps: int = 2) -> str:
        return EditedImages.from_checkpoint(str(folder), CPU, steps=steps).fingerprint()

    before = of(checkpoint)
    assert of(moved) == before != of(moved, steps=3)
    scheduler = moved / "scheduler" / "scheduler_config.json"
    config = json.loads(scheduler.read_text(encoding="utf-8"))
    scheduler.write_text(json.dumps(config | {"beta_end": 0.5}), encoding="utf-8")
    rescheduled = of(moved)
    unet = diffusers.UNet2DConditionModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        unet.conv_out.bias.add_(1)
    unet.save_pretrained(moved / "unet")
    assert len({before, rescheduled, of(moved)}) == 3


@pytest.mark.parametrize("data", [None, b"", b"not a picture", picture(0)[:60]])
def test_without_a_usable_picture_nothing_is_edited(edited: EditedImages, data: bytes | None) -> None:
    assert edited.variants(Product("a", data, ()), 2, np.random.default_rng(0)) == []


@pytest.mark.parametrize("size", [(90, 23), (700, 40)])
def test_odd_sizes_are_edited_within_bounds(edited: EditedImages, size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    (made,) = edited.variants(Product("a", stream.getvalue(), ()), 1, np.random.default_rng(0))
    assert max(made.image.size) == min(512, size[0])
    assert made.image.width / made.image.height == pytest.approx(size[0] / size[1], rel=0.05)


def test_what_the_safety_checker_rejects_is_left_out(checkpoint: Path) -> None:
    strict = EditedImages.from_checkpoint(str(checkpoint), CPU, steps=1)
    thresholds = strict._pipeline.safety_checker.concept_embeds_weights
    assert len(strict.variants(MUG, 2, np.random.default_rng(0))) == 2
    thresholds.data.fill_(-2)
    assert strict.variants(MUG, 2, np.random.default_rng(0)) == []


def test_a_long_title_leaves_room_for_the_instruction() -> None:
    rng = np.random.default_rng(0)
    for title in ("word " * 500, "x" * 5000, ""):
        words = instruction("background", Product("a", None, ((Aspect.TITLE, title),)), rng)
        assert len(words) < 200
        assert words.endswith((".", "product."))


def _without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _changed_index(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


def _broken_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("[1]", encoding="utf-8")


def _without_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def _pickled_weights(folder: Path) -> None:
    _without_weights(folder)
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")


def _damaged_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)


def _missing_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_out.weight"]
    save_file(weights, path)


def _own_code(folder: Path) -> None:
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    _changed_index(unet=["evil", "Evil"])(folder)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without_index, "holds no model_index.json"),
        (_broken_index, "not a mapping"),
        (_changed_index(_class_name="StableDiffusionPipeline"), "does not edit pictures"),
        (_changed_index(_class_name="StableDiffusionImg2ImgPipeline"), "does not edit pictures"),
        (_changed_index(_class_name="NoSuchPipeline"), "does not edit pictures"),
        (_changed_index(_class_name=["pipeline", "Own"]), "does not edit pictures"),
        (_changed_index(unet=["os", "system"]), "only diffusers and transformers are trusted"),
        (_own_code, "only diffusers and transformers are trusted"),
        (_without_weights, "cannot be loaded as a pipeline"),
        (_pickled_weights, "cannot be loaded as a pipeline"),
        (_damaged_weights, "cannot be loaded as a pipeline"),
        (_missing_weights, "weights are missing"),
    ],
)
def test_a_folder_that_is_no_editing_pipeline_is_told_in_one_line(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        EditedImages.from_checkpoint(str(folder), CPU)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-folder", "./no/such", "/no/such", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_told(name: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        EditedImages.from_checkpoint(name, CPU)


def test_pipelines_that_follow_instructions_are_told_from_those_that_repaint_or_want_a_mask() -> None:
    editors = ["StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"]
    editors += ["QwenImageEditPipeline", "QwenImageEditPlusPipeline", "FluxKontextPipeline", "Flux2Pipeline"]
    others = ["StableDiffusionPipeline", "QwenImageEditInpaintPipeline", "FluxKontextInpaintPipeline"]
    others += ["StableDiffusionUpscalePipeline", "ChronoEditPipeline", "UNet2DConditionModel"]
    assert all(_is_editor(getattr(diffusers, name)) for name in editors)
    assert not any(_is_editor(getattr(diffusers, name)) for name in others)


def test_a_missing_diffusers_is_told_with_the_command_that_installs_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r'pip install "moonrec\[edit\]"'):
        EditedImages.from_checkpoint(str(checkpoint), CPU)
