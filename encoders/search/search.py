"""`moonrec search`: what of a catalogue is nearest to a photo, to words, or to each query of a table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.evaluation.tiles import label_of
from encoders.loading import COMPACT, cache_folder
from encoders.precision import pick_device
from encoders.products import Product
from encoders.search.found import items_found, lacks_pictures, products_found, result_rows
from encoders.search.many import QUERIES, search_many
from encoders.search.query import query_of, query_vector
from encoders.search.searcher import Searcher
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.table_rows import FewRows
from moonrec.tables import ITEMS, Table, open_table

_MOST_ON_PAGE = 1000


@dataclass(frozen=True)
class SearchConfig:
    """Options of `moonrec search`, with the names of the flags.

    Attributes:
        encoder: a run folder, a checkpoint, or `compact` (untrained).
        embeddings: the set to search, exported with that encoder.
        items: the catalogue: titles, categories and pictures of what is found. An untrained encoder is
            fitted to it.
        image: a photo file.
        text: words; with `image`, both together are one query.
        queries: instead, a table with `query_text`, `query_image` or both.
        k: results per query; all where the set has fewer.
        html: the page to write.
        out: the Parquet file for the results of `queries`.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    encoder: str
    embeddings: str
    items: str | None = None
    image: str | None = None
    text: str | None = None
    queries: str | None = None
    k: int = 20
    html: str | None = None
    out: str | None = None
    device: str = "auto"
    cache: str | None = None


def search(config: SearchConfig) -> dict[str, Any]:
    """Search an embedding set, exactly.

    Returns:
        For one query `results` (rows with `rank`, `item_id`, `score` = cosine; with a catalogue `title` and
        `category`), for a table of them counts; in both cases `catalogue` (how many were searched), `notes`
        (what a reader must not miss) and `seconds`.

    Raises:
        UserError: nothing to search for, a photo that cannot be used, a set that the encoder did not make,
            or an output that cannot be written.
    """
    _check(config)
    items = None if config.items is None else open_table(config.items, ITEMS)
    return _search_one(config, items) if config.queries is None else _search_many(config, items)


def _search_one(config: SearchConfig, items: Table | None) -> dict[str, Any]:
    query = query_of(config.image, config.text)
    started = time.perf_counter()
    # The cache is for the catalogue that an untrained encoder is fitted to; nobody asks for one query again.
    cache = cache_folder(config.cache) if config.encoder == COMPACT else None
    searcher = _searcher(config, items, cache)
    opened = time.perf_counter()
    query, vector_1D = query_vector(searcher, query)
    encoded = time.perf_counter()
    scores_1K, entry_1K = searcher.nearest(vector_1D, config.k)
    ids = searcher.embeddings.ids.take(entry_1K[0]).to_pylist()
    searched = time.perf_counter()
    found = None if items is None else items_found(items, ids)
    rows = result_rows(ids, scores_1K[0], found)
    notes = [*_all_shown(config, searcher), *_not_told(config, items, found, len(rows))]
    if config.html is not None:
        _write_page(config, searcher, query, rows, found, notes)
    return {
        "results": rows,
        "catalogue": len(searcher.embeddings),
        "html": config.html,
        "notes": notes,
        "seconds": {
            "open": opened - started,
            "encode": encoded - opened,
            "search": searched - encoded,
        },
    }


def _search_many(config: SearchConfig, items: Table | None) -> dict[str, Any]:
    assert config.queries is not None
    assert config.out is not None
    queries = open_table(config.queries, QUERIES)
    started = time.perf_counter()
    searcher = _searcher(config, items, cache_folder(config.cache))
    counts = search_many(searcher, queries, config.k, Path(config.out))
    seconds = time.perf_counter() - started
    return counts | {
        "catalogue": len(searcher.embeddings),
        "out": config.out,
        "notes": _all_shown(config, searcher),
        "seconds": seconds,
        "queries_per_second": counts["queries"] / seconds,
    }


def _searcher(config: SearchConfig, items: Table | None, cache: Path | None) -> Searcher:
    return Searcher.open(config.encoder, config.embeddings, items, pick_device(config.device), cache)


def _check(config: SearchConfig) -> None:
    if config.k < 1:
        raise UserError(f"--k {config.k}: expected a whole number above 0")
    if config.queries is None:
        _check_one(config)
    else:
        _check_many(config)


def _check_one(config: SearchConfig) -> None:
    if config.out is not None:
        raise UserError(f"-o {config.out}: is for the results of --queries; one query has --html and --json")
    if config.html is None:
        return
    if Path(config.html).suffix.lower() != ".html":
        raise UserError(f"--html {config.html}: expected a name that ends in .html")
    if os.path.isdir(config.html):
        raise UserError(f"--html {config.html}: is a folder; name the file to write")
    refuse_inside_inputs(config.html, _inputs(config), "--html")
    if config.k > _MOST_ON_PAGE:
        raise UserError(
            f"--k {config.k}: a page shows at most {_MOST_ON_PAGE:,}; ask for fewer, or no --html"
        )


def _check_many(config: SearchConfig) -> None:
    for flag, value in (("image", config.image), ("text", config.text), ("html", config.html)):
        if value is not None:
            raise UserError(f"--{flag}: is for one query; leave it out, or leave out --queries")
    if config.out is None:
        raise UserError(f"--queries {config.queries}: name the Parquet file for the results with -o")
    if os.path.isdir(config.out):
        raise UserError(f"-o {config.out}: is a folder; expected the name of a Parquet file to write")
    refuse_inside_inputs(config.out, _inputs(config))


def _inputs(config: SearchConfig) -> list[tuple[str, str | None]]:
    return [
        ("--queries", config.queries),
        ("--image", config.image),
        ("--items", config.items),
        ("--embeddings", config.embeddings),
        ("--encoder", folder_or_none(config.encoder)),
    ]


def _all_shown(config: SearchConfig, searcher: Searcher) -> list[str]:
    count = len(searcher.embeddings)
    return [f"--k {config.k:,}: the set holds {count:,} items, and all are shown"] if config.k > count else []


def _not_told(config: SearchConfig, items: Table | None, found: FewRows | None, count: int) -> list[str]:
    """What the catalogue does not tell of what was found."""
    if items is None or found is None:
        without = "items are shown by their ids; name the catalogue with --items"
        return [] if config.html is None else [without]
    notes = []
    if missing := count - found.count_rows():
        notes.append(f"{items.path}: lacks {missing:,} of the {count:,} items found; they are shown by id")
    if config.html is not None and lacks_pictures(items, found):
        notes.append(f"{items.path}: no pictures are shown: finding these few among them would take too long")
    return notes


def _write_page(
    config: SearchConfig,
    searcher: Searcher,
    query: Product,
    rows: Sequence[dict[str, Any]],
    found: FewRows | None,
    notes: Sequence[str],
) -> None:
    assert config.html is not None
    # Imports matplotlib, which a search without a page need not wait for.
    from encoders.search.page import search_page

    products = None if found is None else products_found(found)
    embeddings = searcher.embeddings
    inputs = {"encoder": embeddings.metadata["encoder_fingerprint"], "embeddings": embeddings.fingerprint}
    catalogue = embeddings.metadata.get("catalogue_fingerprint")
    page = search_page(
        query,
        rows,
        products,
        subtitle=f"{_asked(config, query)}: the {len(rows):,} nearest of {len(embeddings):,} items",
        notes=notes,
        config=vars(config),
        inputs=inputs if catalogue is None else inputs | {"catalogue of the embeddings": catalogue},
    )
    page.save(config.html)


def _asked(config: SearchConfig, query: Product) -> str:
    photo = [] if config.image is None else [f"photo {Path(config.image).name}"]
    words = [f"“{label_of(query)}”"] if query.texts else []
    return " with ".join([*photo, *words])
