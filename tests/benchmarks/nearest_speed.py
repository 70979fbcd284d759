"""`moonrec.nearest` against `faiss.IndexFlatIP` on the same vectors, and GAUC of 10 million rows; Markdown.

```
.venv/bin/python tests/benchmarks/nearest_speed.py                       # two threads, five rounds
.venv/bin/python tests/benchmarks/nearest_speed.py --threads 8 --rounds 9 --largest 100000
```

Both search the same float32 vectors in memory with the same number of threads and take turns; medians of the
wall time are printed, and the ratio to faiss, which is meant to be at most 1.2. `ranks` and `log_partition`
answer other questions over the same scores, and stand beside for comparison. The two multiply
by different libraries (torch's and faiss's own): `product` is the time of ours alone. Run it on a machine
that does nothing else: threads that wait for a processor are waited for at the end of every tile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from moonrec.metrics import gauc
from moonrec.nearest import log_partition, ranks_of_positives, top_k
from moonrec.score_tiles import BLOCK_ROWS, QUERY_ROWS, ScoreTiles

# Rows, width, queries, k.
SIZES = (
    (1_000, 256, 1_000, 10),
    (10_000, 64, 100, 10),
    (10_000, 256, 1_000, 50),
    (100_000, 256, 20, 50),
    (100_000, 256, 2_000, 50),
    (1_000_000, 128, 500, 50),
)


def seconds(work: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def medians(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns, after one round that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            spent = seconds(work)
            if number:
                taken[name].append(spent)
    return {name: statistics.median(values) for name, values in taken.items()}


def search_times(rows: int, width: int, queries: int, k: int, rounds: int) -> dict[str, float]:
    """Medians for one size."""
    rng = np.random.default_rng(0)
    both = rng.standard_normal((rows + queries, width), dtype=np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    vectors, asked = both[:rows], both[rows:]
    positives = (np.arange(queries), rng.integers(0, rows, queries))
    index = faiss.IndexFlatIP(width)
    index.add(vectors)

    def blocks() -> list[np.ndarray]:
        return [vectors]

    def products() -> None:
        for _ in ScoreTiles(asked, blocks, None, BLOCK_ROWS, QUERY_ROWS):
            pass

    works: dict[str, Callable[[], object]] = {
        "faiss": lambda: index.search(asked, k),
        "top_k": lambda: top_k(asked, blocks, k),
        "product": products,
        "ranks": lambda: ranks_of_positives(asked, blocks, positives),
        "log_partition": lambda: log_partition(asked, blocks, 0.05),
    }
    return medians(works, rounds)


def gauc_seconds(rows: int, users: int) -> float:
    """GAUC of random rows."""
    rng = np.random.default_rng(0)
    user, label, score = rng.integers(0, users, rows), rng.integers(0, 2, rows), rng.random(rows)
    return seconds(lambda: gauc(user, label, score))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--largest", type=int, default=1_000_000, help="leave out larger catalogues")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    names = ("faiss", "top_k", "product", "ranks", "log_partition")
    print(f"| rows × width, queries, k | {' | '.join(names)} | top_k / faiss |")
    print("|---|" + "---:|" * (len(names) + 1))
    for rows, width, queries, k in SIZES:
        if rows <= options.largest:
            taken = search_times(rows, width, queries, k, options.rounds)
            cells = " | ".join(f"{1e3 * taken[name]:.1f} ms" for name in names)
            ratio = taken["top_k"] / taken["faiss"]
            print(f"| {rows:,} × {width}, {queries:,}, {k} | {cells} | {ratio:.2f} |", flush=True)
    print(f"\nGAUC of 10,000,000 rows of 1,000,000 users: {gauc_seconds(10_000_000, 1_000_000):.1f} s")


if __name__ == "__main__":
    main()
