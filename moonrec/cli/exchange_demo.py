"""`moonrec exchange-rate --demo`: a marketplace, versions whose worth is known, and their exchange rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moonrec.cli.exchange_study import ExchangeConfig, Telling, exchange_rate
from moonrec.errors import UserError
from moonrec.exchange.demo import NOTES, RECIPES, REFERENCE, STEPS, write_searches, write_versions
from moonrec.progress import say

_MARK = "simulation.json"
_TITLE = "What a gain is worth (simulated)"
# Small photos are quick to draw, and no version looks at them.
_PHOTO = 32


def run_demo(
    out: str | Path,
    *,
    items: int = 2400,
    users: int = 3000,
    seed: int = 0,
    seeds: int = 3,
    plan: bool = False,
) -> dict[str, Any]:
    """Simulate into `OUT/data`, make versions in `OUT/versions`, and run the study into `OUT/study`.

    Args:
        out: a folder of the demo's own.
        items: size of the catalogue.
        users: people who shop.
        seed: of everything random but the judge.
        seeds: of the judge.
        plan: only say what would be computed; the data are made all the same.

    Raises:
        UserError: `out` is a folder that the demo did not write, or that holds another demo.
    """
    folder = Path(out)
    _make_data(folder, items, users, seed)
    data, versions = folder / "data", folder / "versions"
    config = ExchangeConfig(
        items=str(data / "items.parquet"),
        searches=str(data / "searches_skus.parquet"),
        impressions=str(data / "impressions_train.parquet"),
        test=str(data / "impressions_test.parquet"),
        events=str(data / "events.parquet"),
        version=tuple(f"{name}={versions / name}" for name in RECIPES),
        compare=tuple(f"{before}:{after}" for before, after in STEPS),
        reference=REFERENCE,
        seeds=seeds,
        plan=plan,
        out=str(folder / "study"),
    )
    return exchange_rate(config, Telling(_TITLE, NOTES))


def _make_data(folder: Path, items: int, users: int, seed: int) -> None:
    """Simulate once; the mark of the last step tells that all of it is there."""
    from moonrec.simulation import simulate

    data = folder / "data"
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (data / _MARK).is_file()):
        raise UserError(f"{folder}: is nothing that the demo wrote; choose another -o")
    done, wanted = folder / "made.txt", f"{items} items, {users} users, seed {seed}\n"
    if done.is_file():
        if done.read_text() != wanted:
            raise UserError(
                f"{folder}: holds the demo of {done.read_text().strip()}, not of {wanted.strip()}; choose "
                "another -o"
            )
        return
    say("exchange-rate", f"simulating {wanted.strip()}")
    simulate(data, items=items, users=users, seed=seed, image_size=_PHOTO)
    write_searches(data, data / "searches_skus.parquet")
    write_versions(data, folder / "versions", seed)
    done.write_text(wanted)
