"""Items shown in other ways while an encoder trains: with an enriched title, with augmented pictures.

MOON2.0 (https://arxiv.org/abs/2511.12449) trains on positives and negatives that also carry an enriched title
and several augmented pictures; what is tested is never augmented. Here each variant of an item is one more
row of the product table, behind catalogue and queries, so that every backbone prepares it like any product,
and a training step shows some of its items by a variant. How often is ours.

Shapes: N rows of a request, M catalogue rows, V rows of variants, U those of them that are shown.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from encoders.products import VARIANT_COLUMNS, BrokenImages, ItemVariant, Product, iter_variants
from encoders.raw_products import SHARD_ROWS, regroup
from moonrec.tables import Table

# How often an item that has variants is shown by one. Ours: the original is what is searched later.
VARIANT_SHARE = 0.5


class VariantReader:
    """Reads the variants of a catalogue as products, once, and remembers whose they are.

    Args:
        items: the catalogue, which has at least one of the columns of variants.
    """

    def __init__(self, items: Table) -> None:
        self._items = items
        self._owner, self._pictured, self._shows = array("q"), array("b"), array("b")

    @staticmethod
    def reads(items: Table) -> bool:
        """Whether a catalogue has variants to read."""
        return bool(set(VARIANT_COLUMNS) & set(items.column_names))

    def batches(
        self, look: Callable[[Table, Iterable[list[Product]]], Iterable[list[Product]]]
    ) -> Iterator[list[Product]]:
        """The variants, batch by batch.

        Args:
            look: finds core regions. It is called when the first batch is asked for: boxes of pictures that
                the catalogue itself shows have been kept by then.
        """
        # `look` is some batches ahead of what it hands out.
        waiting: deque[ItemVariant] = deque()
        under_own_titles = regroup(self._read(waiting), SHARD_ROWS)
        for products in look(self._items, under_own_titles):
            yield [waiting.popleft().shown(product) for product in products]

    def _read(self, waiting: deque[ItemVariant]) -> Iterator[list[Product]]:
        for variants in iter_variants(self._items):
            self._owner.extend(variant.item for variant in variants)
            self._pictured.extend(variant.pictured for variant in variants)
            self._shows.extend(variant.product.image is not None for variant in variants)
            waiting.extend(variants)
            yield [variant.product for variant in variants]

    def variants(self, has_image: np.ndarray, has_text: np.ndarray, items: int) -> Variants:
        """What was read, as rows of a table.

        Args:
            has_image, has_text: what each row of the table has to show; the catalogue's rows come first, the
                variants' last.
            items: M.
        """
        owner_V, pictured_V = np.array(self._owner, np.int64), np.array(self._pictured, bool)
        first = len(has_image) - len(owner_V)
        # Who may stand in a pair, and in which view, was decided for the item as it is.
        usable_V = (has_image[first:] >= has_image[owner_V]) & (has_text[first:] >= has_text[owner_V])
        usable_V &= has_image[first:] | ~pictured_V
        return Variants(items, first, owner_V, pictured_V, usable_V)

    def count_once(self, broken: BrokenImages, has_image: np.ndarray) -> None:
        """Take back what was counted twice: own pictures of items that are shown again under another title.

        Args:
            broken: pictures of the catalogue and of the variants that could not be used.
            has_image: which rows of the table have a usable picture; the variants' come last.
        """
        again_V = np.array(self._shows, bool) & ~np.array(self._pictured, bool)
        broken.count -= int(np.count_nonzero(again_V & ~has_image[len(has_image) - len(again_V) :]))
        broken.examples[:] = dict.fromkeys(broken.examples)


class Variants:
    """Which rows of the product table show which catalogue row in another way.

    Args:
        items: M.
        first: the row of the table at which the variants begin.
        owner_V: catalogue row of each, ascending.
        pictured_V: whether it is a variant by its picture; the others are by their title alone.
        usable_V: whether it shows everything that its item shows; others are left out.
    """

    def __init__(
        self, items: int, first: int, owner_V: np.ndarray, pictured_V: np.ndarray, usable_V: np.ndarray
    ) -> None:
        self.first = first
        self.owner_V = owner_V
        self._pictured_U = pictured_V[usable_V]
        self._row_U = first + np.flatnonzero(usable_V)
        # One place more than items: there stands what is no item, and has no variants.
        self._count_M = np.bincount(owner_V[usable_V], minlength=items + 1)
        self._start_M = np.cumsum(self._count_M) - self._count_M

    @classmethod
    def none(cls, items: int, first: int) -> Variants:
        """Of a catalogue without variants."""
        nothing = np.zeros(0, np.int64)
        return cls(items, first, nothing, nothing.astype(bool), nothing.astype(bool))

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The rows (N,), of which those of the catalogue stay, or become one of their variants, evenly drawn.

        Half of those that have variants become one. Rows of queries stay. As many numbers are drawn as there
        are rows, whatever they are; none where the catalogue has no variants.
        """
        if not len(self._row_U):
            return rows
        dice_N = rng.random(rows.shape) / VARIANT_SHARE
        item_N = np.minimum(rows, len(self._count_M) - 1)
        count_N = self._count_M[item_N]
        changed_N = (dice_N < 1) & (count_N > 0)
        place_N = self._start_M[item_N] + (dice_N * count_N).astype(np.int64)
        return np.where(changed_N, self._row_U[np.where(changed_N, place_N, 0)], rows)

    def counts(self) -> dict[str, int]:
        """How many enriched titles and augmented pictures are shown, and of how many items."""
        images = int(np.count_nonzero(self._pictured_U))
        return {
            "titles": len(self._row_U) - images,
            "images": images,
            "items": int(np.count_nonzero(self._count_M)),
        }
