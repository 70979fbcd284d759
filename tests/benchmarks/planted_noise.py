"""What dynamic sample filtering is worth where some purchases are wrong, and whom it filters.

    python tests/benchmarks/planted_noise.py [--items 1200] [--shares 0,.1,.2,.4] [--seeds 3] [--epochs 8]

In simulated searches a share of the training rows is given another item, drawn at random. The joint round
trains on them with and without the filter. Printed as Markdown: recall@10 on clean test searches, by photo
and by words; and of the pairs that counted less than 1 in the last epoch, how many are planted (precision),
and how many of the planted ones are among them (found).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.filtered_pairs import FILE
from encoders.posttrain import PosttrainConfig, posttrain
from moonrec.simulation import simulate

TASKS = {"photo": "image_to_item", "words": "text_to_item"}


def plant(searches: pa.Table, item_ids: list[str], share: float, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Give a share of the rows another item; returns the table and which rows these are."""
    rng = np.random.default_rng((seed, 17))
    wrong = np.zeros(len(searches), bool)
    wrong[rng.permutation(len(searches))[: round(share * len(searches))]] = True
    items = searches.column("item_id").to_pylist()
    for row in np.flatnonzero(wrong).tolist():
        items[row] = item_ids[rng.choice([n for n, name in enumerate(item_ids) if name != items[row]])]
    place = searches.column_names.index("item_id")
    return searches.set_column(place, "item_id", pa.array(items, pa.string())), wrong


def run(
    data: Path, searches: Path, out: Path, *, filtering: bool, options: Mapping[str, Any]
) -> dict[str, float]:
    """Train and evaluate once; recall@10 per task."""
    posttrain(
        PosttrainConfig(
            items=str(data / "items.parquet"),
            searches=str(searches),
            out=str(out),
            rounds=("joint",),
            filter=filtering,
            **options,
        )
    )
    found = evaluate(
        EvaluateConfig(
            encoder=str(out),
            items=str(data / "items.parquet"),
            searches=str(data / "searches_test.parquet"),
            out=str(out) + "-test",
            cache=options["cache"],
            tasks=tuple(TASKS.values()),
            device="cpu",
        )
    )
    return {name: found["retrieval"][task]["hit@10"] for name, task in TASKS.items()}


def whom(out: Path, wrong: np.ndarray) -> dict[str, float]:
    """Precision and found share of what the filter weighted down in the last epoch."""
    rows = pq.read_table(out / FILE, columns=["search"]).column("search").to_numpy()
    hit = int(wrong[rows.astype(np.int64)].sum())
    # A tenth of the planted rows is held out, and never trained on.
    return {
        "filtered": len(rows) / len(wrong),
        "precision": hit / len(rows) if len(rows) else float("nan"),
        "found": hit / wrong.sum() if wrong.any() else float("nan"),
    }


def study(
    items: int, share: float, seed: int, epochs: int, pairs: int, cache: str
) -> dict[str, dict[str, float]]:
    """One simulated shop with one share of wrong purchases, with and without the filter."""
    options: dict[str, Any] = {"seed": seed, "epochs": epochs, "patience": epochs, "pairs_per_epoch": pairs}
    options |= {"batch_size": 128, "cache": cache, "device": "cpu"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "data", items=items, users=60, seed=seed)
        item_ids = pq.read_table(folder / "data/items.parquet", columns=["item_id"]).column(0).to_pylist()
        table, wrong = plant(pq.read_table(folder / "data/searches_train.parquet"), item_ids, share, seed)
        searches = folder / "data/planted.parquet"
        pq.write_table(table, searches)
        found = {}
        for kind, filtering in (("with", True), ("without", False)):
            out = folder / kind
            found[kind] = run(folder / "data", searches, out, filtering=filtering, options=options)
        found["with"] |= whom(folder / "with", wrong)
    return found


def numbers(text: str) -> list[float]:
    """`0,.1` as numbers."""
    return [float(part) for part in text.split(",")]


@click.command()
@click.option("--items", default=1200, show_default=True, type=click.IntRange(60))
@click.option("--shares", default="0,.1,.2,.4", show_default=True)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--epochs", default=8, show_default=True, type=click.IntRange(1))
@click.option("--pairs", default=1080, show_default=True, type=click.IntRange(2), help="Per epoch.")
@click.option("--cache", default="", help="Folder of the feature cache.")
def main(items: int, shares: str, seeds: int, epochs: int, pairs: int, cache: str) -> None:
    """Print the table."""
    print(
        "| wrong | photo, filter | photo, none | words, filter | words, none | filtered | precision | found |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for share in numbers(shares):
        every = [study(items, share, seed, epochs, pairs, cache) for seed in range(seeds)]

        def mean(kind: str, name: str, every: list[dict[str, dict[str, float]]] = every) -> str:
            values = [one[kind][name] for one in every]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            return f"{statistics.mean(values):.3f}{spread}"

        cells = [mean(kind, name) for name in TASKS for kind in ("with", "without")]
        cells += [mean("with", name) for name in ("filtered", "precision", "found")]
        print(f"| {share:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
