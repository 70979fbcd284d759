"""Products with their core regions, as a stream: known boxes are looked up, the others are found on the way.

Pictures are decoded ahead, in parallel; equal ones in a batch are looked at once. Memory holds two batches of
products and the boxes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from encoders.products import Aspect, BrokenImages, Product
from encoders.regions.boxes import Found, area
from encoders.regions.store import Key, RegionStore
from moonrec.images import BrokenImage


class Detector(Protocol):
    """Finds the core region of pictures."""

    uses_title: bool

    def fingerprint(self) -> str:
        """A digest of everything that the boxes depend on."""

    def prepare(self, product: Product) -> Any:
        """A product's picture in the form that `detect` wants; called in several threads.

        Raises:
            BrokenImage: the picture does not decode.
        """

    def detect(self, prepared: Sequence[Any], titles: Sequence[str]) -> list[Found]:
        """The core regions of prepared pictures, in their order."""


@dataclass
class RegionCounts:
    """What `attach` met: `computed` distinct pictures were looked at in `seconds`, the others were known."""

    pictures: int = 0
    computed: int = 0
    seconds: float = 0.0
    area: float = 0.0
    sources: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    broken: BrokenImages = field(default_factory=BrokenImages)

    def add(self, found: Found) -> None:
        """Count one usable picture."""
        self.pictures += 1
        self.area += area(found.box)
        self.sources[found.source] += 1
        if found.box is None:
            self.whole[found.reason] += 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `area` is the mean share of the picture inside the box, 1 without a box."""
        return {
            "pictures": self.pictures,
            "computed": self.computed,
            "sources": dict(sorted(self.sources.items())),
            "whole": dict(sorted(self.whole.items())),
            "mean_area": self.area / self.pictures if self.pictures else None,
            "broken_images": self.broken.to_dict(),
            "seconds": self.seconds,
            "pictures_per_second": self.computed / self.seconds if self.computed else None,
        }


@dataclass(frozen=True)
class _Work:
    """A batch on its way: its titles and keys, what is known, and the pictures that are being decoded."""

    products: list[Product]
    titles: list[str]
    keys: list[Key | None]
    known: dict[Key, Found]
    decoding: dict[Key, Future[Any]]


class Regions:
    """Sets `region` of products.

    Args:
        detector: finds the boxes that are not known.
        store: boxes of this detector.
        prefer: boxes that are taken first where there are any, keyed by picture and title.
    """

    def __init__(self, detector: Detector, store: RegionStore, prefer: RegionStore | None = None) -> None:
        self._detector = detector
        self._store = store
        self._prefer = prefer if prefer is not None and len(prefer) else None
        self.counts = RegionCounts()

    @property
    def path(self) -> str | None:
        """The table of boxes; None if they are kept in memory only."""
        return None if self._store.path is None else str(self._store.path)

    def attach(
        self, batches: Iterable[list[Product]], titled: bool = True
    ) -> Generator[list[Product], None, None]:
        """The same products, in their order, each with its core region; None stands for the whole picture.

        Without `titled`, words play no role: a query photo is looked at in the same way whether the words
        beside it are shown to the encoder or not.

        Products without a usable picture pass as they are. New boxes are written at the end, also when the
        caller stops early or an error ends the stream, and now and then before.
        """
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            waiting: deque[_Work] = deque()
            try:
                for products in batches:
                    waiting.append(self._start(products, titled, pool))
                    if len(waiting) > 1:
                        yield self._finish(waiting.popleft())
                while waiting:
                    yield self._finish(waiting.popleft())
            finally:
                for work in waiting:
                    for future in work.decoding.values():
                        future.cancel()
                self._store.flush()

    def _start(self, products: list[Product], titled: bool, pool: ThreadPoolExecutor) -> _Work:
        titles = [_title(product) if titled else "" for product in products]
        named = zip(products, titles, strict=True)
        keys = [_key(product, title if self._detector.uses_title else None) for product, title in named]
        known: dict[Key, Found] = {}
        decoding: dict[Key, Future[Any]] = {}
        for product, title, key in zip(products, titles, keys, strict=True):
            if key is None or key in known or key in decoding:
                continue
            found = self._store.find(key)
            if found is not None:
                known[key] = found
            elif self._preferred(product, title) is None:
                decoding[key] = pool.submit(self._detector.prepare, product)
        return _Work(products, titles, keys, known, decoding)

    def _finish(self, work: _Work) -> list[Product]:
        self._compute(work)
        return [
            self._with_region(product, title, key, work.known)
            for product, title, key in zip(work.products, work.titles, work.keys, strict=True)
        ]

    def _compute(self, work: _Work) -> None:
        started = time.perf_counter()
        title_of = dict(zip(work.keys, work.titles, strict=True))
        prepared = {key: picture for key, future in work.decoding.items() if (picture := _usable(future))}
        found = self._detector.detect(
            [picture[0] for picture in prepared.values()], [title_of[key] for key in prepared]
        )
        for key, one in zip(prepared, found, strict=True):
            work.known[key] = self._store.add(key, one)
        self.counts.computed += len(prepared)
        self.counts.seconds += time.perf_counter() - started

    def _with_region(self, product: Product, title: str, key: Key | None, known: dict[Key, Found]) -> Product:
        if key is None:
            if product.broken is not None:
                self.counts.broken.add(product.key, product.broken)
            return product
        found = self._preferred(product, title) or known.get(key)
        if found is None:
            self.counts.broken.add(product.key, "does not decode")
            return product
        self.counts.add(found)
        return replace(product, region=found.box)

    def _preferred(self, product: Product, title: str) -> Found | None:
        if self._prefer is None:
            return None
        key = _key(product, title)
        return None if key is None else self._prefer.find(key)


def _key(product: Product, title: str | None) -> Key | None:
    """Under which a product's box is kept; a `title` of None plays no role for it."""
    if product.image is None:
        return None
    text = "" if title is None else hashlib.sha256(title.encode()).hexdigest()
    return Key(hashlib.sha256(product.image).hexdigest(), text)


def _title(product: Product) -> str:
    return next((text for aspect, text in product.texts if aspect is Aspect.TITLE), "")


def _usable(future: Future[Any]) -> tuple[Any] | None:
    try:
        return (future.result(),)
    except BrokenImage:
        return None
