"""Answers of the language model: greedy, causal, several at a time.

Shapes: B prompts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

if TYPE_CHECKING:
    from encoders.mllm.encoder import MllmEncoder


@torch.no_grad()
def generate(
    encoder: MllmEncoder,
    images: Sequence[Image.Image | None],
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Answers to `prompts`, in their order, each about its picture or about none.

    Raises:
        ValueError: there is not one image (or None) per prompt.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images for {len(prompts)} prompts")
    training = encoder.training
    encoder.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        answers += _answers(encoder, images[part], prompts[part], max_new_tokens)
    encoder.train(training)
    return answers


def _answers(
    encoder: MllmEncoder, images: Sequence[Image.Image | None], prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    from transformers import GenerationConfig

    reader = encoder.reader
    batch = reader.questions(images, prompts).to(encoder.out.weight.device)
    # Not the checkpoint's own settings: those sample.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=reader.pad,
        eos_token_id=sorted({reader.end, reader.tokenizer.eos_token_id} - {None}),
    )
    # Named only where there are any: transformers looks at the names.
    pictures = {"pixel_values": batch.pixels_VC, "image_grid_thw": batch.grid_I3}
    if batch.grid_I3 is None:
        pictures = {}
    said_BT = encoder.model.generate(
        generation_config=greedy,
        input_ids=batch.input_ids_BT,
        attention_mask=batch.mask_BT.long(),
        mm_token_type_ids=batch.image_BT.int(),
        **pictures,
    )
    new_BT = said_BT[:, batch.input_ids_BT.shape[1] :]
    return [text.strip() for text in reader.tokenizer.batch_decode(new_BT, skip_special_tokens=True)]
