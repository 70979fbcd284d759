"""From products, pictures and questions to batches of tokens and patches.

A product reads: its picture, the crop of its core region, then its texts, each token tagged with the aspect
that it tells about (MOON, https://arxiv.org/abs/2508.11999: image, core region, then title, category and
attributes). Ours: a line break ends every text but the last and counts as a part of it.

Shapes: B products, T tokens, V vision patches, I pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from encoders.mllm.batch import DialogueBatch, MllmBatch, Segment, attended, pack
from encoders.mllm.chat import ChatFormat, Words
from encoders.mllm.options import MllmConfig
from encoders.products import EVERYTHING, IMAGE_ONLY, Aspect, Product, View
from encoders.raw_products import decode_all, shown

_QUESTION_TOKENS = 512
_ANSWER_TOKENS = 256
# The image processors refuse more than 200.
_MAX_ASPECT_RATIO = 100


class Reader:
    """Makes batches for one model. Batches are made on the CPU and may be made in a background thread.

    Args:
        tokenizer: the checkpoint's tokenizer.
        image_processor: its image processor, of those that need no torchvision.
        model_config: its transformers configuration, which names the special tokens.
        rope_index: its `get_rope_index`, which knows the positions of image tokens.
        config: how much of a product is read.
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        image_processor: Any,
        model_config: Any,
        rope_index: Callable[..., tuple[Tensor, Tensor]],
        config: MllmConfig,
    ) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._config = config
        self._rope_index = rope_index
        self._words = Words(tokenizer)
        self._chat = ChatFormat.of(tokenizer)
        self._newline = np.array(tokenizer.encode("\n", add_special_tokens=False), np.int64)
        self._image_token = int(model_config.image_token_id)
        self._vision_start = np.array([model_config.vision_start_token_id], np.int64)
        self._vision_end = np.array([model_config.vision_end_token_id], np.int64)
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._chat.end[0])
        self.end = int(self._chat.end[-1])

    @property
    def image_tokens(self) -> int:
        """About how many tokens a product's pictures become."""
        side = self.image_processor.patch_size * self.image_processor.merge_size
        return (1 + self._config.regions) * self._config.max_pixels // side**2

    def seen_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height, in pixels, to which the model's input shrinks a picture of this size."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        size = self._pixel_bounds()
        factor = self.image_processor.patch_size * self.image_processor.merge_size
        rows, columns = smart_resize(height, width, factor, size["shortest_edge"], size["longest_edge"])
        return columns, rows

    def products(self, products: list[Product], view: View = EVERYTHING) -> MllmBatch:
        """A batch of products that shows what `view` names; in one that shows nothing, all is padding.

        Raises:
            BrokenImage: a picture does not decode.
        """
        visible = [shown(product, view) for product in products]
        side = math.isqrt(self._config.max_pixels)
        pictures = decode_all(visible, side, regions=self._config.regions)
        pixels_VC, grid_I3 = self._patches([one for views in pictures for one in views])
        counts = iter(self._tokens_of(grid_I3))
        words = self._texts(visible)
        segments: list[Segment] = []
        for row, views in enumerate(pictures):
            for _ in views:
                segments.append(self._picture(row, next(counts)))
            segments += words[row]
        return self._batch(segments, len(products), pixels_VC, grid_I3)[0]

    def dialogues(
        self, products: list[Product], questions: Sequence[str], answers: Sequence[str]
    ) -> DialogueBatch:
        """Questions about the products' whole pictures, with the answers to learn.

        Questions are cut at 512 tokens, answers at 256; a product without a picture is asked without one.

        Raises:
            BrokenImage: a picture does not decode.
        """
        visible = [shown(product, IMAGE_ONLY) for product in products]
        views = decode_all(visible, math.isqrt(self._config.max_pixels), regions=False)
        pictures = [one[0] if one else None for one in views]
        batch, labels_BT = self._asked(pictures, questions, answers, left=False)
        return DialogueBatch(batch, labels_BT)

    def questions(self, pictures: Sequence[Image.Image | None], questions: Sequence[str]) -> MllmBatch:
        """Questions to be answered, padded on the left."""
        return self._asked(pictures, questions, None, left=True)[0]

    def _asked(
        self,
        pictures: Sequence[Image.Image | None],
        questions: Sequence[str],
        answers: Sequence[str] | None,
        *,
        left: bool,
    ) -> tuple[MllmBatch, Tensor]:
        pixels_VC, grid_I3 = self._patches([one for one in pictures if one is not None])
        counts = iter(self._tokens_of(grid_I3))
        asked = self._words(questions, [_QUESTION_TOKENS] * len(questions))
        said = self._words(answers, [_ANSWER_TOKENS] * len(answers)) if answers is not None else None
        segments: list[Segment] = []
        for row, picture in enumerate(pictures):
            turn = self._chat.without_image if picture is None else self._chat.with_image
            segments.append(Segment(row, Aspect.TITLE, turn.before))
            if picture is not None:
                segments.append(self._picture(row, next(counts)))
            segments += [Segment(row, Aspect.TITLE, ids) for ids in (turn.between, asked[row], turn.after)]
            if said is not None:
                answer = np.concatenate([said[row], self._chat.end])
                segments.append(Segment(row, Aspect.TITLE, answer, learn=True))
        return self._batch(segments, len(pictures), pixels_VC, grid_I3, left=left)

    def _batch(
        self,
        segments: list[Segment],
        rows: int,
        pixels_VC: Tensor | None,
        grid_I3: Tensor | None,
        *,
        left: bool = False,
    ) -> tuple[MllmBatch, Tensor]:
        packed = pack(segments, rows, self.pad, left=left)
        image_BT = packed.input_ids_BT == self._image_token
        position_ids_3BT, _ = self._rope_index(
            packed.input_ids_BT,
            mm_token_type_ids=image_BT.int(),
            image_grid_thw=grid_I3,
            attention_mask=attended(packed.mask_BT).int(),
        )
        batch = MllmBatch(
            input_ids_BT=packed.input_ids_BT,
            aspect_BT=packed.aspect_BT,
            mask_BT=packed.mask_BT,
            image_BT=image_BT,
            position_ids_3BT=position_ids_3BT,
            pixels_VC=pixels_VC,
            grid_I3=grid_I3,
        )
        return batch, packed.labels_BT

    def _texts(self, products: Sequence[Product]) -> list[list[Segment]]:
        texts = [(row, aspect, text) for row, one in enumerate(products) for aspect, text in one.texts]
        limits = [self._config.tokens_of(aspect) for _, aspect, _ in texts]
        ids = self._words([text for *_, text in texts], limits)
        segments: list[list[Segment]] = [[] for _ in products]
        for number, (row, aspect, _) in enumerate(texts):
            last = number + 1 == len(texts) or texts[number + 1][0] != row
            line = ids[number] if last else np.concatenate([ids[number], self._newline])
            segments[row].append(Segment(row, aspect, line))
        return segments

    def _picture(self, row: int, tokens: int) -> Segment:
        patches = np.full(tokens, self._image_token)
        return Segment(row, Aspect.IMAGE, np.concatenate([self._vision_start, patches, self._vision_end]))

    def _patches(self, pictures: Sequence[Image.Image]) -> tuple[Tensor | None, Tensor | None]:
        if not pictures:
            return None, None
        bounded = [_less_narrow(picture) for picture in pictures]
        found = self.image_processor(images=bounded, size=self._pixel_bounds(), return_tensors="pt")
        return found["pixel_values"], found["image_grid_thw"]

    def _tokens_of(self, grid_I3: Tensor | None) -> list[int]:
        if grid_I3 is None:
            return []
        return (grid_I3.prod(1) // self.image_processor.merge_size**2).tolist()

    def _pixel_bounds(self) -> dict[str, int]:
        lowest = min(int(self.image_processor.size["shortest_edge"]), self._config.max_pixels)
        return {"shortest_edge": lowest, "longest_edge": self._config.max_pixels}


def _less_narrow(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    narrowest = -(-max(width, height) // _MAX_ASPECT_RATIO)
    if min(width, height) >= narrowest:
        return picture
    return picture.resize((max(width, narrowest), max(height, narrowest)))
