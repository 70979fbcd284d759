"""From rows of the catalogue to batches of questions and answers, as the language model reads them.

The picture stands first, then the question, then the texts that may be seen: a text that is too long to be
read whole does not push the question out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from encoders.product_qa.questions import Dialogue, ProductQA
from encoders.products import Product
from encoders.raw_products import RawProducts, decode_all, shown

if TYPE_CHECKING:
    from encoders.mllm.batch import DialogueBatch
    from encoders.mllm.encoder import MllmEncoder

# The encoder shrinks pictures further; this only spares decoding large ones in full.
_LARGEST_SIDE = 1024
_ANSWER_TOKENS = 64


class Dialogues:
    """Questions about products, with what of the products may be seen.

    Args:
        encoder: makes the batches.
        qa: makes questions and answers.
        products: pictures and texts of the same rows.
        seed: of the questions.
    """

    def __init__(self, encoder: MllmEncoder, qa: ProductQA, products: RawProducts, seed: int) -> None:
        self._encoder = encoder
        self._qa = qa
        self._products = products
        self._seed = seed

    def draw(self, rows: np.ndarray, epoch: int) -> list[Dialogue]:
        """One question about each of `rows`."""
        return self._qa.draw(rows, self._seed, epoch)

    def shown(self, dialogues: Sequence[Dialogue]) -> list[Product]:
        """The products that the dialogues are about, without what their prompts hide."""
        rows = np.array([dialogue.row for dialogue in dialogues], np.int64)
        products = self._products.products(rows)
        return [shown(product, one.view) for product, one in zip(products, dialogues, strict=True)]

    def batch(self, dialogues: Sequence[Dialogue]) -> DialogueBatch:
        """The dialogues as tokens and patches."""
        products = self.shown(dialogues)
        return self._encoder.collate_dialogue(
            products, prompts(products, dialogues), [dialogue.answer for dialogue in dialogues]
        )

    def answers(self, dialogues: Sequence[Dialogue]) -> list[str]:
        """What the encoder itself answers, greedily."""
        products = self.shown(dialogues)
        pictures = [next(iter(views), None) for views in decode_all(products, _LARGEST_SIDE, regions=False)]
        return self._encoder.generate(pictures, prompts(products, dialogues), max_new_tokens=_ANSWER_TOKENS)


def prompts(products: Sequence[Product], dialogues: Sequence[Dialogue]) -> list[str]:
    """Each question with the product's texts under it, a line each."""
    return [
        "\n".join([one.question, *(f"{aspect.name.capitalize()}: {text}" for aspect, text in product.texts)])
        for product, one in zip(products, dialogues, strict=True)
    ]
