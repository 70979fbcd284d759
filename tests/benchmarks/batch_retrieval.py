"""Batch retrieval: exact search against the bare product, HNSW and IVF-PQ against exact search; Markdown.

```
.venv/bin/python tests/benchmarks/batch_retrieval.py                                   # tens of minutes
.venv/bin/python tests/benchmarks/batch_retrieval.py --users 4096 --items 100000       # a first look
.venv/bin/python tests/benchmarks/batch_retrieval.py --timed-users 4096 --kinds exact  # no index
```

The floor is `torch.mm` of the same users and items in the same tiles by the same threads, and nothing else:
no search can be exact and faster on this library of products. Floor and searches take turns; medians of
wall and processor time over the rounds. `--timed-users` of the users are timed and the seconds scaled to all.

The vectors are made up, to resemble the output of two towers: items lie in clusters of 500 on average, of
very different sizes, around centres whose spectrum decays like that of trained embeddings; a user is the mean
of six items of two clusters, and noise. They are saved as float16, as item towers' are, and mapped.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch

from ctr.retrieval.index import KINDS, build_index, open_index
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.nearest import TOP_BLOCK_ROWS, TOP_QUERY_ROWS, top_k
from moonrec.score_scan import one_thread_each

BLOCK_ROWS = 16 * TOP_BLOCK_ROWS
ITEMS_OF_CLUSTER = 500


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_up_towers(users: int, items: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Item and user vectors, float32, as the top of the file says."""
    rng = np.random.default_rng(0)
    spectrum = unit((1 + np.arange(width, dtype=np.float32)[None]) ** -0.5)

    def noise(rows: int) -> np.ndarray:
        return unit(rng.standard_normal((rows, width), dtype=np.float32) * spectrum)

    clusters = max(1, items // ITEMS_OF_CLUSTER)
    share = (1 + np.arange(clusters)) ** -0.7
    cluster = np.sort(rng.choice(clusters, items, p=share / share.sum()))
    item = unit(noise(clusters)[cluster] + 0.8 * noise(items))
    first = np.searchsorted(cluster, np.arange(clusters + 1))
    user = np.zeros((users, width), dtype=np.float32)
    for _ in range(2):
        liked = cluster[rng.integers(0, items, users)]
        for _ in range(3):
            user += item[rng.integers(first[liked], first[liked + 1])]
    # The catalogue's order is not that of the clusters.
    return item[rng.permutation(items)], unit(unit(user) + 0.3 * noise(users)).astype(np.float32)


def products(user: np.ndarray, vectors: EmbeddingSet) -> None:
    """The floor: every product of users and items, thrown away."""
    tiles = torch.from_numpy(user).split(TOP_QUERY_ROWS)
    out = [torch.empty(len(tile), TOP_BLOCK_ROWS) for tile in tiles]

    def work(number: int, block: torch.Tensor) -> None:
        for part in block.split(TOP_BLOCK_ROWS):
            scores = out[number] if len(part) == TOP_BLOCK_ROWS else None
            torch.mm(tiles[number], part.T, out=scores)

    with one_thread_each() as threads:
        for batch in vectors.blocks():
            for start in range(0, len(batch), BLOCK_ROWS):
                block = torch.from_numpy(batch[start : start + BLOCK_ROWS].astype(np.float32))
                for job in [threads.submit(work, number, block) for number in range(len(tiles))]:
                    job.result()


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of each, in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (statistics.median(one for one, _ in both), statistics.median(two for _, two in both))
        for name, both in taken.items()
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--timed-users", type=int, help="all of them by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    item, user = made_up_towers(options.users, options.items, options.dim)
    timed = user[: options.timed_users]
    scale = len(user) / len(timed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        with EmbeddingSetWriter(folder, options.dim, {}) as writer:
            writer.write([str(number) for number in range(len(item))], item)
        del item
        vectors = EmbeddingSet.open(folder)
        print("Ratios are of processor seconds.\n")
        print("| what | k | wall s | processor s | ratio to floor | speed-up over exact | recall |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        top_k(timed[:1], vectors, 1)
        for k in options.k:
            for kind in options.kinds:
                built = build_index(folder, kind, user[-1000:], model_fingerprint="none", k=k)
                index = open_index(folder)
                works: dict[str, Callable[[], object]] = {
                    "floor": partial(products, timed, vectors),
                    "exact": partial(top_k, timed, vectors, k),
                    kind: partial(index.search, timed, k),
                }
                taken = medians(works, options.rounds)
                for name, (wall, processor) in taken.items():
                    ratios = (processor / taken["floor"][1], taken["exact"][1] / processor)
                    recall = built["recall"] if name == kind else 1.0
                    print(
                        f"| {name} | {k} | {scale * wall:.1f} | {scale * processor:.1f} "
                        f"| {ratios[0]:.2f} | {ratios[1]:.2f} | {recall:.3f} |",
                        flush=True,
                    )
                print(f"\n{kind}: {built}\n", flush=True)


if __name__ == "__main__":
    main()
