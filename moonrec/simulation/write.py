"""The simulated marketplace as Parquet: the tables that moonrec reads, and beside them the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moonrec.progress import progress
from moonrec.simulation.behaviour import EVENTS, Events, Impressions, Sessions
from moonrec.simulation.catalogue import Catalogue, IntArray, item_id
from moonrec.simulation.photos import Photo, look_of, take_photo
from moonrec.simulation.scenes import main_view, other_view, query_view
from moonrec.simulation.searches import Searches
from moonrec.simulation.seeds import stream
from moonrec.simulation.tastes import Users, user_id
from moonrec.simulation.words import write_query, write_text, write_wish
from moonrec.table_spec import ATTRIBUTES_TYPE, IMAGE_TYPE, IMAGES_TYPE

TIME = pa.timestamp("us", tz="UTC")
WISH_SHARE = 0.3
"""So many sessions start with words in the search box."""
_ROWS = 512
_ITEMS = pa.schema(
    {
        "item_id": pa.string(),
        "product_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "category": pa.string(),
        "attributes": ATTRIBUTES_TYPE,
        "image": IMAGE_TYPE,
        "images": IMAGES_TYPE,
    }
)
_SEARCHES = pa.schema(
    {
        "user_id": pa.string(),
        "timestamp": TIME,
        "query_text": pa.string(),
        "query_image": IMAGE_TYPE,
        "item_id": pa.string(),
        "negative_item_id": pa.string(),
        "event": pa.string(),
    }
)
Row = dict[str, object]
Box = tuple[float, float, float, float]


def _write_rows(path: Path, schema: pa.Schema, rows: Iterable[Row]) -> None:
    """Write rows as they come, a few hundred pictures in memory at a time."""
    with pq.ParquetWriter(path, schema) as writer:
        block: list[Row] = []
        for row in rows:
            block.append(row)
            if len(block) == _ROWS:
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema=schema))


def _ids(prefix: str, index: IntArray) -> pa.Array:
    """Return the ids of many positions at once, formatted as `item_id` and `user_id` do."""
    digits = pc.utf8_lpad(pa.array(index).cast(pa.string()), 6, padding="0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _picture(photo: Photo) -> Row:
    return {"bytes": photo.jpeg, "path": None}


def write_items(path: Path, catalogue: Catalogue, seed: int, image_size: int) -> list[Box | None]:
    """Write the catalogue; return where each item's product is in its main photo, if it has one."""
    boxes: list[Box | None] = []
    rows = _item_rows(catalogue, seed, image_size, boxes)
    _write_rows(path, _ITEMS, progress(rows, "items", len(catalogue)))
    return boxes


def _item_rows(catalogue: Catalogue, seed: int, size: int, boxes: list[Box | None]) -> Iterator[Row]:
    for item in range(len(catalogue)):
        text, look = write_text(catalogue, item, seed), look_of(catalogue, item)
        photos: list[Photo] = []
        count = 1 + int(catalogue.extra_photos[item]) if catalogue.has_image[item] else 0
        for number in range(count):
            rng = stream(seed, "photo", item, number)
            view = other_view(rng) if number else main_view(rng, bool(catalogue.cluttered[item]))
            photos.append(take_photo(look, *view, rng, size))
        boxes.append(photos[0].box if photos else None)
        yield {
            "item_id": item_id(item),
            "product_id": f"p{catalogue.product[item]:06d}",
            "title": text.title,
            "description": text.description,
            "category": text.category,
            "attributes": None if text.attributes is None else list(text.attributes.items()),
            "image": _picture(photos[0]) if photos else None,
            "images": [_picture(photo) for photo in photos[1:]] or None,
        }


def write_searches(
    path: Path, catalogue: Catalogue, searches: Searches, split: str, seed: int, image_size: int
) -> None:
    """Write searches with their photos, none of which is a photo of the catalogue."""
    rows = _search_rows(catalogue, searches, split, seed, image_size)
    _write_rows(path, _SEARCHES, progress(rows, f"searches {split}", len(searches)))


def _search_rows(catalogue: Catalogue, searches: Searches, split: str, seed: int, size: int) -> Iterator[Row]:
    for row in range(len(searches)):
        rng = stream(seed, "query " + split, row)
        item, negative = int(searches.item[row]), int(searches.negative[row])
        image = None
        if searches.has_image[row]:
            image = _picture(take_photo(look_of(catalogue, item), *query_view(rng), rng, size))
        yield {
            "user_id": user_id(int(searches.user[row])),
            "timestamp": int(searches.time[row]),
            "query_text": write_query(catalogue, item, rng) if searches.has_text[row] else None,
            "query_image": image,
            "item_id": item_id(item),
            "negative_item_id": item_id(negative) if negative >= 0 else None,
            "event": "purchase",
        }


def session_wishes(users: Users, sessions: Sessions, seed: int) -> pa.Array:
    """Return what was typed at the start of each session, null where nothing was."""
    typed = stream(seed, "typed").random(len(sessions.user)) < WISH_SHARE
    _, wording, shape = sessions.now_S3.T
    shapes = users.shapes_UK[sessions.user, shape]
    words = users.wordings_UKF[sessions.user, wording]
    rng = stream(seed, "wishes")
    texts = [
        write_wish(int(shapes[s]), int(words[s, 2]), int(words[s, 3]), rng) if typed[s] else None
        for s in range(len(typed))
    ]
    return pa.array(texts, pa.string())


def write_events(path: Path, events: Events, wishes: pa.Array, rows: IntArray) -> None:
    """Write the events at the positions `rows`."""
    table = pa.table(
        {
            "user_id": _ids("u", events.user[rows]),
            "item_id": _ids("i", events.item[rows]),
            "timestamp": pa.array(events.time[rows]).cast(TIME),
            "event": pa.array(EVENTS).take(pa.array(events.event[rows])),
            "query_text": wishes.take(pa.array(events.session[rows])),
        }
    )
    pq.write_table(table, path)


def write_impressions(path: Path, impressions: Impressions, wishes: pa.Array, rows: IntArray) -> None:
    """Write the impressions at the positions `rows`."""
    table = pa.table(
        {
            **_impression_keys(impressions, rows),
            "label": pa.array(impressions.label[rows].astype(np.int8)),
            "query_text": wishes.take(pa.array(impressions.session[rows])),
        }
    )
    pq.write_table(table, path)


def _impression_keys(impressions: Impressions, rows: IntArray) -> dict[str, pa.Array]:
    return {
        "user_id": _ids("u", impressions.user[rows]),
        "item_id": _ids("i", impressions.item[rows]),
        "timestamp": pa.array(impressions.time[rows]).cast(TIME),
    }


def write_truth_impressions(
    path: Path, impressions: Impressions, quality: np.ndarray, rows: IntArray
) -> None:
    """Write, row for row beside the impressions, the probability of a click and what it comes from."""
    table = pa.table(
        {
            **_impression_keys(impressions, rows),
            "probability": impressions.probability[rows],
            "visual_match": impressions.visual_match[rows],
            "word_match": impressions.word_match[rows],
            "quality": quality[impressions.item[rows]],
        }
    )
    pq.write_table(table, path)
