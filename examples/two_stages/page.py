"""The page of the example: the numbers, then some users with what they did, what they get, and why.

Legend: L behaviours of a user, K places that are shown, T reasons per place.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctr import FrozenEmbeddings
from ctr.data.ragged import Ragged
from ctr.retrieval.reasons import reasons
from encoders.evaluation.tiles import label_of, thumbnail
from encoders.products import Product
from encoders.search.found import items_found, products_found
from examples.two_stages.lists import Lists
from moonrec.embedding_set import EmbeddingSet
from moonrec.report import Report, Tile
from moonrec.tables import ITEMS, open_table

PLACES = 20
_HISTORY, _REASONS, _OPEN = 50, 3, 4
_SHOWN_HISTORY = 12


@dataclass(frozen=True)
class _User:
    """One user of the page; items by id, places from the best one on."""

    name: str
    history: list[str]
    final: list[str]
    notes: list[str]
    hits: list[bool]
    reasons: list[list[tuple[str, float]]]
    summary: str


def add_users(
    report: Report,
    *,
    items: Path,
    before: Path,
    embeddings: Path,
    lists: Lists,
    places_QK: NDArray[np.int64],
    answers: pa.Table,
    count: int,
) -> None:
    """Add some users, drawn at random among those who have a history.

    Args:
        report: the page.
        items: the catalogue.
        before: the events that histories come from.
        embeddings: the set of frozen vectors that reasons are told by.
        lists: the candidates.
        places_QK: the final order, of `Lists.orders`.
        answers: `user_id` and `item_id` of what was taken.
        count: how many users.
    """
    history_of = _histories(before)
    asked = [(row, name) for row, name in enumerate(lists.users.to_pylist()) if name in history_of]
    drawn = np.sort(np.random.default_rng(0).permutation(len(asked))[:count])
    vectors = EmbeddingSet.open(embeddings)
    users = [
        _user(lists, row, places_QK[row], history_of[name], _taken_by(answers, name), vectors)
        for row, name in (asked[at] for at in drawn)
    ]
    wanted = {one for user in users for one in (*user.history, *user.final)}
    products = products_found(items_found(open_table(items, ITEMS), sorted(wanted)))
    for user in users:
        _add_user(report, user, products)


def _histories(before: Path) -> Mapping[str, list[str]]:
    """The last behaviours of each user, oldest first."""
    log = pq.read_table(before, columns=["user_id", "item_id", "timestamp"])
    log = log.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    grouped = log.group_by("user_id", use_threads=False).aggregate([("item_id", "list")])
    pairs = zip(grouped["user_id"].to_pylist(), grouped["item_id_list"].to_pylist(), strict=True)
    return {name: taken[-_HISTORY:] for name, taken in pairs}


def _score(lists: Lists, row: int, place: int) -> str:
    score = lists.score_QK[row, place]
    return f"{score:,.0f} times taken" if lists.popular_Q[row] else f"{score:.2f}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _taken_by(answers: pa.Table, name: str) -> set[str]:
    return set(answers.filter(pc.equal(answers["user_id"], name))["item_id"].to_pylist())


def _user(
    lists: Lists,
    row: int,
    place_K: NDArray[np.int64],
    history: list[str],
    taken: set[str],
    vectors: EmbeddingSet,
) -> _User:
    there_K = place_K[lists.item_QK[row][place_K] >= 0][:PLACES]
    position_K = lists.item_QK[row][there_K]
    final = lists.ids.take(pa.array(position_K)).to_pylist()
    listed = set(lists.ids.take(pa.array(lists.item_QK[row][lists.item_QK[row] >= 0])).to_pylist())
    notes = [
        f"found at {place + 1:,} ({_score(lists, row, place)}), click {lists.click_QK[row, place]:.2f}"
        f"{', new' if lists.new_N[position] else ''}"
        for place, position in zip(there_K, position_K, strict=True)
    ]
    hits = [one in taken for one in final]
    return _User(
        name=lists.users[row].as_py(),
        history=history,
        final=final,
        notes=notes,
        hits=hits,
        reasons=_reasons(vectors, final, history),
        summary=(
            f"Asked on {lists.time_Q[row].as_py():%d %B %Y}, after {_counted(len(history), 'behaviour')}"
            f"{' or more' if len(history) == _HISTORY else ''}. Took {_counted(len(taken), 'new item')} "
            f"afterwards: {len(taken & listed)} of them among the {len(listed)} candidates, {sum(hits)} "
            f"among the {len(final)} that are shown."
        ),
    )


def _reasons(
    vectors: EmbeddingSet, final: Sequence[str], history: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """For each item the behaviours that it resembles most, with their cosines."""
    frozen, row = FrozenEmbeddings.from_set(vectors, [*final, *history])
    past = Ragged.of_lengths(row[len(final) :], np.array([len(history)]))
    found = reasons(frozen, row[None, : len(final)], past, _REASONS)
    return [
        [
            (history[place], float(cosine))
            for place, cosine in zip(place_T, cosine_T, strict=True)
            if place >= 0
        ]
        for place_T, cosine_T in zip(found.behaviour_QKT[0], found.cosine_QKT[0], strict=True)
    ]


def _add_user(report: Report, user: _User, products: Mapping[str, Product]) -> None:
    report.heading(f"User {user.name}")
    report.text(user.summary)
    recent = Counter(reversed(user.history))
    report.tiles(
        [
            _tile(products, one, f"{times} times" if times > 1 else "")
            for one, times in list(recent.items())[:_SHOWN_HISTORY]
        ],
        "What the user did last, the latest first",
    )
    final = zip(user.final, user.notes, user.hits, strict=True)
    report.tiles(
        [_tile(products, one, note, hit, rank) for rank, (one, note, hit) in enumerate(final, start=1)],
        "What the user gets: place and score among the candidates, and the click model's probability; what "
        "was taken later is marked",
    )
    strips = [
        (
            _tile(products, one, hit=user.hits[place], rank=place + 1),
            [_tile(products, reason, f"cosine {cosine:.2f}") for reason, cosine in user.reasons[place]],
        )
        for place, one in enumerate(user.final)
        if user.reasons[place]
    ]
    if strips:
        report.text("What the first places resemble most of what the user did, by the frozen vectors:")
    _add_strips(report, strips[:_OPEN])
    if strips[_OPEN:]:
        with report.details("What the other places resemble"):
            _add_strips(report, strips[_OPEN:])


def _add_strips(report: Report, strips: Sequence[tuple[Tile, list[Tile]]]) -> None:
    for item, behaviours in strips:
        report.strip(item, behaviours)


def _tile(
    products: Mapping[str, Product],
    key: str,
    note: str = "",
    hit: bool | None = None,
    rank: int | None = None,
) -> Tile:
    product = products.get(key, Product(key, None, ()))
    image = thumbnail(product.image)
    label = label_of(product) or key
    return Tile(
        None if image is None else base64.b64decode(image),
        label if rank is None else f"{rank}. {label}",
        note,
        hit,
    )
