"""Measure what each stage and each part of the encoder's training is worth in image search, as Markdown.

This is the command behind the encoder's tables in docs/encoder.md. A finished part is not run again, so that
a measurement that was interrupted goes on:

    python examples/encoder_stages.py DATA --out RUNS --seeds 3

DATA holds items, searches_train and searches_test, and, if there are any, events and impressions_test, all as
Parquet (the names that `moonrec simulate` writes). Every row is measured on searches_test.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import moonrec

METRICS = ("hit@1", "hit@10", "mrr")


class Stages:
    """The runs of one measurement; each is made once and then read from disk."""

    def __init__(self, data: Path, out: Path, epochs: int, samples: int) -> None:
        self.data = data
        self.out = out
        self.shared: dict[str, Any] = {"epochs": epochs, "patience": 2, "batch_size": 128}
        self.samples = samples

    def table(self, name: str) -> str:
        """The path of a table."""
        return str(self.data / f"{name}.parquet")

    def once(self, name: str, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """The metrics of the run folder `name`, made by `run` if it is not there."""
        metrics = self.out / name / "metrics.json"
        return json.loads(metrics.read_text()) if metrics.exists() else run(str(self.out / name))

    def pretrain(self, name: str, **options: Any) -> str:
        """A run of stage 1; returns its folder."""
        config: dict[str, Any] = {
            "items": self.table("items"),
            "samples_per_epoch": self.samples,
            **self.shared,
            **options,
        }
        self.once(name, lambda out: moonrec.pretrain(moonrec.PretrainConfig(out=out, **config)))
        return str(self.out / name)

    def posttrain(self, name: str, **options: Any) -> str:
        """A run of stage 2; returns its folder."""
        config: dict[str, Any] = {"items": self.table("items"), "searches": self.table("searches_train")}
        if Path(self.table("events")).exists():
            config |= {"events": self.table("events"), "holdout": self.table("impressions_test")}
        config |= {"pairs_per_epoch": self.samples, **self.shared, **options}
        self.once(name, lambda out: moonrec.posttrain(moonrec.PosttrainConfig(out=out, **config)))
        return str(self.out / name)

    def search(self, encoder: str) -> dict[str, float]:
        """Image-search recall of an encoder on the test searches."""
        metrics = self.once(
            f"{Path(encoder).name}_search",
            lambda out: moonrec.evaluate(
                moonrec.EvaluateConfig(
                    encoder=encoder,
                    items=self.table("items"),
                    searches=self.table("searches_test"),
                    tasks=("image_to_item",),
                    out=out,
                )
            ),
        )
        return {name: metrics["retrieval"]["image_to_item"][name] for name in METRICS}


def rows(stages: Stages, seed: int) -> Iterator[tuple[str, str]]:
    """Names of the rows and the encoders that they measure."""
    # No step is taken: the pretrained towers, pooled.
    yield "towers, no training, whole pictures", stages.pretrain(f"whole_{seed}", epochs=0, regions=False)
    yield "towers, no training", stages.pretrain(f"towers_{seed}", epochs=0, seed=seed)
    one = stages.pretrain(f"stage1_{seed}", seed=seed)
    yield "stage 1", one
    first = stages.posttrain(f"round1_{seed}", from_=one, rounds=("1",), seed=seed)
    yield "stage 1, round 1", first

    def second(name: str, **options: Any) -> str:
        return stages.posttrain(f"{name}_{seed}", from_=first, rounds=("2",), seed=seed, **options)

    yield "stage 1, rounds 1 and 2 (all)", second("round2")
    for part, name, options in (
        ("core region", "noregion", {"regions": False}),
        ("guided experts", "dense", {"experts": 0}),
    ):
        start = stages.pretrain(f"{name}_stage1_{seed}", seed=seed, **options)
        yield f"without {part}", stages.posttrain(f"{name}_{seed}", from_=start, seed=seed)
    yield "without spatial-temporal negatives", second("nospatial", queue=0, spatial=False)
    yield "without hard negatives", second("nohard", hard_negatives=0)
    yield "without stage 1", stages.posttrain(f"nostage1_{seed}", seed=seed)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for all runs.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--epochs", default=8, show_default=True, type=click.IntRange(1), help="Of each round, at most."
)
@click.option("--samples", default=4096, show_default=True, type=click.IntRange(1), help="Pairs of an epoch.")
def main(data: Path, out: Path, seeds: int, epochs: int, samples: int) -> None:
    """Train every row on every seed, evaluate, and print mean and standard deviation."""
    stages = Stages(data, out, epochs, samples)
    table: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        for name, encoder in rows(stages, seed):
            table.setdefault(name, []).append(stages.search(encoder))
    print(f"| | {' | '.join(METRICS)} |")
    print("|---" * (len(METRICS) + 1) + "|")
    for name, found in table.items():
        print(f"| {name} | {' | '.join(_cell([one[metric] for one in found]) for metric in METRICS)} |")


def _cell(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{mean} ± {spread:.4f}" if spread > 0 else mean


if __name__ == "__main__":
    main()
