"""How well cut-outs keep simulated products, whose true outlines are known, and how fast variants are made.

    python tests/benchmarks/augment_images.py [--photos 300] [--size 256]

Prints, for shop photos in clutter and on plain ground, the share of the product that a cut-out keeps, the
share of the background that it takes along, and the intersection over union (IoU), beside the widened box of
the core-region detector alone; and how many variants a second are made on one core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from encoders.augment.cutout import boxed, cut_out
from encoders.augment.images_local import LocalImages
from encoders.products import Product
from encoders.regions.boxes import Box
from encoders.regions.saliency import SaliencyDetector
from encoders.towers import ImageTower
from moonrec.images import decode_image
from moonrec.simulation.catalogue import draw_catalogue
from moonrec.simulation.photos import Look, look_of, take_photo
from moonrec.simulation.scenes import Camera, main_view, other_view
from moonrec.simulation.shapes import SILHOUETTES

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Shot:
    """A photo of a simulated product and the pixels that the product covers."""

    jpeg: bytes
    truth_HW: Mask
    kind: str


def true_mask(look: Look, camera: Camera, size: int) -> Mask:
    """The pixels (H, W) of a product in a photo of `size` pixels a side."""
    silhouette = SILHOUETTES[look.shape]
    matrix = camera.matrix() @ np.diag([look.width, 1.0]) * size / 2
    unit = float(np.sqrt(abs(np.linalg.det(matrix))))
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    for points in (*silhouette.body, *silhouette.trim):
        draw.polygon((points @ matrix.T + camera.centre() * size).ravel().tolist(), fill=255)
    for points, width in silhouette.behind:
        line = (points @ matrix.T + camera.centre() * size).ravel().tolist()
        draw.line(line, fill=255, width=round(width * unit), joint="curve")
    return np.asarray(image) > 0


def shots(photos: int, size: int) -> Iterator[Shot]:
    """Photos of as many products; every second in clutter or from another side."""
    rng = np.random.default_rng(0)
    catalogue = draw_catalogue(photos, 0)
    for item in range(photos):
        look = look_of(catalogue, item)
        camera, scene = main_view(rng, item % 2 == 0) if item % 3 else other_view(rng)
        photo = take_photo(look, camera, scene, rng, size)
        yield Shot(photo.jpeg, true_mask(look, camera, size), "plain" if scene.studio else "clutter")


def scores(mask_HW: NDArray[np.float32], truth_HW: Mask) -> tuple[float, float, float]:
    """Product kept, background kept, IoU."""
    found_HW = mask_HW > 0.5
    both = (found_HW & truth_HW).sum() / (found_HW | truth_HW).sum()
    return float(mask_HW[truth_HW].mean()), float(mask_HW[~truth_HW].mean()), float(both)


@click.command()
@click.option("--photos", default=300, show_default=True, type=click.IntRange(30))
@click.option("--size", default=256, show_default=True, type=click.IntRange(64))
def main(photos: int, size: int) -> None:
    """Measure, and print the tables."""
    torch.set_num_threads(1)
    tower = ImageTower()
    tower.load_pretrained()
    detector = SaliencyDetector(tower.requires_grad_(False), torch.device("cpu"))
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    products: list[Product] = []
    for shot in shots(photos, size):
        product = Product("", shot.jpeg, ())
        region: Box | None = detector.detect([detector.prepare(product)], [""])[0].box
        products.append(Product("", shot.jpeg, (), region=region))
        picture = decode_image(shot.jpeg)
        masks = {"cut-out": cut_out(picture, region), "widened box": boxed(picture.size, region)}
        for method, mask_HW in masks.items():
            if mask_HW is None:
                mask_HW = np.ones(shot.truth_HW.shape, np.float32)
            found.setdefault((shot.kind, method), []).append(scores(mask_HW, shot.truth_HW))
    print(
        "| photos | mask | product kept | least kept (5 %) | background kept | IoU |\n"
        "|---|---|---|---|---|---|"
    )
    for (kind, method), rows in sorted(found.items()):
        kept, behind, both = (np.array(column) for column in zip(*rows, strict=True))
        numbers = (kept.mean(), np.quantile(kept, 0.05), behind.mean(), both.mean())
        print(f"| {kind} ({len(rows)}) | {method} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    print_speed(products, size)


def print_speed(products: list[Product], size: int) -> None:
    """Variants a second, of four wanted for each product."""
    augmenter, rng = LocalImages(size), np.random.default_rng(0)
    started = time.perf_counter()
    made = sum(len(augmenter.variants(product, 4, rng)) for product in products)
    print(f"\n{made / (time.perf_counter() - started):.0f} variants a second of at most {size} px, one core")


if __name__ == "__main__":
    main()
