"""Anchors against candidates and back: the loss of each anchor, in both directions.

Shapes: P pairs of this process, N pairs of all processes; A anchors of this process, M anchors of all; C
candidates; E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from encoders.objective.candidates import Batch, Candidates
from encoders.objective.contrast import Logits, contrast
from encoders.objective.false_negatives import false_among_pairs
from encoders.objective.labels import PairLabels
from moonrec.gathering import gather_sections


@dataclass(frozen=True)
class Asked:
    """Anchors of one kind: all pairs' queries, or those that are shown as pictures, as words, or as both.

    Attributes:
        vectors_AE: unit vectors of this process's anchors.
        pair_A: the pair of this process that each belongs to; at most one anchor per pair.
        vectors_ME: those of all processes.
        pair_M: the pair of all processes that each of these belongs to.
        first: number of the first of this process's own anchors among all.
    """

    vectors_AE: Tensor
    pair_A: Tensor
    vectors_ME: Tensor
    pair_M: Tensor
    first: int = 0

    @classmethod
    def of(cls, vectors_AE: Tensor, pair_A: Tensor, batch: Batch) -> Asked:
        """Anchors and, where `batch` is that of all processes, those of the others."""
        if not batch.gathered:
            return cls(vectors_AE, pair_A, vectors_AE, pair_A)
        vectors, pairs = gather_sections([vectors_AE])[0], gather_sections([pair_A[:, None] + batch.first])[0]
        first = sum(len(part) for part in vectors[: dist.get_rank()])
        return cls(vectors_AE, pair_A, torch.cat(vectors), torch.cat(pairs)[:, 0], first)


def two_way_losses(
    logits: Logits,
    dims: Sequence[int],
    asked: Asked,
    positives_PE: Tensor,
    pairs: PairLabels,
    batch: Batch,
    candidates: Candidates,
) -> Tensor:
    """The loss (A,) of each anchor: it must find its positive, and its positive must find it.

    The two directions count alike, and so do the Matryoshka sizes.

    Args:
        logits: `InfoNCE`, `CircleLoss`.
        dims: the prefixes of the vectors, largest first.
        asked: the anchors.
        positives_PE: the positives of this process's pairs.
        pairs: who these pairs are.
        batch: the pairs of all processes (or of this one alone).
        candidates: of `candidates_of`, for all pairs of this process.
    """
    excluded_AC = candidates.excluded_PC[asked.pair_A]
    excluded_AM = false_among_pairs(batch.pairs[asked.pair_M], pairs[asked.pair_A]).T
    positive_A = batch.first + asked.pair_A
    own_A = asked.first + torch.arange(len(asked.pair_A), device=excluded_AM.device)
    total_A = asked.vectors_AE.new_zeros(len(asked.pair_A))
    for dim in dims:
        anchors_AD, candidates_CD, found_AD, anchors_MD = (
            prefix(x, dim)
            for x in (
                asked.vectors_AE,
                candidates.vectors_CE,
                positives_PE[asked.pair_A],
                asked.vectors_ME,
            )
        )
        total_A = total_A + contrast(logits, anchors_AD, candidates_CD, excluded_AC, positive_A)
        total_A = total_A + contrast(logits, found_AD, anchors_MD, excluded_AM, own_A)
    return total_A / (2 * len(dims))


def prefix(x_NE: Tensor, dim: int) -> Tensor:
    """The first `dim` columns, scaled to unit length; unit vectors of that width are left alone.

    Raises:
        ValueError: the vectors are shorter.
    """
    if dim > x_NE.shape[1]:
        raise ValueError(f"a prefix of {dim} out of vectors of {x_NE.shape[1]}")
    return x_NE if dim == x_NE.shape[1] else nn.functional.normalize(x_NE[:, :dim], dim=1)
