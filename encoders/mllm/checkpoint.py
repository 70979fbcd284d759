"""Checkpoints of the Qwen-VL families: from a folder or the hub, and rebuilt without either.

Only safetensors are read, nothing is unpickled, and no code that a checkpoint brings along is run. Image
processors are those on Pillow: they need no torchvision, and give the same patches on every machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.mllm.options import MllmRuntime
from moonrec.errors import UserError

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# In which coordinates a family answers when it is asked for a box: those of the picture that it was shown
# (`Reader.seen_size`), or thousandths of width and height.
BOX_SCALES = {"qwen2_vl": "thousand", "qwen2_5_vl": "pixels", "qwen3_vl": "thousand"}


@dataclass(frozen=True)
class Checkpoint:
    """A model of transformers with all that turns words and pictures into its input."""

    model: Any
    tokenizer: Any
    image_processor: Any


def load_checkpoint(name_or_path: str, runtime: MllmRuntime) -> Checkpoint:
    """A checkpoint with its weights.

    Args:
        name_or_path: a folder as `save_pretrained` of transformers writes it, or `owner/name` on the hub.
        runtime: precision and attention kernel.

    Raises:
        UserError: there is none, it is incomplete, or of a family that is not supported.
    """
    if Path(name_or_path).is_dir():
        _check_folder(Path(name_or_path))
    elif name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
        raise UserError(
            f"{name_or_path}: no such folder; expected a checkpoint: a folder, or owner/name on the hub"
        )
    try:
        return _load(name_or_path, runtime)
    except UserError:
        raise
    except Exception as error:  # on incomplete or damaged checkpoints transformers raises nearly any type
        raise UserError(f"{name_or_path}: cannot be loaded as a checkpoint ({_first(error)})") from error


def rebuild_checkpoint(folder: Path, runtime: MllmRuntime) -> Checkpoint:
    """What `save_backbone` wrote, with memory for the weights that has not been filled.

    Raises:
        UserError: the folder is incomplete, or describes no model of a supported family.
    """
    _check_family(_read_json(folder / "config.json"), folder / "config.json")
    try:
        from transformers import AutoConfig, AutoModelForImageTextToText
        from transformers.initialization import no_init_weights

        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        dtype = config.dtype if runtime.dtype == "auto" else runtime.dtype
        with no_init_weights():
            model = AutoModelForImageTextToText.from_config(
                config, dtype=dtype, attn_implementation=runtime.attention
            )
        model.tie_weights()
        return Checkpoint(model, *_readers(str(folder)))
    except Exception as error:  # as above
        raise UserError(f"{folder}: the model cannot be rebuilt from it ({_first(error)})") from error


def save_backbone(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what `rebuild_checkpoint` needs: all but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.model.config.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    checkpoint.image_processor.save_pretrained(folder)


def language_model_of(model: Any) -> Any:
    """The text transformer in a Qwen-VL model."""
    return model.model.language_model


def _load(name_or_path: str, runtime: MllmRuntime) -> Checkpoint:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(name_or_path)
    _check_family(config.to_dict(), name_or_path)
    model, found = AutoModelForImageTextToText.from_pretrained(
        name_or_path,
        config=config,
        dtype=runtime.dtype,
        attn_implementation=runtime.attention,
        use_safetensors=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise UserError(f"{name_or_path}: {len(missing)} weights are missing, among them {missing[0]}")
    return Checkpoint(model, *_readers(name_or_path))


def _readers(name_or_path: str) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

    return (
        AutoTokenizer.from_pretrained(name_or_path),
        Qwen2VLImageProcessorPil.from_pretrained(name_or_path),
    )


def _check_folder(folder: Path) -> None:
    _check_family(_read_json(folder / "config.json"), folder / "config.json")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: holds no *.safetensors; other weights are not read, save it again with "
            "save_pretrained(safe_serialization=True)"
        )
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: incomplete checkpoint, there is no {name}")


def _check_family(config: dict[str, Any], where: object) -> None:
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{where}: model_type {family!r} is not supported; expected {', '.join(FAMILIES)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON; expected a checkpoint's configuration") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not readable as JSON; expected a checkpoint's configuration")
    return values


def _first(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
