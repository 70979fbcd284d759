"""Towers, tokenizer and picture processor of a checkpoint of CLIP kind, through transformers.

Nothing in a checkpoint is executed or unpickled: weights are safetensors, and code of its own is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from encoders.dual.inputs import SIGLIP
from encoders.dual.options import DualRuntime
from moonrec.errors import UserError

DUAL_TYPES = ("clip", "siglip", "siglip2", "chinese_clip")

_SAFE = {"trust_remote_code": False}


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a checkpoint; `towers` is transformers' model with both of them."""

    towers: Any
    tokenizer: Any
    processor: Any

    @property
    def family(self) -> str:
        """Its model type in transformers."""
        return str(self.towers.config.model_type)

    @property
    def text_length(self) -> int:
        """The most word pieces that the text tower takes."""
        places = int(self.towers.config.text_config.max_position_embeddings)
        return places if self.family in SIGLIP else min(places, int(self.tokenizer.model_max_length))

    @classmethod
    def load(cls, source: str, runtime: DualRuntime) -> Checkpoint:
        """A pretrained checkpoint, by folder or hub name.

        Raises:
            UserError: it is not there, incomplete or not of CLIP kind, or a package that it needs is missing.
        """
        from transformers import AutoModel

        with _told(source):
            config = _config(source)
            towers, report = AutoModel.from_pretrained(
                source,
                config=config,
                dtype=runtime.dtype,
                attn_implementation=runtime.attention,
                use_safetensors=True,
                output_loading_info=True,
                **_SAFE,
            )
            if missing := sorted(report["missing_keys"]):
                raise UserError(
                    f"{source}: {len(missing)} weights are missing, {missing[0]} for one; expected a "
                    f"complete checkpoint of {config.model_type}"
                )
            return cls._complete(source, towers)

    @classmethod
    def rebuild(cls, folder: Path, runtime: DualRuntime) -> Checkpoint:
        """What `save` wrote, with weights still to be loaded.

        Raises:
            UserError: the folder is incomplete or does not describe towers of CLIP kind.
        """
        from transformers import AutoModel

        with _told(str(folder)):
            config = _config(str(folder))
            stored = config.dtype or torch.float32
            dtype = stored if runtime.dtype == "auto" else getattr(torch, runtime.dtype)
            towers = AutoModel.from_config(
                config, dtype=dtype, attn_implementation=runtime.attention, **_SAFE
            )
            return cls._complete(str(folder), towers)

    @classmethod
    def _complete(cls, source: str, towers: Any) -> Checkpoint:
        from transformers import AutoImageProcessor, AutoTokenizer

        local = {"local_files_only": Path(source).exists(), **_SAFE}
        tokenizer = AutoTokenizer.from_pretrained(source, **local)
        # Not torchvision's: it has no CPU build for every torch.
        processor = AutoImageProcessor.from_pretrained(source, backend="pil", **local)
        checkpoint = cls(towers, tokenizer, processor)
        checkpoint._check(source)
        return checkpoint

    def _check(self, source: str) -> None:
        words = int(self.towers.config.text_config.vocab_size)
        if len(self.tokenizer) > words:
            raise UserError(
                f"{source}: its tokenizer has {len(self.tokenizer)} words, its text tower {words}; expected "
                "the tokenizer that the towers were trained with"
            )
        if self.tokenizer.pad_token is None:
            raise UserError(f"{source}: its tokenizer has no padding token; expected one of CLIP kind")
        wanted = getattr(self.towers.config.vision_config, "image_size", None)
        shown = self.processor(images=[Image.new("RGB", (64, 48))], return_tensors="pt")["pixel_values"]
        if wanted is not None and shown.shape[-2:] != (wanted, wanted):
            raise UserError(
                f"{source}: preprocessor_config.json makes pictures of {tuple(shown.shape[-2:])} pixels, the "
                f"image tower wants {wanted}; expected the files of one checkpoint"
            )

    def save(self, folder: Path) -> None:
        """Write everything but the weights."""
        self.towers.config.dtype = self.towers.dtype
        with _quiet():
            for part in (self.towers.config, self.tokenizer, self.processor):
                part.save_pretrained(folder)


def _config(source: str) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=Path(source).exists(), **_SAFE)
    if config.model_type not in DUAL_TYPES:
        raise UserError(
            f"{source}: is of the type {config.model_type}; expected one of {', '.join(DUAL_TYPES)}"
        )
    return config


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Say in one line what is wrong with a checkpoint, on which transformers may raise nearly any type."""
    try:
        with _quiet():
            yield
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: needs a package that is not installed ({reason})") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{source}: cannot be loaded ({reason}); expected a folder or a hub name of a checkpoint of CLIP "
            "kind, with config.json, model.safetensors, preprocessor_config.json and a tokenizer"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings: pages of them on what it filled in, some on its own defaults."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
