"""Training speed of moonrec's ranking models against FuxiCTR's DIN: same rows, features, widths and threads.

    python tests/benchmarks/ctr_speed.py                  # a simulated log of 300,000 rows
    python tests/benchmarks/ctr_speed.py --rows 60000 --rounds 1 --batch 1024
    python tests/benchmarks/ctr_speed.py --data FOLDER    # our tables and an embedding set

Every run is a process of its own, and the two sides take turns. FuxiCTR lives in a virtual environment of its
own, which is made on the first call; nothing is installed into the product's. README.md beside this file says
what is compared with what.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from arithmetic import operations_per_sample, weight_shapes
from children import run_child
from contenders import ATTENTION_UNITS, HIDDEN_UNITS, HISTORY, WIDTH, Bench
from fuxictr_data import LogSize, write_fuxictr_data
from rival_environments import FUXICTR, TORCH, fuxictr_python
from speed_log import write_log
from speed_page import Outcome
from speed_results import CUBE, DIN_DICE, DIN_RELU, FROZEN_DICE, FROZEN_RELU, IDS, Measured

from moonrec.atomic import write_json
from moonrec.errors import UserError

# Neighbours in time are what is compared with each other; every other round runs backwards.
_ORDER = (DIN_DICE, IDS, DIN_RELU, FROZEN_DICE, CUBE, FROZEN_RELU)
_CACHE = Path(tempfile.gettempdir()) / "moonrec-benchmarks"
# With two programs on two cores the threads of one wait for each other: a tenth of the speed was seen.
_QUIET = 0.5
_AT_LEAST_ONE = click.IntRange(1)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--rows", default=300_000, show_default=True, type=click.IntRange(10_000))
@click.option("--data", type=_FOLDER, help="A log to use instead of a simulated one (see README.md).")
@click.option(
    "--batch",
    "batches",
    multiple=True,
    default=(1_024, 4_096),
    show_default=True,
    type=_AT_LEAST_ONE,
    help="Rows of a step; may be given several times. Goals are judged at the first.",
)
@click.option("--rounds", default=3, show_default=True, type=_AT_LEAST_ONE, help="Runs of each model.")
@click.option("--threads", default=os.cpu_count(), type=_AT_LEAST_ONE, help="Of each run; default all cores.")
@click.option("--cache", default=_CACHE, show_default=True, type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all numbers here, too.")
def main(
    rows: int,
    data: Path | None,
    batches: tuple[int, ...],
    rounds: int,
    threads: int,
    cache: Path,
    json_file: Path | None,
) -> None:
    """Compare training speed, quality and memory with FuxiCTR's DIN, and say which goals are met.

    --rows is the number of training rows to simulate, --cache where FuxiCTR's environment is kept.
    """
    python = fuxictr_python(cache)
    load = os.getloadavg()[0]
    if load > _QUIET:
        click.echo(f"other programs are at work (load {load:.1f}): speeds will be wrong", err=True)
    with tempfile.TemporaryDirectory(prefix="moonrec-speed-") as folder:
        scratch = Path(folder)
        source = data or scratch / "log"
        if data is None:
            write_log(source, rows)
        try:
            log = write_fuxictr_data(source, scratch / "fuxictr", HISTORY)
            bench = Bench(source, scratch / "fuxictr", scratch, python, threads)
            measured, peaks = _measure(bench, batches, rounds, log.mean_history)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        operations = {model: _operations(bench, model, log) for model in (IDS, CUBE)}
    setting = {
        "simulated": data is None,
        "rounds": rounds,
        "threads": threads,
        "load_before": load,
        "machine": f"{platform.machine()} with {os.cpu_count()} cores",
        "fuxictr": FUXICTR,
        "torch": TORCH,
        "width": WIDTH,
        "history": HISTORY,
    }
    outcome = Outcome(setting, log, measured, peaks, operations)
    click.echo(outcome.page())
    if json_file is not None:
        write_json(json_file, outcome.record())


def _measure(
    bench: Bench, batches: Sequence[int], rounds: int, behaviours: float
) -> tuple[Measured, dict[str, float]]:
    """All runs in turns, and the best rate of each shape of matrix product over the rounds."""
    measured: dict[tuple[str, int], list[dict[str, float]]] = {
        (model, batch): [] for batch in batches for model in _ORDER
    }
    peaks: dict[str, float] = {}
    for number in range(1, rounds + 1):
        for shape, rate in _matrix_products(bench, batches[0], behaviours).items():
            peaks[shape] = max(rate, peaks.get(shape, 0.0))
        for batch in batches:
            for model in _ORDER[:: 1 if number % 2 else -1]:
                values = bench.run(model, batch, seed=number)
                measured[model, batch].append(values)
                speed = f"{values['samples_per_second']:,.0f} samples/s"
                click.echo(f"round {number}, batch {batch:,}: {model}, {speed}", err=True)
    return measured, peaks


def _matrix_products(bench: Bench, batch: int, behaviours: float) -> dict[str, float]:
    """Operations a second of the models' largest products (attention and predictor) and of a square one."""
    shapes = [
        (round(batch * behaviours), 2 * WIDTH, ATTENTION_UNITS[0]),
        (batch, HIDDEN_UNITS[0], HIDDEN_UNITS[0]),
    ]
    return run_child(sys.executable, "matrix_peak.py", {"shapes": shapes}, bench.threads)


def _operations(bench: Bench, model: str, log: LogSize) -> float:
    return operations_per_sample(
        weight_shapes(bench.run_folder(model)),
        behaviours=log.mean_history,
        width=WIDTH,
        dimension=log.dimension,
        cube=model == CUBE,
    )


if __name__ == "__main__":
    main()
