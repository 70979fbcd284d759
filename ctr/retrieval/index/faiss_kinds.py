"""The two indexes of faiss that are built: parameters by the size of the catalogue, and the search of each.

HNSW (https://arxiv.org/abs/1603.09320) walks a graph of near neighbours; its vectors are kept as the float16
that they are on disk, so its scores are exact and the file takes half the space. IVF-PQ
(https://hal.inria.fr/inria-00514462) visits the lists whose centres are near and compares codes of a few
bytes; what it finds is scored exactly afterwards.

Legend: M items of a block, D width, Q users, C candidates of a user, T items to train on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr.retrieval.index.faiss_library import faiss_threads
from moonrec.embedding_set import EmbeddingSet

# Neighbours of a node, and candidates in view while the graph is built. Ours: on a million clustered vectors
# of 128 numbers, 16 links found 0.93 of the 100 best at a depth of 800.
_LINKS, _BUILD_DEPTH = 32, 80
# Above this, HNSW is built by all threads, whose order is not repeatable. Ours, not tuned.
_MOST_REPEATABLE = 200_000
# Fewer training vectors than this per centre, and faiss warns that centres fit their noise.
_PER_CENTRE = 39
_TRAINED_PER_LIST = 64
_CODE_BITS = 8
# faiss keeps seeds in 31 bits.
_SEEDS = 2**31 - 2
_TRAINING_ROUNDS = 10


def new_hnsw(faiss: Any, vectors: EmbeddingSet, seed: int) -> tuple[Any, dict[str, Any]]:
    """An HNSW index of all vectors, and its parameters."""
    scalar = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(vectors.dimension, scalar, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILD_DEPTH
    index.hnsw.rng = faiss.RandomGenerator(seed % _SEEDS)
    # float16 has nothing to learn; faiss asks for it all the same.
    index.train(np.zeros((1, vectors.dimension), dtype=np.float32))
    threads = 1 if len(vectors) <= _MOST_REPEATABLE else faiss.omp_get_max_threads()
    with faiss_threads(faiss, threads):
        _add_all(index, vectors)
    return index, {"links": _LINKS, "build_depth": _BUILD_DEPTH, "build_threads": threads}


def new_ivfpq(faiss: Any, vectors: EmbeddingSet, seed: int) -> tuple[Any, dict[str, Any]]:
    """An IVF-PQ index of all vectors, and its parameters; `note` says where the catalogue was too small."""
    count, dimension = len(vectors), vectors.dimension
    lists, bits, parts = list_count(count), code_bits(count), code_parts(dimension)
    centres = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(centres, dimension, lists, parts, bits, faiss.METRIC_INNER_PRODUCT)
    for training in (index.cp, index.pq.cp):
        training.seed, training.niter = seed % _SEEDS + 1, _TRAINING_ROUNDS
        training.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = _TRAINED_PER_LIST
    index.train(_training_vectors(vectors, max(_TRAINED_PER_LIST * lists, 256 << bits), 1 << bits, seed))
    _add_all(index, vectors)
    parameters: dict[str, Any] = {"lists": lists, "code_parts": parts, "code_bits": bits}
    if bits < _CODE_BITS:
        parameters["note"] = (
            f"{count:,} items are too few to learn codes of {_CODE_BITS} bits: {lists} lists, {bits} bits"
        )
    return index, parameters


def list_count(items: int) -> int:
    """Lists of an IVF index: four times the root of the items, as faiss advises, of 39 items or more each."""
    return max(1, min(round(4 * math.sqrt(items)), items // _PER_CENTRE))


def code_bits(items: int) -> int:
    """Bits per part of a code: 8, or as many as there are items to learn the centres from."""
    return max(1, min(_CODE_BITS, int(math.log2(max(2, items / _PER_CENTRE)))))


def code_parts(dimension: int) -> int:
    """Parts of a code: a quarter of the width, or the next number that divides it."""
    return next(parts for parts in range(-(-dimension // 4), dimension + 1) if dimension % parts == 0)


def search_parameters(faiss: Any, kind: str, depth: int) -> Any:
    """How deep faiss is to search, for one call: two threads may ask for different depths."""
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=depth)
    return faiss.SearchParametersIVF(nprobe=depth)


def _add_all(index: Any, vectors: EmbeddingSet) -> None:
    for block_MD in vectors.blocks():
        index.add(block_MD.astype(np.float32))


def _training_vectors(vectors: EmbeddingSet, most: int, least: int, seed: int) -> NDArray[np.float32]:
    """A sample (T, D) of at most `most`; repeated where there are fewer than `least`, which faiss refuses."""
    entries = np.arange(len(vectors))
    if len(entries) > most:
        entries = np.sort(np.random.default_rng(seed).choice(entries, most, replace=False))
    sample = np.resize(entries, max(len(entries), least))
    return vectors.vectors(sample + 1).astype(np.float32)
