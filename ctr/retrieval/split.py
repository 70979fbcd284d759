"""What is learnt from and what is measured: a split in time, without repeats.

A row counts as a target when its user had not taken the item before (where candidates that he had are left
out, a repeat can neither be retrieved nor teach anything), and when it is of a wanted kind.

Legend: R rows of the events, T rows of the test table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr.data.coded_rows import CodedRows
from ctr.data.time_split import first_of_latest
from ctr.retrieval.log import Log, taken
from moonrec.errors import UserError
from moonrec.timestamps import readable

_MOST_VALIDATED = 5_000
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Split:
    """Rows by purpose.

    Attributes:
        train, validation, test: targets.
        moment: where the test period begins for everybody, microseconds since 1970 UTC; None where a table
            says it for each user.
        repeats: share of the test's rows that were left out as repeats.
    """

    train: CodedRows
    validation: CodedRows
    test: CodedRows
    moment: int | None
    repeats: float


def split_by_time(log: Log, novel: bool, test_share: float, validation_share: float, name: str) -> Split:
    """The latest share of the targets is the test, the latest share of the rest is validation.

    Args:
        log: all events.
        novel: whether repeats are left out.
        test_share, validation_share: between 0 and 1.
        name: what messages call the table.

    Raises:
        UserError: the times leave nothing to learn from or to measure.
    """
    first_R = _novel(log, log.rows) if novel else log.wanted_R
    time_R = log.rows.time_R
    moment = first_of_latest(time_R[first_R], test_share) if first_R.any() else None
    if moment is None:
        raise UserError(f"{name}: has no two moments to split training from test at; give more events")
    before_R = first_R & (time_R < moment)
    stop = first_of_latest(time_R[before_R], validation_share)
    if stop is None:
        raise UserError(
            f"{name}: all that is before the test period ({readable(moment)}) has one time, so nothing is "
            "left to stop by; lower --test-share, or give more events"
        )
    late_R = time_R >= moment
    tested_R = first_R & late_R
    return Split(
        train=taken(log.rows, before_R & (time_R < stop)),
        validation=taken(log.rows, _some(np.flatnonzero(before_R & (time_R >= stop)))),
        test=taken(log.rows, tested_R),
        moment=moment,
        repeats=_share_left_out(tested_R, log.wanted_R & late_R),
    )


def split_by_table(log: Log, test: Log, novel: bool, validation_share: float, users: int, name: str) -> Split:
    """The rows of a table are the test; a user's events count only before his first one in it.

    Args:
        log: all events.
        test: the rows to measure on.
        novel: whether repeats are left out.
        validation_share: so many of the training rows, the last ones of as many users.
        users: how many users both know.
        name: what messages call the events.

    Raises:
        UserError: nothing is left to learn from or to measure.
    """
    cut_U = np.full(users, _NEVER)
    np.minimum.at(cut_U, test.rows.user_R, test.rows.time_R)
    early_R = log.rows.time_R < cut_U[log.rows.user_R]
    usable_R = _novel(log, log.rows) if novel else log.wanted_R
    tested_T = _novel(test, log.rows) if novel else test.wanted_R
    row = np.flatnonzero(usable_R & early_R)
    held = _last_of_users(log.rows, row, validation_share)
    train = np.setdiff1d(row, held, assume_unique=True)
    if not len(train) or not tested_T.any():
        what = "learn from" if not len(train) else "measure"
        raise UserError(f"{name}: nothing is left to {what} before and in the test period of --test")
    return Split(
        train=taken(log.rows, train),
        validation=taken(log.rows, held),
        test=taken(test.rows, tested_T),
        moment=None,
        repeats=_share_left_out(tested_T, test.wanted_R),
    )


def _novel(log: Log, events: CodedRows) -> NDArray[np.bool_]:
    """The wanted rows whose user did not have the item before; what is not wanted stands in no row's way."""
    row = np.flatnonzero(log.wanted_R)
    novel_R = np.zeros(len(log.rows), bool)
    novel_R[row] = _is_first(taken(log.rows, row), events)
    return novel_R


def _is_first(rows: CodedRows, events: CodedRows) -> NDArray[np.bool_]:
    """Whether no event of the row's user and item is earlier; of several rows at that time one is first."""
    items = max(int(rows.item_R.max(initial=0)), int(events.item_R.max(initial=0))) + 1
    key_E = events.user_R.astype(np.int64) * items + events.item_R
    order = np.lexsort((events.time_R, key_E))
    pair, first = np.unique(key_E[order], return_index=True)
    key_R = rows.user_R.astype(np.int64) * items + rows.item_R
    place_R = np.minimum(np.searchsorted(pair, key_R), max(len(pair) - 1, 0))
    is_first_R = np.ones(len(rows), bool)
    if len(pair):
        known_R = pair[place_R] == key_R
        is_first_R = ~known_R | (rows.time_R <= events.time_R[order[first]][place_R])
    order_R = np.lexsort((rows.time_R, key_R))
    repeated_R = np.zeros(len(rows), bool)
    repeated_R[order_R[1:]] = key_R[order_R[1:]] == key_R[order_R[:-1]]
    return is_first_R & ~repeated_R


def _last_of_users(rows: CodedRows, row: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The last one of `row` of as many users as make up the share, users drawn by a fixed seed."""
    order = row[np.lexsort((rows.time_R[row], rows.user_R[row]))]
    user = rows.user_R[order]
    # In the order of the table: that of users' codes tells who came first in it, later rows included.
    last = np.sort(order[np.append(user[1:] != user[:-1], True)]) if len(order) else order
    wanted = min(max(1, round(share * len(row))), _MOST_VALIDATED, len(last))
    return np.sort(np.random.default_rng(0).permutation(last)[:wanted])


def _some(row: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(row) <= _MOST_VALIDATED:
        return row
    return np.sort(np.random.default_rng(0).choice(row, _MOST_VALIDATED, replace=False))


def _share_left_out(kept: NDArray[np.bool_], all_: NDArray[np.bool_]) -> float:
    return 1 - int(kept.sum()) / max(1, int(all_.sum()))
