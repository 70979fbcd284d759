"""Products as an encoder wants to look at them: with their core regions, or as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from encoders.encoder import Encoder
from encoders.products import Product
from moonrec.tables import SEARCHES, Table


@dataclass(frozen=True)
class Look:
    """Finds the core region of every picture, for an encoder that looks at them.

    Boxes are computed once and kept in a table beside the one that the products come from. A title helps to
    find its product; the words of a search do not, since its photo is also shown without them.

    Attributes:
        encoder: whose configuration says whether regions are wanted.
        device: where the detector runs.
        cache: folder for boxes that cannot be kept beside their table.
        write: whether this process keeps what it computes; one of several does.
    """

    encoder: Encoder
    device: torch.device
    cache: Path | None
    write: bool = True

    def __call__(self, table: Table, batches: Iterable[list[Product]]) -> Iterable[list[Product]]:
        """The products of `table`, batch by batch, with `region` set where there is one."""
        if not self.encoder.config.regions:
            return batches
        from encoders.regions import open_regions

        regions = open_regions(table.path, device=self.device, cache=self.cache, write=self.write)
        return regions.attach(batches, titled=table.spec.name != SEARCHES.name)
