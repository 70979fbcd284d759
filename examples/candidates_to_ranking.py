"""From a catalogue to a ranked list with reasons: encoder, retrieval, click model, page, in one script.

Of the whole catalogue the two towers find 500 candidates per user, the click model judges each of them, and
the best 20 are shown, with the behaviours that each resembles most:

    python examples/candidates_to_ranking.py --out /tmp/two_stages                  # simulated, minutes
    python examples/candidates_to_ranking.py --data YOUR_FOLDER --out /tmp/two_stages

YOUR_FOLDER holds items, events, impressions_train and impressions_test and, for the encoder, searches_train
if there are any, all as Parquet (the names that `moonrec simulate` writes). A finished part is not run again,
so that a measurement that was interrupted goes on, also with more seeds.

Nothing is learnt from a user's test, by any stage. Each user has a cut, the moment of his first test
impression. Encoder, towers and click model are given tables that hold nothing of him from the cut on, which
examples/two_stages/split.py writes first. Every user is asked for once, at his cut; what he took from then
on, and had not had before, is what the lists should hold. As in any split per user, what others did after
his cut, and before theirs, is learnt from. Histories end at the cut, too, when the click model's own AUC is
measured on the test impressions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

import moonrec
from examples.two_stages.lists import BOTH, ORDERS, Lists, quality
from examples.two_stages.page import PLACES, add_users
from examples.two_stages.results import SeedTable
from examples.two_stages.split import Split, split_at_the_test
from moonrec.atomic import write_json
from moonrec.report import Report, add_provenance

CANDIDATES = 500
# A minute per seed: the first round, without looking for the products' regions in their pictures.
POST_TRAINING: dict[str, Any] = {"rounds": ("1",), "epochs": 4, "pairs_per_epoch": 4096, "regions": False}
METHODS = {
    "test": "two towers",
    "popularity": "popularity",
    "item_knn": "item-kNN",
    "content_mean": "mean of the history's vectors, no training",
}
CUTS = ("recall@10", "recall@100", "recall@500")


class Chain:
    """The stages of one measurement, in their order; each is run once and then read from disk."""

    def __init__(self, data: Path, out: Path, targets: Sequence[str]) -> None:
        self.data = data
        self.out = out
        self.split: Split = split_at_the_test(data, out / "split", targets)

    def once(self, name: str, run: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """The metrics of the run folder `name`, made by `run` if it is not there."""
        metrics = self.out / name / "metrics.json"
        return json.loads(metrics.read_text()) if metrics.exists() else run(str(self.out / name))

    def table(self, name: str) -> Path:
        """The path of a table of the data."""
        return self.data / f"{name}.parquet"

    def post_train(self, seed: int) -> str:
        """An encoder that learnt from searches and events before the cuts; its folder."""
        searches = self.table("searches_train")
        config = moonrec.PosttrainConfig(
            items=str(self.table("items")),
            searches=str(searches) if searches.exists() else None,
            events=str(self.split.before),
            # Searches stand in a table of their own: those from the cuts on are left out by this.
            holdout=str(self.split.answers),
            seed=seed,
            out=str(self.out / f"encoder_{seed}"),
            **POST_TRAINING,
        )
        self.once(f"encoder_{seed}", lambda _: moonrec.posttrain(config))
        return config.out

    def vectors(self, encoder: str | None, seed: int) -> Path:
        """The catalogue's frozen vectors: of a given encoder, or of one that is post-trained here."""
        name = str(seed) if encoder is None else "given"
        out = self.out / f"embeddings_{name}"
        if not out.exists():
            encoder = encoder or self.post_train(seed)
            items = str(self.table("items"))
            moonrec.export(moonrec.ExportConfig(encoder=encoder, items=items, out=str(out)))
        return out

    def retrieval(self, embeddings: Path, seed: int) -> dict[str, Any]:
        """Two towers over trained ids and frozen vectors; metrics, those of the baselines too.

        They learn what users come to, from events of all kinds. Whether a user then likes it is the click
        model's question: a retrieval that learns from likes only has asked it already.
        """
        return self.once(
            f"retrieval_{seed}",
            lambda out: moonrec.train_retrieval(
                moonrec.RetrievalConfig(
                    events=self.split.before,
                    test=self.split.answers,
                    items=self.table("items"),
                    embeddings=embeddings,
                    seed=seed,
                    out=out,
                )
            ),
        )

    def clicks(self, embeddings: Path, seed: int) -> dict[str, Any]:
        """A click model; it sees no query, for there is none when a list is asked for."""
        return self.once(
            f"clicks_{seed}",
            lambda out: moonrec.train_ctr(
                moonrec.TrainConfig(
                    impressions=self.split.shown,
                    test=self.table("impressions_test"),
                    events=self.split.before,
                    embeddings=str(embeddings),
                    query=False,
                    seed=seed,
                    out=out,
                )
            ),
        )

    def lists(self, seed: int) -> Lists:
        """Each user's candidates at his cut, judged by both stages."""
        run, path = self.out / f"retrieval_{seed}", self.out / f"candidates_{seed}.parquet"
        moonrec.retrieve(
            moonrec.RetrieveConfig(
                model=run, users=self.split.requests, events=self.split.before, k=CANDIDATES, out=path
            )
        )
        saved = moonrec.load_retrieval(run)
        ids = moonrec.EmbeddingSet.open(run / "index").ids
        return Lists.scored(path, ids, saved.popular[0], self.out / f"clicks_{seed}", self.split.before)


def check_same_options(out: Path, **options: object) -> None:
    """Refuse to go on in a folder whose finished parts were made with other options."""
    path, told = out / "options.json", {name: value and str(value) for name, value in options.items()}
    if path.exists() and (found := json.loads(path.read_text())) != told:
        raise click.UsageError(f"--out {out}: was made with {found}; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, told)


def add_candidates(table: SeedTable, metrics: Mapping[str, Any]) -> None:
    """What the candidates hold, of all wanted items and of those that nobody took in training."""
    new = metrics["new_items"]
    for key, label in METHODS.items():
        if metrics[key] is not None:
            of_new = {f"{cut}, new items": (new[key] or {}).get(cut) for cut in CUTS[1:]}
            table.add(label, {cut: metrics[key][cut] for cut in CUTS} | of_new)


def new_report(data: Path, candidates: SeedTable, final: SeedTable, seeds: int) -> Report:
    """A page with the numbers; users are added to it."""
    simulated = (data / "simulation.json").exists()
    report = Report("From the catalogue to a ranked list", f"{data.name}{', simulated' if simulated else ''}")
    if simulated:
        report.warning("These data are simulated: the numbers tell how the parts work together, no more.")
    last = CUTS[-1]
    figures = [(f"{last} of the candidates", candidates.spread(METHODS["test"], last).mean, "two towers")]
    figures += [(f"recall@{PLACES}", final.spread(name, f"recall@{PLACES}").mean, name) for name in ORDERS]
    report.headline(figures)
    for table in (candidates, final):
        report.table(table.cells(), f"{table.title}; mean ± standard deviation of {seeds} seeds")
    report.text(
        "The lists below are those of both stages: the probability that the user comes to an item "
        "(retrieval) times the probability that he takes what he sees (click model). Users are drawn at "
        "random among those who have a history; what nobody took in training is marked as new. The "
        "behaviours that an item resembles say what speaks for it, not what the trained models made of it."
    )
    return report


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="A folder of tables.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for all outputs.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--users-shown", default=6, show_default=True, type=click.IntRange(1), help="On the page.")
@click.option("--encoder", help="Take it as it is (`compact`: untrained) instead of post-training one.")
@click.option("--embeddings", type=click.Path(exists=True, path_type=Path), help="Use these vectors instead.")
@click.option(
    "--targets", default="", help="Kinds of event that count as taking, like,purchase (default: all)."
)
def main(
    data: Path | None,
    out: Path,
    seeds: int,
    users_shown: int,
    encoder: str | None,
    embeddings: Path | None,
    targets: str,
) -> None:
    """Train all stages on every seed, tell what each finds, and show some users' lists with reasons."""
    if encoder is not None and embeddings is not None:
        raise click.UsageError("--encoder and --embeddings name two sources of vectors; give one of them")
    check_same_options(out, data=data, encoder=encoder, embeddings=embeddings, targets=targets)
    if data is None:
        data = out / "data"
        if not data.exists():
            moonrec.simulate(data, items=2000, users=1500)
    chain = Chain(data, out, [kind for kind in targets.split(",") if kind])
    candidates = SeedTable(f"The wanted items among the first candidates, of {CANDIDATES}")
    final = SeedTable(f"The wanted items among the first {PLACES}, in three orders of the candidates")
    for seed in range(seeds):
        # 1. Products in, frozen vectors out.
        vectors = embeddings or chain.vectors(encoder, seed)
        # 2. Two towers find candidates; their baselines are measured on the same requests.
        metrics = chain.retrieval(vectors, seed)
        add_candidates(candidates, metrics)
        # 3. A click model judges them. Its own test says how well it ranks what was shown.
        ranking = chain.clicks(vectors, seed)["test"]
        print(f"seed {seed}: click model's AUC {ranking['auc']:.4f}, GAUC {ranking['gauc']:.4f}", flush=True)
        lists = chain.lists(seed)
        # 4. The final order, against what each stage would show alone.
        orders = lists.orders(metrics["train"]["temperature"])
        for name, places in orders.items():
            final.add(name, quality(lists, places, lists.positives(chain.split)))
        if not seed:
            shown = vectors, lists, orders[BOTH]
    print(f"\n{candidates.markdown()}\n\n{final.markdown()}\n")
    write_json(out / "results.json", {"candidates": candidates.values, "final": final.values})

    # 5. What the first seed's models show some users, and why.
    report = new_report(data, candidates, final, seeds)
    vectors, lists, places = shown
    add_users(
        report,
        items=chain.table("items"),
        before=chain.split.before,
        embeddings=vectors,
        lists=lists,
        places_QK=places,
        answers=pq.read_table(chain.split.answers),
        count=users_shown,
    )
    add_provenance(report, {"data": data, "seeds": seeds, "targets": targets or "all"})
    report.save(out / "report.html")
    print(out / "report.html")


if __name__ == "__main__":
    main()
