"""`simulate`: draw the catalogue, the users and what they do, and write all of it into one folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from moonrec.atomic import atomic_folder, write_json
from moonrec.errors import UserError
from moonrec.metrics import auc
from moonrec.simulation.behaviour import Events, Impressions, Sessions, is_test, simulate_behaviour
from moonrec.simulation.catalogue import (
    DAYS,
    LATE_SHARE,
    TEST_DAYS,
    TEST_START,
    Catalogue,
    draw_catalogue,
)
from moonrec.simulation.searches import draw_searches
from moonrec.simulation.tastes import Matcher, Users, draw_users
from moonrec.simulation.truth import truth_items, truth_users
from moonrec.simulation.write import (
    session_wishes,
    write_events,
    write_impressions,
    write_items,
    write_searches,
    write_truth_impressions,
)

VERSION = 1
"""Raised whenever the same seed gives another marketplace."""
MARK = "simulation.json"
_LIMITS = {"items": (30, 999_999), "users": (20, 999_999), "seed": (0, 2**63 - 1), "image_size": (32, 1024)}
_PLANTED = [
    "visual taste: hue, lightness, pattern, texture and form, hardly ever told in words",
    "word taste: material, brand, mood and occasion, not visible in pictures",
    "several tastes per user, of which each session follows one",
    "item quality that only behaviour on the item itself reveals",
    f"{LATE_SHARE:.0%} of the items launch just before or in the last {TEST_DAYS} of {DAYS} days",
    "SKUs of one product share product_id, words and shape; most differ by colour",
]


def simulate(
    out: str | Path, *, items: int = 2000, users: int = 2000, seed: int = 0, image_size: int = 128
) -> dict[str, object]:
    """Write a simulated marketplace into the folder `out`; the same arguments give the same bytes.

    Tables to learn from: `items`, `events` (all of them, for histories), `events_train` (those before the
    test period, for training encoders), `impressions_train`, `impressions_test`, `searches_train`,
    `searches_test`. Known truth, to judge methods by: `truth_items`, `truth_users` and, row for row beside
    `impressions_test`, `truth_impressions_test`. The test period is the last eight of sixty days.

    Args:
        out: a new or empty folder, or an older simulation, which is replaced.
        items: SKUs in the catalogue.
        users: people who shop; each sees about 35 impressions.
        seed: decides everything; item k is the same for any number of items.
        image_size: side of the square photos in pixels.

    Returns:
        What `simulation.json` in the folder says: the arguments, row counts, what is planted, and
        `ceiling_auc`, the AUC of the true click probabilities on the test impressions.

    Raises:
        UserError: an argument is out of range, or `out` is somebody's folder.
    """
    _check_numbers(items=items, users=users, seed=seed, image_size=image_size)
    out = Path(os.path.abspath(out))
    _check_replaceable(out)
    catalogue = draw_catalogue(items, seed)
    people = draw_users(users, catalogue, seed)
    matcher = Matcher(catalogue, people, seed)
    sessions, impressions, events = simulate_behaviour(catalogue, people, matcher, seed)
    with atomic_folder(out) as folder:
        rows = _write_logs(folder, catalogue, people, sessions, impressions, events, seed)
        for split in ("train", "test"):
            searches = draw_searches(catalogue, people, matcher, split, seed)
            name = f"searches_{split}"
            write_searches(folder / f"{name}.parquet", catalogue, searches, split, seed, image_size)
            rows[name] = len(searches)
        boxes = write_items(folder / "items.parquet", catalogue, seed, image_size)
        pq.write_table(truth_items(catalogue, boxes), folder / "truth_items.parquet")
        pq.write_table(truth_users(people), folder / "truth_users.parquet")
        summary: dict[str, object] = {
            "simulated": True,
            "version": VERSION,
            "seed": seed,
            "items": items,
            "users": users,
            "image_size": image_size,
            "products": int(catalogue.product[-1]) + 1,
            "rows": rows,
            "test_starts": f"{np.datetime64(TEST_START, 'us')}Z",
            **_label_facts(impressions),
            "planted": _PLANTED,
        }
        write_json(folder / MARK, summary)
    return summary


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        low, high = _LIMITS[name]
        if not low <= number <= high:
            raise UserError(f"{name}: {number} is out of range; expected a whole number from {low} to {high}")


def _check_replaceable(out: Path) -> None:
    """Refuse to replace anything but an empty folder or an older simulation."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; name a new folder for the simulated marketplace")
    if any(out.iterdir()) and not _is_simulation(out / MARK):
        raise UserError(
            f"{out}: holds files but no {MARK} of a simulated marketplace; name a new folder or empty it"
        )


def _is_simulation(mark: Path) -> bool:
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("simulated") is True


def _write_logs(
    folder: Path,
    catalogue: Catalogue,
    users: Users,
    sessions: Sessions,
    impressions: Impressions,
    events: Events,
    seed: int,
) -> dict[str, int]:
    """Write events and impressions in the order of time; return the rows of each table."""
    wishes = session_wishes(users, sessions, seed)
    every = np.argsort(events.time, kind="stable")
    past = every[~is_test(events.time[every])]
    write_events(folder / "events.parquet", events, wishes, every)
    write_events(folder / "events_train.parquet", events, wishes, past)
    by_time = np.argsort(impressions.time, kind="stable")
    test = is_test(impressions.time[by_time])
    write_impressions(folder / "impressions_train.parquet", impressions, wishes, by_time[~test])
    write_impressions(folder / "impressions_test.parquet", impressions, wishes, by_time[test])
    truth = folder / "truth_impressions_test.parquet"
    write_truth_impressions(truth, impressions, catalogue.quality, by_time[test])
    return {
        "items": len(catalogue),
        "events": len(every),
        "events_train": len(past),
        "impressions_train": int((~test).sum()),
        "impressions_test": int(test.sum()),
    }


def _label_facts(impressions: Impressions) -> dict[str, float | None]:
    test = is_test(impressions.time)
    return {
        "click_rate": float(impressions.label.mean()),
        "ceiling_auc": auc(impressions.label[test], impressions.probability[test]),
    }
