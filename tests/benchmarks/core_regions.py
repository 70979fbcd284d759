"""How well the training-free detector of core regions finds simulated products, whose true boxes are known.

    python tests/benchmarks/core_regions.py [--items 300] [--seeds 3]

Prints mean intersection over union (IoU) on cluttered and on clean photos as Markdown, beside the whole
picture and a centred box of half its sides.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click
import pyarrow.parquet as pq
import torch

from encoders.products import iter_items
from encoders.regions import open_regions
from moonrec.simulation import simulate
from moonrec.tables import ITEMS, open_table

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
CENTRE: Box = (0.25, 0.25, 0.75, 0.75)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def measure(items: int, seed: int, found: dict[tuple[str, str], list[float]]) -> None:
    """Add the IoU of every photo of one simulated catalogue to `found`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "data", items=items, users=20, seed=seed)
        truth = {
            row["item_id"]: row for row in pq.read_table(folder / "data/truth_items.parquet").to_pylist()
        }
        path = folder / "data/items.parquet"
        regions = open_regions(path, device=torch.device("cpu"), cache=None)
        for products in regions.attach(iter_items(open_table(path, ITEMS))):
            for product in products:
                row = truth[product.key]
                if row["box"] is None or product.image is None:
                    continue
                kind = "cluttered" if row["cluttered"] else "clean"
                boxes = {"detector": product.region or WHOLE, "centre, half the sides": CENTRE}
                for method, box in {**boxes, "whole picture": WHOLE}.items():
                    found.setdefault((method, kind), []).append(iou(box, tuple(row["box"])))


@click.command()
@click.option("--items", default=300, show_default=True, type=click.IntRange(30))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
def main(items: int, seeds: int) -> None:
    """Measure, and print the table."""
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        measure(items, seed, found)
    kinds = ("cluttered", "clean")
    counts = {kind: len(found["detector", kind]) for kind in kinds}
    print(f"| mean IoU | {' | '.join(f'{kind} ({counts[kind]})' for kind in kinds)} |")
    print("|---|---|---|")
    for method in dict.fromkeys(method for method, _ in found):
        print(f"| {method} | {' | '.join(f'{statistics.mean(found[method, kind]):.3f}' for kind in kinds)} |")


if __name__ == "__main__":
    main()
