"""An encoder at work: on its device, with its preparer and its look at core regions, at one width of vectors.

Shapes: N products of a shard, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from encoders.encoder import Encoder, Preparer, ProductTable
from encoders.encoding import encode
from encoders.evaluation.narrowing import Narrowing
from encoders.loading import load_encoder
from encoders.look import Look
from encoders.products import BrokenImages, Product, View, iter_items
from moonrec.errors import UserError
from moonrec.progress import progress
from moonrec.tables import Table


@dataclass(frozen=True)
class WorkingEncoder:
    """Products to vectors of one width, shard by shard.

    Attributes:
        name: what the user called the encoder, for messages.
        encoder: the encoder, on its device.
        preparer: makes its tables.
        look: finds core regions.
        device: where it computes.
        narrowing: what its vectors go through.
    """

    name: str
    encoder: Encoder
    preparer: Preparer
    look: Look
    device: torch.device
    narrowing: Narrowing
    _counted: set[Path] = field(default_factory=set)

    @classmethod
    def start(
        cls, name: str, items: Table | None, device: torch.device, cache: Path | None
    ) -> WorkingEncoder:
        """Load an encoder; an untrained one is fitted to the catalogue.

        Raises:
            UserError: there is no such encoder, or it is untrained and there is no catalogue to fit it to.
        """
        encoder, ready = load_encoder(name, items)
        preparer, look = encoder.preparer(cache, device), Look(encoder, device, cache)
        if not ready:
            if items is None:
                raise UserError("an untrained encoder is fitted to a catalogue first: name it with --items")
            products = look(items, iter_items(items))
            encoder.calibrate(preparer.table(progress(products, "catalogue features")))
            preparer.broken = BrokenImages()
        return cls(name, encoder.to(device), preparer, look, device, Narrowing(encoder.config.dim))

    @property
    def dim(self) -> int:
        """Width E of the vectors."""
        return self.narrowing.dim

    def at(self, dim: int) -> WorkingEncoder:
        """The same one whose vectors are the Matryoshka prefix of `dim` components."""
        return self.through(Narrowing(dim))

    def through(self, narrowing: Narrowing) -> WorkingEncoder:
        """The same one whose vectors go through `narrowing`."""
        return replace(self, narrowing=narrowing)

    def shards(
        self, batches: Iterable[list[Product]], seen_in: Table | None, what: str
    ) -> Iterator[ProductTable]:
        """The products as tables to encode, with core regions if they stand in the table `seen_in`.

        Pictures that cannot be used are counted when a table passes for the first time.
        """
        broken = self.preparer.broken
        looked = batches
        if seen_in is not None:
            looked = self.look(seen_in, batches)
            if seen_in.path in self._counted:
                self.preparer.broken = BrokenImages()
            self._counted.add(seen_in.path)
        for _, shard in progress(self.preparer.shards(looked), what):
            yield shard
        self.preparer.broken = broken

    def vectors(self, shard: ProductTable, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (N, E) float32 of what `view` shows, and which products (N,) show nothing.

        Raises:
            UserError: the encoder gives vectors that are not finite.
        """
        vectors_NE, empty_N = encode(self.encoder, shard, device=self.device, view=view)
        if broken := int((~np.isfinite(vectors_NE)).any(axis=1).sum()):
            raise UserError(
                f"{self.name}: {broken:,} of {len(vectors_NE):,} vectors hold numbers that are not finite, "
                "as after a training that diverged; take an earlier run, or train with a lower rate"
            )
        return self.narrowing(vectors_NE), empty_N
