"""`moonrec demo`: the whole chain, small but real in every part, on a simulated marketplace.

simulate, posttrain, export, evaluate, train-ctr with and without embeddings, then one table and a report.
It stands beside the command line because it is the one place that runs both `encoders` and `ctr`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonrec.atomic import write_json
from moonrec.errors import UserError
from moonrec.progress import say
from moonrec.report import Report, add_provenance, format_value
from moonrec.text_tables import aligned

CONTENTS = ("none", "concat", "simtier", "cube")
# Options of the two stages by backbone: minutes on two cores. What starts from nothing learns faster.
_STAGE_ONE: dict[str, dict[str, Any]] = {
    "compact": {"epochs": 6, "samples_per_epoch": 4096, "patience": 2},
    "tiny-mllm": {
        "epochs": 4, "samples_per_epoch": 1024, "batch_size": 64, "learning_rate": 2e-3, "experts": 0,
        "patience": 4,
    },
}  # fmt: skip
_STAGE_TWO: dict[str, dict[str, Any]] = {
    "compact": {"epochs": 8, "pairs_per_epoch": 4096, "patience": 2},
    "tiny-mllm": {
        "epochs": 3, "pairs_per_epoch": 1024, "batch_size": 64, "learning_rate": 1e-3, "experts": 6,
        "queue": 1024,
    },
}  # fmt: skip


@dataclass(frozen=True)
class _Places:
    """Where the parts of the demo stand."""

    out: Path

    def folder(self, name: str) -> str:
        """A folder of the demo."""
        return str(self.out / name)

    def table(self, name: str) -> str:
        """A table of the simulated marketplace."""
        return str(self.out / "data" / f"{name}.parquet")


def run_demo(out: Path, *, items: int, users: int, seed: int, backbone: str = "compact") -> dict[str, Any]:
    """Run the chain into the folder `out`; returns its table and where the report stands.

    Args:
        out: a folder of the demo's own.
        items, users: sizes of the simulated marketplace.
        seed: of everything random.
        backbone: `compact`, or `tiny-mllm`: a language model of a few million random weights, which goes
            through the same stages as a large one and, small as it is, does not become as good.

    Raises:
        UserError: `out` is a folder that the demo did not write.
    """
    if out.is_file():
        raise UserError(f"{out}: is a file; the demo writes a folder, choose another name with -o")
    # Names with a dot in front are what a killed demo may have left of its first step.
    visible = out.exists() and any(not entry.name.startswith(".") for entry in out.iterdir())
    if visible and not (out / "data" / "simulation.json").exists():
        raise UserError(f"{out}: is a folder that the demo did not write; choose another with -o")
    places, started = _Places(out), time.perf_counter()
    simulated = _simulate(out, items, users, seed)
    _pretrain(places, seed, backbone)
    trained = _post_train(places, seed, backbone)
    recall = _evaluate(places, backbone)
    rows = _train_ctr(places, seed)
    seconds = time.perf_counter() - started
    results: dict[str, Any] = {
        "simulated": True,
        "backbone": backbone,
        "seconds": round(seconds, 1),
        "image_search": recall,
        "ctr": rows,
        "ceiling_auc": simulated["ceiling_auc"],
        "report": str(out / "report.html"),
    }
    write_json(out / "demo.json", results)
    sizes = {"items": items, "users": users, "seed": seed, "backbone": backbone}
    _write_report(out, results, simulated, trained, sizes)
    return {**results, "lines": _lines(results)}


def _simulate(out: Path, items: int, users: int, seed: int) -> dict[str, Any]:
    from moonrec.simulation import simulate

    say("demo", f"simulating a marketplace of {items:,} items and {users:,} users")
    out.mkdir(parents=True, exist_ok=True)
    return simulate(out / "data", items=items, users=users, seed=seed)


def _pretrain(places: _Places, seed: int, backbone: str) -> None:
    from encoders.pretrain import PretrainConfig, pretrain

    say("demo", f"stage 1: pretraining {backbone} on the catalogue")
    pretrain(
        PretrainConfig(
            items=places.table("items"),
            backbone=backbone,
            seed=seed,
            cache=places.folder("cache"),
            out=places.folder("pretrained"),
            **_STAGE_ONE[backbone],
        )
    )


def _post_train(places: _Places, seed: int, backbone: str) -> dict[str, Any]:
    from encoders.posttrain import PosttrainConfig, posttrain

    say("demo", "stage 2: post-training on searches and events before the test period, in two rounds")
    return posttrain(
        PosttrainConfig(
            items=places.table("items"),
            searches=places.table("searches_train"),
            events=places.table("events"),
            holdout=places.table("impressions_test"),
            impressions=places.table("impressions_train"),
            from_=places.folder("pretrained"),
            seed=seed,
            cache=places.folder("cache"),
            out=places.folder("encoder"),
            **_STAGE_TWO[backbone],
        )
    )


def _evaluate(places: _Places, backbone: str) -> list[dict[str, Any]]:
    from encoders.evaluate import EvaluateConfig, evaluate
    from encoders.export import ExportConfig, export

    say("demo", "exporting frozen embeddings and measuring image-search recall")
    items, searches, cache = places.table("items"), places.table("searches_test"), places.folder("cache")
    trained = places.folder("encoder")
    export(ExportConfig(encoder=trained, items=items, cache=cache, out=places.folder("embeddings")))
    rows = []
    for name, encoder, run in (
        ("untrained", backbone, "evaluation_untrained"),
        ("after stage 1", places.folder("pretrained"), "evaluation_pretrained"),
        ("post-trained", trained, "evaluation"),
    ):
        metrics = evaluate(
            EvaluateConfig(
                encoder=encoder,
                items=items,
                searches=searches,
                tasks=("image_to_item",),
                cache=cache,
                out=places.folder(run),
            )
        )
        found = metrics["retrieval"]["image_to_item"]
        rows.append({"encoder": name, **{key: found[key] for key in ("hit@1", "hit@10", "mrr")}})
    return rows


def _train_ctr(places: _Places, seed: int) -> list[dict[str, Any]]:
    from ctr.train import TrainConfig, train_ctr

    rows: list[dict[str, Any]] = []
    for content in CONTENTS:
        say("demo", f"training a click model, content: {content}")
        metrics = train_ctr(
            TrainConfig(
                impressions=places.table("impressions_train"),
                test=places.table("impressions_test"),
                events=places.table("events"),
                items=places.table("items"),
                embeddings=None if content == "none" else places.folder("embeddings"),
                content=(content,),
                seed=seed,
                out=places.folder(f"ctr_{content}"),
            )
        )
        rows.append({"model": "ids only" if content == "none" else f"ids + {content}", **_headline(metrics)})
    baseline = metrics["baseline"]["top3_cosine"]
    return [{"model": "top-3 cosine, no learning", **baseline, "new_items_auc": None}, *rows]


def _headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    new = [group["auc"] for group in metrics["groups"] if group["group"] == "new"]
    return {
        "auc": metrics["test"]["auc"],
        "gauc": metrics["test"]["gauc"],
        "new_items_auc": new[0] if new else None,
    }


def _lines(results: Mapping[str, Any]) -> list[str]:
    lines = [f"Simulated data; {results['seconds']:.0f} seconds.", ""]
    for title, rows in (("Image search", results["image_search"]), ("Clicks", results["ctr"])):
        columns = list(rows[0])
        cells = [[title, *columns[1:]]] + [[format_value(row[name]) for name in columns] for row in rows]
        lines += aligned(cells)
        lines.append("")
    ceiling = format_value(results["ceiling_auc"])
    return [
        *lines,
        f"The simulation's own probabilities reach AUC {ceiling}.",
        f"Report: {results['report']}",
    ]


def _write_report(
    out: Path,
    results: Mapping[str, Any],
    simulated: Mapping[str, Any],
    trained: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    report = Report("moonrec demo", "every number on this page is from simulated data")
    report.headline(_key_figures(results))
    report.heading("Does the encoder find what users photographed?")
    report.table(results["image_search"], "Image search: the query photo alone against the whole catalogue")
    report.heading("Do the frozen embeddings lift the click model?")
    report.table(results["ctr"], "Clicks of the test period")
    report.text(
        f"The simulation's own click probabilities reach AUC {results['ceiling_auc']:.4f} on the test "
        "impressions: no model can do better than that."
    )
    report.heading("The chain")
    report.table([{"table": name, "rows": rows} for name, rows in simulated["rows"].items()])
    rounds = [f"{r['name']}: best epoch {r['best_epoch']} of {r['epochs']}" for r in trained["rounds"]]
    report.text(f"Post-training of the {results['backbone']} backbone: {', '.join(rounds)}.")
    report.text(
        "The parts have reports of their own: pretrained/, encoder/, evaluation/, ctr_*/ beside this page."
    )
    add_provenance(report, config)
    report.save(out / "report.html")


def _key_figures(results: Mapping[str, Any]) -> list[tuple[str, object, str]]:
    """What training adds to image search, and what frozen embeddings add to the click model."""
    first, *_, last = results["image_search"]
    alone = next(row for row in results["ctr"] if row["model"] == "ids only")
    best = max((row for row in results["ctr"] if row["auc"] is not None), key=lambda row: row["auc"])
    return [
        ("image search: hit@10", last["hit@10"], f"{format_value(first['hit@10'])} untrained"),
        (f"clicks: AUC of {best['model']}", best["auc"], f"{format_value(alone['auc'])} with ids only"),
        (f"clicks: GAUC of {best['model']}", best["gauc"], f"{format_value(alone['gauc'])} with ids only"),
        ("AUC of the simulation's own probabilities", results["ceiling_auc"], "no model can do better"),
    ]
