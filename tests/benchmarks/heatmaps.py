"""Whether heatmaps lie on the product, before and after training, on simulated photos whose boxes are known.

    moonrec simulate -o DATA --items 1200 --users 1200
    moonrec posttrain --items DATA/items.parquet --searches DATA/searches_train.parquet \\
        --events DATA/events_train.parquet --holdout DATA/impressions_test.parquet -o RUN
    python tests/benchmarks/heatmaps.py --data DATA --encoder RUN [--products 60]

Prints, as Markdown: the mean mass of the heat inside the true box beside the box's share of the picture (what
an even map has inside), how often the hottest cell's middle is inside, and a deletion test: what covering the
ten hottest of 49 cells changes of the vector, beside ten cells at random. That cover is one even colour, not
the blur that the map is made with.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from encoders.encoder import Encoder
from encoders.encoding import encode
from encoders.heatmap.attribution import attribute
from encoders.heatmap.occlusion import CELLS, mass_inside
from encoders.loading import cache_folder, load_encoder
from encoders.look import Look
from encoders.products import Product, iter_items
from moonrec.images import decode_image
from moonrec.tables import ITEMS, open_table

CPU = torch.device("cpu")
HIDDEN = 10
Box = tuple[float, float, float, float]


def ready(name: str, products: Sequence[Product], data: Path) -> Encoder:
    """An encoder; an untrained one is fitted to the catalogue."""
    encoder, is_ready = load_encoder(name, open_table(data / "items.parquet", ITEMS))
    if not is_ready:
        encoder.calibrate(encoder.preparer(cache_folder(None), CPU).table([list(products)]))
    return encoder


def without_cells(product: Product, cells: np.ndarray) -> Product:
    """The product with some cells of its picture in the picture's mean colour."""
    assert product.image is not None
    picture = np.asarray(decode_image(product.image).resize((CELLS * 32, CELLS * 32))).copy()
    hidden = np.isin(np.arange(CELLS * CELLS), cells).reshape(CELLS, CELLS)
    picture[np.kron(hidden, np.ones((32, 32), bool))] = picture.mean((0, 1))
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "BMP")
    return replace(product, image=stream.getvalue())


def measure(encoder: Encoder, products: Sequence[Product], boxes: Sequence[Box]) -> np.ndarray:
    """Per product: mass inside, hottest cell inside, changes by deleting the hottest and random cells."""
    rng, variants, rows = np.random.default_rng(0), [], []
    for product, box, one in zip(products, boxes, attribute(encoder, products, CPU), strict=True):
        assert one.heat_GG is not None
        order = np.argsort(-one.heat_GG.ravel(), kind="stable")
        y, x = ((place + 0.5) / CELLS for place in divmod(int(order[0]), CELLS))
        rows.append((mass_inside(one.heat_GG, box), box[0] <= x <= box[2] and box[1] <= y <= box[3]))
        for cells in (order[:0], order[:HIDDEN], rng.permutation(CELLS * CELLS)[:HIDDEN]):
            variants.append(without_cells(product, cells))
    vectors, _ = encode(encoder, encoder.preparer(None, CPU).table([variants]), device=CPU)
    cosines = np.einsum("nve,ne->nv", vectors.reshape(len(rows), 3, -1), vectors[::3])
    return np.concatenate([np.array(rows, np.float64), 1 - cosines[:, 1:]], 1)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--encoder", required=True)
@click.option("--products", "count", default=60, show_default=True, type=click.IntRange(2))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the sample.")
def main(data: Path, encoder: str, count: int, seed: int) -> None:
    """Measure both encoders on the same products, and print the table."""
    items = open_table(data / "items.parquet", ITEMS)
    untrained, _ = load_encoder("compact")
    products = [p for batch in Look(untrained, CPU, None)(items, iter_items(items)) for p in batch]
    truth = {row["item_id"]: row for row in pq.read_table(data / "truth_items.parquet").to_pylist()}
    usable = [p for p in products if p.image is not None and truth[p.key]["box"] is not None]
    places = np.random.default_rng(seed).choice(len(usable), min(count, len(usable)), replace=False)
    chosen = [usable[place] for place in sorted(places.tolist())]
    boxes: list[Box] = [tuple(truth[p.key]["box"]) for p in chosen]
    cluttered = np.array([truth[p.key]["cluttered"] for p in chosen], bool)
    even = np.array([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes])
    print("| | photos | even map | mass inside | hottest inside | hottest deleted | random deleted |")
    print("|---|---|---|---|---|---|---|")
    masses = []
    for name, path in (("before", "compact"), ("after", encoder)):
        found = measure(ready(path, products, data), chosen, boxes)
        masses.append(found[:, 0])
        for kind, rows in (("cluttered", cluttered), ("clean", ~cluttered)):
            mean = [f"{value:.3f}" for value in (even[rows].mean(), *found[rows].mean(0))]
            print(f"| {name}, {kind} | {rows.sum()} | {' | '.join(mean)} |")
    gain = masses[1] - masses[0]
    error = gain.std(ddof=1) / len(gain) ** 0.5
    print(f"\nmass inside, after minus before: {gain.mean():+.3f} (standard error {error:.3f})")


if __name__ == "__main__":
    main()
