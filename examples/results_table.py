"""Measure the whole chain on a folder of tables, over several seeds, and print the results as Markdown.

This is the command behind the tables of the README. A finished part is not run again, so that a measurement
that was interrupted goes on:

    python examples/results_table.py DATA --out RUNS --seeds 3

DATA holds items, searches_train and searches_test, and, for click models, events, impressions_train and
impressions_test, all as Parquet (the names that `moonrec simulate` writes).
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import moonrec

CONTENTS = ("none", "concat", "simscore", "simtier", "sata", "make", "cube")
Row = tuple[str, dict[str, float]]


class Chain:
    """The parts of one measurement; each returns its metrics, from disk when it was run before."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data = data
        self.out = out

    def has(self, name: str) -> bool:
        """Whether DATA holds a table."""
        return (self.data / f"{name}.parquet").exists()

    def table(self, name: str) -> str:
        """The path of a table."""
        return str(self.data / f"{name}.parquet")

    def once(self, name: str, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """The metrics of the run folder `name`, made by `run` if it is not there."""
        metrics = self.out / name / "metrics.json"
        return json.loads(metrics.read_text()) if metrics.exists() else run(str(self.out / name))

    def posttrain(self, seed: int) -> str:
        """An encoder trained on searches and, if there are any, events before each user's test."""
        tables = {"items": self.table("items"), "searches": self.table("searches_train")}
        if self.has("events"):
            tables |= {"events": self.table("events"), "holdout": self.table("impressions_test")}
        self.once(
            f"encoder_{seed}",
            lambda out: moonrec.posttrain(moonrec.PosttrainConfig(**tables, seed=seed, out=out)),
        )
        return str(self.out / f"encoder_{seed}")

    def search(self, encoder: str, name: str) -> dict[str, float]:
        """Image-search recall on the test searches."""
        metrics = self.once(
            f"evaluate_{name}",
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
        found = metrics["retrieval"]["image_to_item"]
        return {key: found[key] for key in ("hit@1", "hit@10", "mrr")}

    def embeddings(self, encoder: str, name: str) -> str:
        """The frozen embeddings of an encoder."""
        out = self.out / f"embeddings_{name}"
        if not out.exists():
            moonrec.export(moonrec.ExportConfig(encoder=encoder, items=self.table("items"), out=str(out)))
        return str(out)

    def clicks(self, embeddings: str | None, content: str, name: str, seed: int) -> dict[str, Any]:
        """A click model's metrics."""
        return self.once(
            f"ctr_{name}_{content}_{seed}",
            lambda out: moonrec.train_ctr(
                moonrec.TrainConfig(
                    impressions=self.table("impressions_train"),
                    test=self.table("impressions_test"),
                    events=self.table("events"),
                    embeddings=embeddings,
                    content=(content,),
                    seed=seed,
                    out=out,
                )
            ),
        )


def search_rows(chain: Chain, seeds: int) -> Iterator[Row]:
    """Image search before and after post-training."""
    yield "untrained towers", chain.search("compact", "untrained")
    for seed in range(seeds):
        yield "post-trained", chain.search(chain.posttrain(seed), str(seed))


def click_rows(chain: Chain, seeds: int) -> Iterator[Row]:
    """Click models on ids alone, then on the vectors of the untrained and of the post-trained encoders."""
    for seed in range(seeds):
        yield "ids only", _test(chain.clicks(None, "none", "ids", seed))
    for name in ("untrained", "post-trained"):
        for seed in range(seeds):
            key = "untrained" if name == "untrained" else str(seed)
            embeddings = chain.embeddings("compact" if key == "untrained" else chain.posttrain(seed), key)
            for content in CONTENTS[1:]:
                metrics = chain.clicks(embeddings, content, key, seed)
                yield f"ids + {content}, {name}", _test(metrics)
            yield f"top-3 cosine, no learning, {name}", metrics["baseline"]["top3_cosine"]


def _test(metrics: dict[str, Any]) -> dict[str, float]:
    auc = {group["group"]: group["auc"] for group in metrics["groups"]}
    new = {"auc, new items": auc["new"]} if auc.get("new") is not None else {}
    return {"auc": metrics["test"]["auc"], "gauc": metrics["test"]["gauc"], **new}


def markdown(rows: Iterator[Row]) -> str:
    """Mean ± standard deviation per name, as a Markdown table."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, values in rows:
        for key, value in values.items():
            found[name][key].append(value)
    columns = list(dict.fromkeys(key for measured in found.values() for key in measured))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, measured in found.items():
        lines.append(f"| {name} | {' | '.join(_spread(measured[key]) for key in columns)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    text = f"{statistics.mean(values):.4f}"
    return f"{text} ± {statistics.stdev(values):.4f}" if len(values) > 1 else text


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of all runs.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
def main(data: Path, out: Path, seeds: int) -> None:
    """Print image-search and click results on DATA over several seeds."""
    chain = Chain(data, out)
    click.echo(markdown(search_rows(chain, seeds)) + "\n")
    if chain.has("impressions_train"):
        click.echo(markdown(click_rows(chain, seeds)))


if __name__ == "__main__":
    main()
