"""Training speed and recall of moonrec's two towers against those of torch-rechub, on the same rows.

    python tests/benchmarks/retrieval_speed.py                  # a simulated log of 4,000 users
    python tests/benchmarks/retrieval_speed.py --users 1000 --rounds 1 --steps 10
    python tests/benchmarks/retrieval_speed.py --data FOLDER    # events.parquet and embeddings/

Every run is a process of its own, and the two sides take turns. torch-rechub lives in a virtual environment
of its own, which is made on the first call; nothing is installed into the product's. README.md beside this
file says what is compared with what.
"""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import click
from rival_contenders import (
    CORRECTED,
    CORRECTED_FROZEN,
    DNN,
    DSSM,
    FROZEN,
    HISTORY,
    IDS,
    SBC,
    VECTOR,
    WIDTH,
    Bench,
    Effort,
    Numbers,
    our_options,
)
from rival_data import Handover, write_handover
from rival_environments import RECHUB, TORCH, rechub_python
from rival_page import Outcome
from speed_log import write_log

from ctr.retrieval.config import RetrievalConfig
from moonrec.atomic import write_json
from moonrec.errors import UserError

# Neighbours in time are what is compared with each other; every other round runs backwards.
_ORDER = (DNN, IDS, SBC, DSSM, CORRECTED, FROZEN, CORRECTED_FROZEN)
_CACHE = Path(tempfile.gettempdir()) / "moonrec-benchmarks"
# With two programs on two cores the threads of one wait for each other: a tenth of the speed was seen.
_QUIET = 0.5
# Of the simulated log, whose size goes by training impressions.
_ROWS_PER_USER = 15
_AT_LEAST_ONE = click.IntRange(1)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--users", default=4_000, show_default=True, type=click.IntRange(100), help="To simulate.")
@click.option("--data", type=_FOLDER, help="A log to use instead of a simulated one (see README.md).")
@click.option("--batch", default=1_024, show_default=True, type=click.IntRange(2), help="Rows of a step.")
@click.option("--rounds", default=3, show_default=True, type=_AT_LEAST_ONE, help="Runs of each model.")
@click.option("--steps", default=30, show_default=True, type=_AT_LEAST_ONE, help="Their speed is taken over.")
@click.option("--epochs", default=10, show_default=True, type=_AT_LEAST_ONE, help="For quality, at most.")
@click.option(
    "--seconds", default=600, show_default=True, type=_AT_LEAST_ONE, help="None of their epochs begins later."
)
@click.option("--threads", default=os.cpu_count(), type=_AT_LEAST_ONE, help="Of each run; default all cores.")
@click.option(
    "--cache", default=_CACHE, show_default=True, type=click.Path(path_type=Path), help="Environments."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all numbers here, too.")
def main(
    users: int,
    data: Path | None,
    batch: int,
    rounds: int,
    steps: int,
    epochs: int,
    seconds: int,
    threads: int,
    cache: Path,
    json_file: Path | None,
) -> None:
    """Compare training speed and quality with torch-rechub's two towers.

    Quality is that of the first round; the others measure speed.
    """
    python = rechub_python(cache)
    load = os.getloadavg()[0]
    if load > _QUIET:
        click.echo(f"other programs are at work (load {load:.1f}): speeds will be wrong", err=True)
    with tempfile.TemporaryDirectory(prefix="moonrec-retrieval-") as folder:
        scratch = Path(folder)
        source = data or scratch / "log"
        if data is None:
            write_log(source, users * _ROWS_PER_USER)
        try:
            handovers = {frozen: _handover(source, scratch, frozen) for frozen in (False, True)}
        except UserError as error:
            raise click.ClickException(str(error)) from error
        bench = Bench(source, handovers, scratch, python, threads, batch, steps)
        outcome = Outcome(
            _setting(handovers[True], data is None) | {"batch": batch, "threads": threads, "load": load},
            _measured(bench, rounds, Effort(epochs, seconds)),
            {
                "items of training": bench.popularity(frozen=False),
                "items with vectors": bench.popularity(frozen=True),
            },
        )
    click.echo(outcome.page())
    if json_file is not None:
        write_json(json_file, outcome.record())


def _handover(source: Path, scratch: Path, frozen: bool) -> Handover:
    config = RetrievalConfig(**our_options(source, scratch / "unused", frozen))
    return write_handover(config, scratch / f"rows-{frozen}")


def _measured(bench: Bench, rounds: int, effort: Effort) -> dict[str, list[Numbers]]:
    """All runs in turns."""
    measured: dict[str, list[Numbers]] = {model: [] for model in _ORDER}
    for number in range(1, rounds + 1):
        for model in _ORDER[:: 1 if number % 2 else -1]:
            values = bench.run(model, seed=number, effort=effort if number == 1 else None)
            measured[model].append(values)
            click.echo(f"round {number}: {model}, {values}", err=True)
    return measured


def _setting(handover: Handover, simulated: bool) -> dict[str, object]:
    return {
        "simulated": simulated,
        "rows": handover.train_rows,
        "users": handover.users,
        "items": len(handover.taken_N),
        "requests": len(handover.test),
        "mean history": round(handover.mean_history, 1),
        "longest": HISTORY,
        "width of ids": WIDTH,
        "of vectors": VECTOR,
        "machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "torch-rechub": RECHUB,
        "torch": TORCH,
    }


if __name__ == "__main__":
    main()
