"""Image-editing pipelines of diffusers, from a folder or the hub: checked before anything of them is run.

A pipeline's `model_index.json` names the classes that it is made of. Only those of diffusers and transformers
are taken: no code that a checkpoint brings along runs, and only safetensors are read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from encoders.encoder import bytes_of
from encoders.precision import has_fast_bf16
from moonrec.errors import UserError

# Parts of the names of pipelines that follow instructions; others that take a picture repaint it, enlarge it
# or trace it. Those of video and those that want a mask are told apart by what they take.
_EDITORS = ("InstructPix2Pix", "Edit", "Kontext", "Flux2")
_OTHER_INPUTS = {"mask_image", "num_frames", "strength"}
_EXPECTED = (
    "expected a pipeline that edits a picture by an instruction, such as InstructPix2Pix, Qwen-Image-Edit or "
    "FLUX Kontext"
)


def load_editing_pipeline(name_or_path: str, device: torch.device) -> Any:
    """An image-editing pipeline on its device, bf16 where that is fast.

    Args:
        name_or_path: a folder as `save_pretrained` of diffusers writes it, or `owner/name` on the hub.
        device: where it runs.

    Raises:
        UserError: diffusers is not installed, or there is no such pipeline, it is incomplete, does not edit
            pictures, or brings its own code.
    """
    diffusers = _diffusers()
    _check_name(name_or_path)
    _check_index(_index(name_or_path, diffusers), name_or_path, diffusers)
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            name_or_path, torch_dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # on incomplete or damaged checkpoints diffusers raises nearly any type
        raise UserError(f"{name_or_path}: cannot be loaded as a pipeline ({_first(error)})") from error
    _check_weights(pipeline, name_or_path)
    pipeline.set_progress_bar_config(disable=True)
    try:
        return pipeline.to(device)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name_or_path}: does not fit into the memory of {device}; name a smaller one, or --device cpu"
        ) from error


def pipeline_fingerprint(pipeline: Any) -> str:
    """A digest of a pipeline's parts: kinds, configurations, vocabularies and every weight."""
    hasher = hashlib.sha256(type(pipeline).__name__.encode())
    for part, component in sorted(pipeline.components.items()):
        vocabulary = component.get_vocab() if hasattr(component, "get_vocab") else {}
        told = [part, type(component).__name__, _settings(component), vocabulary]
        hasher.update(json.dumps(told, sort_keys=True, default=str).encode())
        weights = component.state_dict() if isinstance(component, torch.nn.Module) else {}
        for name, value in sorted(weights.items()):
            hasher.update(name.encode())
            hasher.update(bytes_of(value))
    return hasher.hexdigest()


def _settings(component: Any) -> dict[str, Any]:
    """The configuration of a model, scheduler or processor, without where it was loaded from."""
    config = getattr(component, "config", component)
    to_dict = getattr(config, "to_dict", None)
    values = to_dict() if to_dict is not None else config if isinstance(config, Mapping) else {}
    return {key: value for key, value in values.items() if not key.startswith("_")}


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            'editing pictures with a model needs the package diffusers; run: pip install "moonrec[edit]"'
        ) from error
    return diffusers


def _check_name(name_or_path: str) -> None:
    if Path(name_or_path).is_dir():
        if not (Path(name_or_path) / "model_index.json").is_file():
            raise UserError(f"{name_or_path}: holds no model_index.json; {_EXPECTED}")
    elif name_or_path.count("/") != 1 or name_or_path.startswith((".", "/", "~")):
        raise UserError(
            f"{name_or_path}: no such folder; expected a pipeline of diffusers: a folder, or owner/name on "
            "the hub"
        )


def _index(name_or_path: str, diffusers: Any) -> dict[str, Any]:
    try:
        if Path(name_or_path).is_dir():
            text = (Path(name_or_path) / "model_index.json").read_text(encoding="utf-8")
            index = json.loads(text)
        else:
            index = diffusers.DiffusionPipeline.load_config(name_or_path)
    except Exception as error:  # a hub that cannot be reached raises nearly any type
        reason = _first(error)
        raise UserError(f"{name_or_path}: model_index.json cannot be read ({reason}); {_EXPECTED}") from error
    if not isinstance(index, dict):
        raise UserError(f"{name_or_path}: model_index.json is not a mapping; {_EXPECTED}")
    return index


def _check_index(index: dict[str, Any], where: str, diffusers: Any) -> None:
    kind = index.get("_class_name")
    if not _is_editor(getattr(diffusers, kind, None) if isinstance(kind, str) else None):
        raise UserError(f"{where}: is a {kind!r}, which does not edit pictures; {_EXPECTED}")
    for part, origin in index.items():
        if part.startswith("_") or not isinstance(origin, list):
            continue
        if not origin or (origin[0] is not None and not _is_known(origin[0], diffusers)):
            raise UserError(
                f"{where}: its part {part!r} is of {origin[:1]}; only diffusers and transformers are trusted"
            )


def _check_weights(pipeline: Any, where: str) -> None:
    """diffusers leaves a weight that is not in the file without memory, and only warns."""
    for part, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            missing = sorted(name for name, weight in module.named_parameters() if weight.is_meta)
            if missing:
                raise UserError(f"{where}: {len(missing)} weights are missing in {part}, as {missing[0]}")


def _is_editor(kind: Any) -> bool:
    if not inspect.isclass(kind) or not issubclass(kind, _diffusers().DiffusionPipeline):
        return False
    taken = inspect.signature(kind.__call__).parameters.keys()
    named = any(part in kind.__name__ for part in _EDITORS)
    return named and {"image", "prompt"} <= taken and not _OTHER_INPUTS & taken


def _is_known(library: Any, diffusers: Any) -> bool:
    """Whether a part's class is in diffusers or transformers, or in the module of a pipeline of diffusers."""
    if not isinstance(library, str):
        return False
    if library in ("diffusers", "transformers"):
        return True
    module = getattr(diffusers.pipelines, library, None)
    return inspect.ismodule(module) and sys.modules.get(f"diffusers.pipelines.{library}") is module


def _first(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
