"""Hard negatives: for each pair, items of the positive's category that were not the answer.

MOON (https://arxiv.org/abs/2508.11999) takes another item of the same category. Such items are full of false
negatives, so none is drawn that is an SKU of the positive's product, has its title, is the anchor's own
product, or is itself a positive of the same query or user. Backing off to a wider category where the deepest
has no other product, and preferring an item that was shown and not taken, are ours.

Shapes: N catalogue items in file order, P pairs of a batch, C negatives per pair, V categories (nodes of the
tree), R feature rows (the catalogue's, then the queries').
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from encoders.pairs import Pairs
from moonrec.domains import category_levels
from moonrec.ids import codes_of
from moonrec.tables import Table

# Share of the draws that take the item that was shown and not taken, where one is known. Ours.
_SHOWN_SHARE = 0.5
# Draws from one category before a wider one is tried. Most first draws are good.
_ROUNDS = 8


def text_codes(items: Table) -> np.ndarray:
    """One number per item (N,), equal for equal titles whatever their case and spaces; -1 without a title."""
    codes, titles = codes_of(items.read(["title"]).column("title"))
    numbers: dict[str, int] = {}
    found = []
    for title in titles:
        words = " ".join((title.as_py() or "").casefold().split())
        found.append(numbers.setdefault(words, len(numbers)) if words else -1)
    return np.array([*found, -1], np.int64)[codes]


class CategoryTree:
    """The catalogue sorted by category, so that the items of any category stand side by side.

    Node 0, the root, holds everything, also the items without a category; a node's parent has a smaller
    number.

    Attributes:
        order_N: items in the order of their categories; `start_V` and `end_V` are places in it.
        place_N: where each item stands in `order_N`.
        run_start_N, run_end_N: per place, the run of neighbours of the same product and category around it.
        leaf_N: per item the node of its own category.
        parent_V: the next wider category, -1 above the root.
        mixed_V: the deepest category, from the node upwards, that has two products; -1 if none has.

    Args:
        categories: per item `A > B > C` or None.
        product_N: per item a code that the SKUs of one product share.
    """

    def __init__(self, categories: pa.ChunkedArray | Sequence[str | None], product_N: np.ndarray) -> None:
        if not isinstance(categories, pa.ChunkedArray):
            categories = pa.chunked_array([pa.array(categories, pa.string())])
        codes, distinct = codes_of(categories)
        paths = [*(category_levels(text.as_py()) for text in distinct), ()]  # a null's code, -1, is the last
        by_path = sorted(range(len(paths)), key=paths.__getitem__)
        rank = np.empty(len(paths), np.int64)
        rank[by_path] = np.arange(len(paths))
        rank_N = rank[codes]
        self.product_N = product_N
        # By product within a category: the SKUs of one product are a run that a draw steps over.
        self.order_N = np.lexsort((product_N, rank_N))
        self.place_N = np.empty_like(self.order_N)
        self.place_N[self.order_N] = np.arange(len(self.order_N))
        ends = np.cumsum(np.bincount(rank_N, minlength=len(paths)))
        leaf = self._grow([paths[number] for number in by_path], ends.tolist())
        self.leaf_N = leaf[rank_N]
        self._find_runs(product_N[self.order_N], rank_N[self.order_N])

    def _grow(self, paths: Sequence[tuple[str, ...]], ends: Sequence[int]) -> np.ndarray:
        """Make the nodes of sorted paths that end at these places; returns the node of each path."""
        nodes: dict[tuple[str, ...], int] = {(): 0}
        parent, start, end = [-1], [0], [ends[-1]]
        for number, path in enumerate(paths):
            for depth in range(1, len(path) + 1):
                node = nodes.setdefault(path[:depth], len(nodes))
                if node == len(parent):
                    parent.append(nodes[path[: depth - 1]])
                    start.append(ends[number - 1] if number else 0)
                    end.append(ends[number])
                end[node] = ends[number]
        self.parent_V, self.start_V, self.end_V = (np.array(part, np.int64) for part in (parent, start, end))
        return np.array([nodes[path] for path in paths])

    def _find_runs(self, product: np.ndarray, rank: np.ndarray) -> None:
        other = np.concatenate([[False], product[1:] != product[:-1]])
        begins = np.flatnonzero(other | np.concatenate([[True], rank[1:] != rank[:-1]]))
        lengths = np.diff(begins, append=len(product))
        self.run_start_N = np.repeat(begins, lengths)
        self.run_end_N = np.repeat(begins + lengths, lengths)
        changes = np.cumsum(other)
        has_two = changes[self.end_V - 1] > changes[self.start_V]
        mixed = [-1] * len(has_two)
        for node, (two, parent) in enumerate(zip(has_two.tolist(), self.parent_V.tolist(), strict=True)):
            mixed[node] = node if two else mixed[parent] if parent >= 0 else -1
        self.mixed_V = np.array(mixed)

    def draw(self, node: np.ndarray, item: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One item of each node (any but those of the given item's own run), evenly; arrays of one length."""
        place = self.place_N[item]
        run_start, run_end = self.run_start_N[place], self.run_end_N[place]
        size = self.end_V[node] - self.start_V[node] - (run_end - run_start)
        drawn = self.start_V[node] + (rng.random(len(node)) * size).astype(np.int64)
        drawn += np.where(drawn >= run_start, run_end - run_start, 0)
        return self.order_N[drawn]


class HardNegatives:
    """Draws hard negatives for the pairs of one source.

    Example:
        >>> tree = CategoryTree(["Shoes > Boots", "Shoes > Boots", "Toys"], np.array([0, 1, 2]))
        >>> HardNegatives(tree, text_codes(items), pairs, seed=0).rows(np.arange(256), epoch=1, step=0)

    Args:
        tree: of the catalogue.
        text_N: `text_codes`; items of one code at or above 0 are not each other's negatives.
        pairs: the training pairs.
        seed: of the draws.
        query_R: per feature row a code of what it asks for (`encoders.cleaning.query_codes`), so that the
            positives of equal queries are known to be theirs; without it each feature row is a query.
        known: further pairs, with the same codes, whose positives are no negatives either (what cleaning
            left out of `pairs`).
    """

    def __init__(
        self,
        tree: CategoryTree,
        text_N: np.ndarray,
        pairs: Pairs,
        seed: int,
        query_R: np.ndarray | None = None,
        known: Pairs | None = None,
    ) -> None:
        self._tree, self._text_N, self._pairs, self._seed = tree, text_N, pairs, seed
        self._query_R = query_R
        self._products = int(tree.product_N.max()) + 1
        everything = [pairs] if known is None else [pairs, known]
        self._users = 1 + max(int(part.user.max(initial=-1)) for part in everything)
        self._group_P = self._groups(pairs)
        self._taken = np.sort(np.concatenate([self._positives(part) for part in everything]))

    def _groups(self, pairs: Pairs) -> np.ndarray:
        """Whose positives belong together: those of a user's behaviour, or of equal queries."""
        asked = pairs.anchor if self._query_R is None else self._query_R[pairs.anchor]
        return np.where(pairs.user >= 0, pairs.user, asked + self._users)

    def _positives(self, pairs: Pairs) -> np.ndarray:
        """Keys of (group, product): what the groups took, and what their anchors show."""
        group = self._groups(pairs)
        shows = np.flatnonzero(pairs.own >= 0)
        groups = np.concatenate([group, group[shows]])
        items = np.concatenate([pairs.positive, pairs.own[shows]])
        return groups * self._products + self._tree.product_N[items]

    def rows(self, pair_rows: np.ndarray, epoch: int, step: int, count: int = 1) -> np.ndarray:
        """Hard negatives of a batch of pairs, decided by the seed, the epoch and the step.

        Processes that share a batch ask for the whole of it and take their part: then the draws are the same
        however many there are.

        Args:
            pair_rows: numbers of the batch's pairs, (P,).
            epoch, step: when.
            count: negatives per pair, C.

        Returns:
            Catalogue rows, (P, C), int64; distinct within a row, -1 where there is none.
        """
        rng = np.random.default_rng((self._seed, 7, epoch, step))
        found_PC = np.full((len(pair_rows), count), -1)
        shown = self._pairs.shown_negative[pair_rows]
        wanted = np.flatnonzero((rng.random(len(pair_rows)) < _SHOWN_SHARE) & (shown >= 0))
        wanted = wanted[self._allowed(pair_rows[wanted], shown[wanted])]
        found_PC[wanted, 0] = shown[wanted]
        for column in range(count):
            self._fill(pair_rows, found_PC, column, rng)
        return found_PC

    def _fill(
        self, pair_rows: np.ndarray, found_PC: np.ndarray, column: int, rng: np.random.Generator
    ) -> None:
        """Draw until each pair has its negative in this column, from wider and wider categories."""
        item = self._pairs.positive[pair_rows]
        node = self._tree.mixed_V[self._tree.leaf_N[item]]
        while True:
            for _ in range(_ROUNDS):
                open_ = np.flatnonzero((found_PC[:, column] < 0) & (node >= 0))
                if not len(open_):
                    return
                drawn = self._tree.draw(node[open_], item[open_], rng)
                good = self._allowed(pair_rows[open_], drawn)
                good &= (found_PC[open_] != drawn[:, None]).all(1)
                found_PC[open_[good], column] = drawn[good]
            node = np.where(node >= 0, self._tree.parent_V[node], -1)

    def _allowed(self, pair_rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether items may be negatives of these pairs, row by row."""
        product, text = self._tree.product_N[item], self._text_N[item]
        positive = self._pairs.positive[pair_rows]
        good = (product != self._tree.product_N[positive]) & ((text < 0) | (text != self._text_N[positive]))
        key = self._group_P[pair_rows] * self._products + product
        place = np.searchsorted(self._taken, key).clip(max=len(self._taken) - 1)
        return good & (self._taken[place] != key)
