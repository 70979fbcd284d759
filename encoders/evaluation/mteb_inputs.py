"""What mteb hands to an encoder, as products: its words are a title, its picture the product's picture.

Pictures reach the encoder as they lie in the data set: the file itself where mteb would decode one, so that
it is decoded once, at the scale that the encoder wants, and a broken one stops nothing. Pixels that mteb made
itself are packed without loss.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader

from encoders.products import Aspect, Product
from moonrec.errors import UserError
from moonrec.images import BrokenImage, image_bytes

# What PNG holds as it is; TIFF holds the others that Pillow knows from photos.
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")


def products_of(batches: Iterable[Mapping[str, Any]], where: str) -> Iterator[list[Product]]:
    """The inputs of mteb, batch by batch; a picture that cannot be read is hidden, and `broken` says why.

    Args:
        batches: mappings with `text` (a string per input), `image` (a Pillow image, `{"bytes", "path"}` or
            None per input), or both.
        where: what is encoded, for messages; keys are `<where>: row <number>`.

    Raises:
        UserError: there is neither text nor picture, or a picture is in none of these forms.
    """
    number = 0
    for batch in batches:
        columns = [batch[name] for name in ("text", "image") if name in batch]
        if not columns:
            held = ", ".join(sorted(batch))
            raise UserError(f"{where}: a moonrec encoder reads `text` and `image`; mteb gave {held}")
        rows = len(columns[0])
        texts, images = (batch.get(name, [None] * rows) for name in ("text", "image"))
        products = []
        for text, image in zip(texts, images, strict=True):
            products.append(_product(f"{where}: row {number}", text, image))
            number += 1
        yield products


def undecoded(inputs: DataLoader[Any]) -> Iterable[Mapping[str, Any]]:
    """The same batches with the files of the pictures instead of pixels, where the data set holds files."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    data: Any = inputs.dataset
    collate = inputs.collate_fn
    # A transform or a collate function that is somebody's own wants the pixels.
    is_plain = isinstance(data, Dataset) and data.format["type"] is None
    if not is_plain or not collate.__module__.startswith("mteb."):
        return inputs
    if not isinstance(data.features.get("image"), ImageFeature):
        return inputs
    return DataLoader(
        data.cast_column("image", ImageFeature(decode=False)),
        batch_size=inputs.batch_size,
        collate_fn=collate,
        num_workers=inputs.num_workers,
    )


def packed(image: Image.Image) -> bytes:
    """The pixels of a Pillow image as a file that decodes to the same ones."""
    stream = io.BytesIO()
    if image.mode in _PNG_MODES:
        image.save(stream, "PNG", compress_level=1)
    else:
        image.save(stream, "TIFF")
    return stream.getvalue()


def _product(key: str, text: str | None, image: object) -> Product:
    words = (text or "").strip()
    texts = ((Aspect.TITLE, words),) if words else ()
    try:
        return Product(key, _file(key, image), texts)
    except BrokenImage as error:
        return Product(key, None, texts, broken=str(error))


def _file(key: str, image: object) -> bytes | None:
    if image is None:
        return None
    if isinstance(image, Image.Image):
        return packed(image)
    if not isinstance(image, Mapping):
        raise UserError(f"{key}: the picture is a {type(image).__name__}; expected a Pillow image")
    if image.get("bytes") is None and image.get("path") is not None:
        # The data set's own file, wherever it lies: `image_bytes` lets no path leave its folder.
        path = Path(image["path"])
        return image_bytes({"path": path.name}, path.parent)
    return image_bytes(image, Path())
