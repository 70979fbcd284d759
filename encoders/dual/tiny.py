"""Small random checkpoints of CLIP kind, with a tokenizer made from given texts; for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

from encoders.dual.checkpoint import DUAL_TYPES, Checkpoint
from encoders.dual.options import DualRuntime
from moonrec.errors import UserError

_IMAGE_SIZE, _PATCH_SIZE = 32, 8
_PATCHES = (_IMAGE_SIZE // _PATCH_SIZE) ** 2
_WIDTH = 24
_WORDS = 512
_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT_LENGTH = {"clip": 77, "siglip": 64, "siglip2": 64, "chinese_clip": 128}


def tiny_checkpoint(texts: Iterable[str], family: str, runtime: DualRuntime) -> Checkpoint:
    """Towers with random weights (drawn from torch's generator), 32 pixel pictures, a space of 24 dimensions.

    Raises:
        UserError: `family` is not known.
    """
    from transformers import AutoConfig, AutoModel

    if family not in DUAL_TYPES:
        raise UserError(f"family {family!r}: expected one of {', '.join(DUAL_TYPES)}")
    make_tokenizer = _siglip2_tokenizer if family == "siglip2" else _tokenizer
    tokenizer = make_tokenizer(texts, _TEXT_LENGTH[family])
    config = AutoConfig.for_model(family, **_sizes(family, tokenizer))
    dtype = torch.bfloat16 if runtime.dtype == "bfloat16" else torch.float32
    towers = AutoModel.from_config(config, dtype=dtype, attn_implementation=runtime.attention)
    return Checkpoint(towers, tokenizer, _processor(family))


def _sizes(family: str, tokenizer: Any) -> dict[str, Any]:
    text = _LAYERS | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _TEXT_LENGTH[family],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = _LAYERS | {"patch_size": _PATCH_SIZE}
    vision |= {"num_patches": _PATCHES} if family == "siglip2" else {"image_size": _IMAGE_SIZE}
    if family in ("siglip", "siglip2"):
        # Their image tower has no projection: its width is that of the common space.
        vision |= {"hidden_size": _WIDTH}
        return {"text_config": text | {"projection_size": _WIDTH}, "vision_config": vision}
    return {"text_config": text, "vision_config": vision, "projection_dim": _WIDTH}


def _tokenizer(texts: Iterable[str], length: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=["<bos>", "<eos>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=length,
    )


def _siglip2_tokenizer(texts: Iterable[str], length: int) -> Any:
    """For this family transformers takes no other class of tokenizer, whatever the files say."""
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import Siglip2Tokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=special,
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return Siglip2Tokenizer(vocab=model["vocab"], merges=merges, model_max_length=length)


def _processor(family: str) -> Any:
    import transformers

    if family == "siglip2":
        return transformers.Siglip2ImageProcessorPil(patch_size=_PATCH_SIZE, max_num_patches=_PATCHES)
    square = {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}
    if family == "siglip":
        return transformers.SiglipImageProcessorPil(size=square)
    kind = {"clip": "CLIPImageProcessorPil", "chinese_clip": "ChineseCLIPImageProcessorPil"}[family]
    return getattr(transformers, kind)(size={"shortest_edge": _IMAGE_SIZE}, crop_size=square)
