"""Products on disk in a file without a name: it goes with the process, however that ends.

A record is a JSON text (key, texts, why the picture is broken, region), then the bytes of the picture's file.
"""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

from encoders.products import Aspect, Product
from moonrec.atomic import storage_errors


class ProductSpool:
    """Products written one after the other, then read by row.

    Args:
        folder: where the file lies, made if need be; default: the system's folder for temporary files.

    Raises:
        UserError: the folder cannot be written, or (by any method that writes) the disk is full.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = self._folder = Path(tempfile.gettempdir()) if folder is None else folder
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the spool
        self._starts = array("q", [0])
        self._heads = array("q")

    def append(self, products: Sequence[Product]) -> None:
        """Write products; a picture of no bytes at all comes back as none."""
        with storage_errors(self._folder):
            for product in products:
                head = json.dumps([product.key, product.texts, product.broken, product.region]).encode()
                image = product.image or b""
                self._file.write(head)
                self._file.write(image)
                self._heads.append(len(head))
                self._starts.append(self._starts[-1] + len(head) + len(image))

    def flush(self) -> None:
        """Make everything readable that was appended."""
        with storage_errors(self._folder):
            self._file.flush()

    def read(self, row: int) -> Product:
        """One product; may be called from several threads."""
        start, stop = self._starts[row], self._starts[row + 1]
        record = os.pread(self._file.fileno(), stop - start, start)
        if len(record) != stop - start:
            raise OSError(f"the spool of products in {self._folder} was cut short")
        head, image = record[: self._heads[row]], record[self._heads[row] :]
        key, texts, broken, region = json.loads(head)
        return Product(
            key=key,
            image=image or None,
            texts=tuple((Aspect(aspect), text) for aspect, text in texts),
            broken=broken,
            region=None if region is None else tuple(region),
        )
