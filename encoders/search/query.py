"""One query from a photo file, words or both, as evaluation makes one of a row of `searches`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.products import Aspect, Product
from encoders.regions.find import Regions
from encoders.regions.saliency import SaliencyDetector
from encoders.regions.store import RegionStore
from encoders.search.searcher import Searcher
from encoders.towers import ImageTower
from moonrec.errors import UserError
from moonrec.images import FORMATS, BrokenImage, decode_image, image_bytes

# Any size will do to see whether a picture decodes; large JPEG files do it faster at a small one.
_LOOKED_AT = 256


def query_of(image: str | Path | None, text: str | None) -> Product:
    """The query that a photo file, words, or both are.

    Raises:
        UserError: neither is given, the file is not a usable picture, or the words are blank.
    """
    if image is None and text is None:
        raise UserError(
            "nothing to search for: give a photo with --image, words with --text, or both; a table of them "
            "with --queries"
        )
    words = () if text is None else ((Aspect.TITLE, _words(text)),)
    return Product("query", None if image is None else _picture(image), words)


def query_vector(searcher: Searcher, query: Product) -> tuple[Product, np.ndarray]:
    """The query with its core region, if the encoder looks at one, and its unit vector (1, D).

    Raises:
        UserError: the encoder sees nothing in it.
    """
    query = _with_region(searcher.worker, query)
    vector_1D, empty_1 = searcher.vectors(searcher.worker.preparer.table([[query]]))
    if empty_1[0]:
        shown = ", ".join(repr(words) for _, words in query.texts)
        raise UserError(f"--text {shown}: holds nothing that the encoder reads; give words, or a photo")
    return query, vector_1D


def _with_region(worker: WorkingEncoder, query: Product) -> Product:
    if query.image is None or not worker.encoder.config.regions:
        return query
    tower = ImageTower()
    tower.load_pretrained()
    detector = SaliencyDetector(tower.requires_grad_(False), worker.device)
    # A single photo has no table that its box could be kept beside.
    regions = Regions(detector, RegionStore(None, detector.fingerprint(), write=False))
    return next(regions.attach([[query]], titled=False))[0]


def _words(text: str) -> str:
    words = text.strip()
    if not words:
        raise UserError("--text: is empty; give some words, or leave it out")
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--text {words!a}: is not UTF-8; type it again") from error
    return words


def _picture(path: str | Path) -> bytes:
    """The bytes of a photo that decodes."""
    place = Path(path).resolve()
    try:
        data = image_bytes({"path": place.name}, place.parent)
        assert data is not None
        decode_image(data, draft_size=_LOOKED_AT)
    except BrokenImage as error:
        raise UserError(f"--image {path}: {error}; give a {', '.join(FORMATS)} file") from error
    return data
