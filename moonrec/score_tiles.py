"""Dot products of queries with a catalogue of any size, tile by tile, with the same bits at every pass.

Only one block of the catalogue, in float32, and one tile of scores are in memory at a time. What a score is
does not depend on how catalogue and queries are cut into tiles, nor on which other queries are asked, as far
as the library of matrix products allows: ragged edges and very few rows are multiplied by other kernels,
whose rounding differs, so tiles are filled up with zeros to multiples of the kernels' sizes.

Shapes: Q queries, D embedding width, M rows of a block; a tile has q queries and m rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moonrec.embedding_set import EmbeddingSet
from moonrec.excluded_rows import Excluded, ExcludedRows

Blocks = EmbeddingSet | Callable[[], Iterable[NDArray[Any]]]

# Two cores, 50 best of 100,000 × 256 for 2,000 queries: 1.23 times faiss; 1,024 × 4,096 took 1.34. Ours.
QUERY_ROWS, BLOCK_ROWS = 2048, 2048
# With fewer rows or queries than these, equal vectors could get scores that differ in the last bit (tried for
# MKL with widths from 24 to 1,024). Ours.
_ROW_MULTIPLE = 64
_QUERY_MULTIPLE = 16
# Tiles of rows that a thread works through before it waits for the others, at the next block. Ours.
_TILES_PER_BLOCK = 16


@dataclass(frozen=True)
class Tile:
    """Scores of some queries against some rows; the memory is reused by the next tile.

    `scores_qm` has a multiple of 64 columns; those beyond `rows` score -inf.
    """

    first_query: int
    first_row: int
    rows: int
    scores_qm: Tensor

    @property
    def end_row(self) -> int:
        """One past the last row."""
        return self.first_row + self.rows

    @property
    def queries(self) -> slice:
        """Which queries."""
        return slice(self.first_query, self.first_query + len(self.scores_qm))


class ScoreTiles:
    """The same tiles of scores, in the same order, at every pass; excluded rows score -inf.

    To iterate raises a ValueError for a block of another width or a vector that is not finite.

    Args:
        queries_QD: (Q, D) query vectors.
        blocks: an embedding set, or a function that starts a new pass over the catalogue's (M, D) blocks.
        excluded: rows that are left out of the rankings of single queries (moonrec/excluded_rows.py).
        block_rows, query_rows: most rows and queries of a tile, which decide speed and memory.

    Raises:
        ValueError: shapes that do not fit, or queries that are not finite.
    """

    def __init__(
        self,
        queries_QD: NDArray[Any],
        blocks: Blocks,
        excluded: Excluded | None,
        block_rows: int,
        query_rows: int,
    ) -> None:
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        if queries_QD.ndim != 2 or not np.isfinite(queries_QD).all():
            raise ValueError(f"queries of shape {queries_QD.shape}, expected (Q, D) finite numbers")
        self._width = queries_QD.shape[1]
        self._excluded = ExcludedRows(excluded, len(queries_QD), query_rows)
        self._blocks = blocks.blocks if isinstance(blocks, EmbeddingSet) else blocks
        self._block_rows, self._query_rows = block_rows, query_rows
        parts = torch.tensor(queries_QD).split(query_rows) if len(queries_QD) else ()
        self._query_tiles = [(len(part), _filled(part, _QUERY_MULTIPLE)) for part in parts]

    def __iter__(self) -> Iterator[Tile]:
        # One scratch for all tiles: fresh memory of this size costs page faults at every tile.
        most_queries = max((len(queries_qD) for _, queries_qD in self._query_tiles), default=0)
        scratch = torch.empty(most_queries * _rounded_up(self._block_rows, _ROW_MULTIPLE))
        for first_row, rows, block_MD in self.catalogue():
            first_query = 0
            for count, queries_qD in self._query_tiles:
                shape = (len(queries_qD), len(block_MD))
                scores_qm = scratch[: shape[0] * shape[1]].view(shape)
                _multiply(queries_qD, block_MD, first_row, out=scores_qm)
                scores_qm[:, rows:] = -torch.inf
                tile = Tile(first_query, first_row, rows, scores_qm[:count])
                self._excluded.leave_out(tile.scores_qm.numpy(), first_query, first_row)
                yield tile
                first_query += count

    def visit(self, threads: Executor, look: Callable[[NDArray[np.float32], int, int], None]) -> int:
        """Call `look(scores_qm, first_query, first_row)` for every tile; returns the catalogue's rows.

        Each tile is multiplied and looked at by one thread, while its scores are in that core's cache; nobody
        waits at the end of a tile. The tiles of a query come one after another, in the order of their rows.
        The products must be told to use one thread each (`one_thread_each`). Tiles have a multiple of 64
        columns; those behind the last row score -inf.
        """
        tile_rows, scratch = _rounded_up(self._block_rows, _ROW_MULTIPLE), threading.local()

        def work(number: int, first_row: int, rows: int, block_MD: Tensor) -> None:
            if not hasattr(scratch, "scores"):
                scratch.scores = torch.empty(_rounded_up(self._query_rows, _QUERY_MULTIPLE) * tile_rows)
            count, queries_qD = self._query_tiles[number]
            first_query = number * self._query_rows
            for start in range(0, len(block_MD), tile_rows):
                part_mD = block_MD[start : start + tile_rows]
                out_qm = scratch.scores[: len(queries_qD) * len(part_mD)].view(len(queries_qD), len(part_mD))
                scores_qm = _multiply(queries_qD, part_mD, first_row + start, out_qm)[:count].numpy()
                scores_qm[:, max(0, rows - start) :] = -np.inf
                self._excluded.leave_out(scores_qm, first_query, first_row + start)
                look(scores_qm, first_query, first_row + start)

        end_row = 0
        for first_row, rows, block_MD in self.catalogue(_TILES_PER_BLOCK * tile_rows):
            jobs = [
                threads.submit(work, number, first_row, rows, block_MD)
                for number in range(len(self._query_tiles))
            ]
            for job in jobs:
                job.result()
            end_row = first_row + rows
        return end_row

    def catalogue(self, block_rows: int | None = None) -> Iterator[tuple[int, int, Tensor]]:
        """First row, number of rows, and float32 vectors (M, D) of each block, filled up with zeros.

        The memory is reused by the next block.

        Args:
            block_rows: most rows of a block; those of a tile by default.

        Raises:
            ValueError: a block of another width.
        """
        block_rows = block_rows or self._block_rows
        buffer_MD = np.zeros((_rounded_up(block_rows, _ROW_MULTIPLE), self._width), dtype=np.float32)
        first_row = 0
        for block_MD in self._blocks():
            if block_MD.ndim != 2 or block_MD.shape[1] != self._width:
                raise ValueError(f"queries of width {self._width}, a block of shape {block_MD.shape}")
            for start in range(0, len(block_MD), block_rows):
                part_MD = block_MD[start : start + block_rows]
                filled = _rounded_up(len(part_MD), _ROW_MULTIPLE)
                if filled == len(part_MD) and part_MD.dtype == np.float32 and part_MD.flags.carray:
                    block = torch.from_numpy(part_MD)
                else:
                    buffer_MD[: len(part_MD)] = part_MD
                    buffer_MD[len(part_MD) : filled] = 0
                    block = torch.from_numpy(buffer_MD[:filled])
                yield first_row, len(part_MD), block
                first_row += len(part_MD)

    def pair_scores(self, query_P: NDArray[np.int64], row_P: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores (P) of single (query, row) pairs, sorted by query; NaN where the catalogue ends before.

        The products are of the same kind as those of the tiles, with only the rows asked for, at a small part
        of their cost. That they agree with the tiles' to the last bit is likely and not certain.
        """
        score_P = np.full(len(query_P), np.nan, dtype=np.float32)
        for first_row, rows, block_MD in self.catalogue():
            (inside_P,) = np.nonzero((row_P >= first_row) & (row_P < first_row + rows))
            for number, (count, queries_qD) in enumerate(self._query_tiles):
                first_query = number * self._query_rows
                pairs = inside_P[pairs_of(slice(first_query, first_query + count), query_P[inside_P])]
                if not len(pairs):
                    continue
                asked_rows, place = np.unique(row_P[pairs] - first_row, return_inverse=True)
                asked_mD = _filled(block_MD[asked_rows], _ROW_MULTIPLE)
                scores_qm = _multiply(queries_qD, asked_mD, first_row).numpy()
                score_P[pairs] = scores_qm[query_P[pairs] - first_query, place]
        score_P[self._excluded.contains(query_P, row_P) & ~np.isnan(score_P)] = -np.inf
        return score_P


def pairs_of(queries: slice, query_P: NDArray[np.int64]) -> slice:
    """Which of the pairs, sorted by query, are pairs of these queries."""
    return slice(*np.searchsorted(query_P, (queries.start, queries.stop)).tolist())


def _multiply(queries_qD: Tensor, block_mD: Tensor, first_row: int, out: Tensor | None = None) -> Tensor:
    scores_qm = torch.mm(queries_qD, block_mD.T, out=out)
    # A number that is not finite spoils its vector's score with every query: looking at one query will do.
    # Left in, it would hide its neighbours from the search for the best.
    if not scores_qm[0].isfinite().all():
        raise ValueError(f"a vector in the catalogue's block from row {first_row} on is not finite")
    return scores_qm


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _filled(vectors_MD: Tensor, multiple: int) -> Tensor:
    missing = _rounded_up(len(vectors_MD), multiple) - len(vectors_MD)
    return torch.nn.functional.pad(vectors_MD, (0, 0, 0, missing)) if missing else vectors_MD
