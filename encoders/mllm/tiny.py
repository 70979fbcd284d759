"""A multimodal language model of a few million weights, from nothing: for laptops, demonstrations and tests.

Its words are a byte-level BPE learnt from the catalogue's own texts; its chat markers are those of the large
models, so that everything that is done with a checkpoint can be done with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from encoders.mllm.checkpoint import Checkpoint
from encoders.mllm.options import MllmRuntime

Family = Literal["qwen2_5_vl", "qwen3_vl"]

MAX_PIXELS = 112 * 112
_VOCABULARY = 4096
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_WIDTH, _VISION_WIDTH, _HEADS = 128, 96, 4
_LAYERS, _VISION_LAYERS = 4, 2
_PATCH = 14


def tiny_checkpoint(texts: Iterable[str], family: Family, runtime: MllmRuntime, seed: int) -> Checkpoint:
    """An untrained model of one family, `auto` float32; the same texts and seed give the same weights."""
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessorPil

    tokenizer = train_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(
            _config(family, tokenizer),
            dtype="float32" if runtime.dtype == "auto" else runtime.dtype,
            attn_implementation=runtime.attention,
        )
    size = {"shortest_edge": 4 * (2 * _PATCH) ** 2, "longest_edge": MAX_PIXELS}
    processor = Qwen2VLImageProcessorPil(patch_size=_PATCH, temporal_patch_size=2, merge_size=2, size=size)
    return Checkpoint(model, tokenizer, processor)


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer of at most 4,096 tokens, learnt from these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=[name for name in _SPECIAL if name not in ("<|endoftext|>", "<|im_end|>")],
    )


def _config(family: Family, tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    ids = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": _WIDTH,
        "intermediate_size": 3 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS // 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": _VISION_LAYERS,
        "hidden_size": _VISION_WIDTH,
        "intermediate_size": 2 * _VISION_WIDTH,
        "num_heads": _HEADS,
        "patch_size": _PATCH,
        "out_hidden_size": _WIDTH,
    }
    if family == "qwen3_vl":
        text |= {"head_dim": _WIDTH // _HEADS}
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
        family_config = Qwen3VLConfig
    else:
        vision |= {"fullatt_block_indexes": list(range(_VISION_LAYERS)), "window_size": 8 * _PATCH}
        family_config = Qwen2_5_VLConfig
    return family_config(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
