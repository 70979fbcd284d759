"""What `moonrec export` gains over a plain loop around the same encoder; prints Markdown.

```
.venv/bin/python tests/benchmarks/export_speed.py                  # compact and tiny-mllm, five rounds
.venv/bin/python tests/benchmarks/export_speed.py --items 5000 --rounds 3 --backbone compact --device cuda
```

The plain loop reads a batch, decodes its pictures one after the other, pads the batch in the order of the
catalogue to its longest product, encodes it, and goes on to the next. Both read the same simulated catalogue
and use the same decoder, models, batch size, threads and precision, both load the encoder and write an
embedding set within the time that is measured, neither has a cache. They take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders import raw_products
from encoders.compact import CompactConfig, CompactEncoder
from encoders.encoder import Encoder, ProductBatch
from encoders.encoding_stream import BATCH_ROWS
from encoders.export import ExportConfig, export
from encoders.features import decode_pixels
from encoders.loading import TINY_MLLM, StartOptions, load_encoder, start_encoder
from encoders.precision import autocast, pick_device
from encoders.products import EVERYTHING, Product, iter_items
from encoders.raw_batches import RawBatch, run_towers
from encoders.towers import IMAGE_SIZE, Towers, tokenize
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.simulation import simulate
from moonrec.tables import ITEMS, open_table

BACKBONES = ("compact", TINY_MLLM)
_USERS = 20


@dataclass(frozen=True)
class Measured:
    """One run: products a second, share of padding among the tokens, share of time spent on waiting."""

    items_per_second: float
    padding: float
    waiting: float


class TokenCount:
    """Counts what enters an encoder: real tokens and all tokens of its batches."""

    def __init__(self) -> None:
        self.real, self.all = 0, 0

    def see(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        """To be called before every forward pass."""
        mask_BT = getattr(inputs[0], "mask_BT", getattr(inputs[0], "text_mask_BT", None))
        assert mask_BT is not None
        self.real += int(mask_BT.sum())
        self.all += mask_BT.numel()

    def padding(self) -> float:
        """Share of padding."""
        return 1 - self.real / max(1, self.all)


def prepare(backbone: str, items: str, folder: Path) -> Path:
    """An encoder of random weights on disk, as a trained one would stand there."""
    out = folder / backbone
    if backbone == "compact":
        encoder: Encoder = CompactEncoder(CompactConfig(regions=False))
    else:
        encoder, _ = start_encoder(backbone, StartOptions(regions=False), open_table(items, ITEMS))
    encoder.save_pretrained(out)
    return out


def by_export(encoder: Path, items: str, out: Path, device: str) -> Measured:
    """The product's own way."""
    with counted() as tokens:
        config = ExportConfig(encoder=str(encoder), items=items, out=str(out), device=device, cache="")
        found = export(config)
    return Measured(found["items_per_second"], tokens.padding(), found["decode_wait_share"])


def by_plain_loop(encoder: Path, items: str, out: Path, device: str) -> Measured:
    """The loop that one would write first."""
    started, waited, rows = time.perf_counter(), 0.0, 0
    with counted() as tokens, decoding_one_by_one(), torch.inference_mode():
        place = pick_device(device)
        model, _ = load_encoder(str(encoder))
        model = model.to(place).eval()
        make = batch_maker(model, place)
        batches = iter(iter_items(open_table(items, ITEMS), BATCH_ROWS))
        with EmbeddingSetWriter(out, model.config.dim, {}) as writer:
            while True:
                asked = time.perf_counter()
                products = next(batches, None)
                if products is None:
                    break
                finish = make(products)
                waited += time.perf_counter() - asked
                with autocast(place):
                    batch = finish()
                    vectors = model(batch).float().cpu().numpy()
                shown = ~batch.is_empty_B().cpu().numpy()
                keys = [product.key for product in products]
                writer.write([keys[row] for row in np.flatnonzero(shown)], vectors[shown])
                rows += len(products)
    seconds = time.perf_counter() - started
    return Measured(rows / seconds, tokens.padding(), waited / seconds)


def batch_maker(
    model: Encoder, device: torch.device
) -> Callable[[list[Product]], Callable[[], ProductBatch]]:
    """Decodes products; what is returned then computes the encoder's batch of them."""
    if not isinstance(model, CompactEncoder):
        preparer = model.preparer(None, device)

        def read(products: list[Product]) -> Callable[[], ProductBatch]:
            ((_, table),) = preparer.shards([products])
            batch = table.gather(np.arange(len(products)), EVERYTHING)
            return lambda: batch.to(device)

        return read
    towers = Towers.pretrained().to(device).eval()

    def look(products: list[Product]) -> Callable[[], ProductBatch]:
        pixels = [decode_pixels(product) for product in products]
        shown = [views for views in pixels if views.size]
        stacked = np.stack(shown) if shown else np.zeros((0, 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        has_image = torch.tensor([views.size > 0 for views in pixels])
        words = tokenize([product.texts for product in products])
        raw = RawBatch(torch.from_numpy(stacked), has_image, words)
        return lambda: run_towers(towers, raw.to(device))

    return look


@contextmanager
def counted() -> Iterator[TokenCount]:
    """Count the tokens of every forward pass of an encoder."""
    tokens = TokenCount()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: tokens.see(module, inputs) if isinstance(module, Encoder) else None
    )
    try:
        yield tokens
    finally:
        handle.remove()


@contextmanager
def decoding_one_by_one() -> Iterator[None]:
    """Let backbones that decode in threads have one thread."""
    many = raw_products._pool
    with ThreadPoolExecutor(1) as one:
        raw_products._pool = lambda: one  # type: ignore[assignment]
        try:
            yield
        finally:
            raw_products._pool = many


def measure(backbone: str, items: str, folder: Path, device: str, rounds: int) -> dict[str, Measured]:
    """Medians of both ways over some rounds, after one that does not count."""
    encoder = prepare(backbone, items, folder)
    ways = {"plain loop": by_plain_loop, "moonrec export": by_export}
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            found = way(encoder, items, folder / "set", device)
            if number:
                runs[name].append(found)
    return {name: _median(found) for name, found in runs.items()}


def _median(runs: list[Measured]) -> Measured:
    middle = sorted(runs, key=lambda run: run.items_per_second)[len(runs) // 2]
    speed = statistics.median(run.items_per_second for run in runs)
    return replace(middle, items_per_second=speed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--catalogue", help="an items table; by default one is simulated")
    parser.add_argument("--items", type=int, default=1000, help="products to simulate")
    parser.add_argument("--image-size", type=int, default=512, help="side of their pictures in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", choices=BACKBONES)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.catalogue is None:
            simulate(folder / "shop", items=options.items, users=_USERS, image_size=options.image_size)
        items = options.catalogue or str(folder / "shop" / "items.parquet")
        rows, threads = open_table(items, ITEMS).count_rows(), torch.get_num_threads()
        catalogue = "simulated products" if options.catalogue is None else "products"
        print(f"{rows:,} {catalogue}, {options.device}, {threads} threads, {options.rounds} rounds.\n")
        print("| backbone | | items/s | padding | waiting for products | against the plain loop |")
        print("|---|---|---|---|---|---|")
        for backbone in (options.backbone,) if options.backbone else BACKBONES:
            found = measure(backbone, items, folder, options.device, options.rounds)
            plain = found["plain loop"].items_per_second
            for way, run in found.items():
                print(
                    f"| {backbone} | {way} | {run.items_per_second:.1f} | {run.padding:.0%} | "
                    f"{run.waiting:.0%} | {run.items_per_second / plain:.2f} x |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
