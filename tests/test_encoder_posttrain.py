"""Post-training on a small simulated shop: complete run folders, the same result after a kill, no leak."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from encoder_helpers import Shop, history, kill_after_lines, write_table

from encoders.compact import CompactEncoder
from encoders.export import ExportConfig, export
from encoders.loading import load_encoder
from encoders.posttrain import PosttrainConfig, posttrain
from encoders.towers import Towers
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]

CONTRACT = {
    "config.yaml", "metrics.json", "history.jsonl", "report.html", "model", "provenance.json", "tensorboard"
}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def load(run: Path | str) -> CompactEncoder:
    encoder, ready = load_encoder(str(run))
    assert ready
    assert isinstance(encoder, CompactEncoder)
    return encoder


def test_a_run_folder_holds_what_the_contract_says(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == CONTRACT
    assert {path.name for path in (trained / "model").iterdir()} == {"config.json", "model.safetensors"}
    metrics = read_json(trained / "metrics.json")
    encoder = load(trained)
    assert metrics["encoder_fingerprint"] == encoder.fingerprint()
    assert [line["epoch"] for line in history(trained)] == [0, 1, 2, 0, 1, 2]
    assert [line["round"] for line in history(trained)] == ["round 1"] * 3 + ["round 2"] * 3
    for number, one in enumerate(metrics["rounds"]):
        lines = history(trained)[3 * number :]
        assert one["validation"]["start"].items() <= lines[0].items()
        assert one["validation"]["best"].items() <= lines[one["best_epoch"]].items()
        assert set(one["pairs"]) == {"searches", "events"}
    assert metrics["validation"]["start"] == metrics["rounds"][0]["validation"]["start"]
    assert metrics["validation"]["best"] == metrics["rounds"][1]["validation"]["best"]
    assert metrics["broken_images"] == {"count": 0, "examples": []}
    provenance = read_json(trained / "provenance.json")
    assert provenance["command"] == "posttrain"
    assert {"items", "searches", "events", "from"} <= set(provenance["inputs"])
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert (config["epochs"], config["from"]) == (2, "compact")
    assert "<html" in (trained / "report.html").read_text()


def test_frozen_towers_are_not_saved_and_stay_the_packaged_ones(trained: Path) -> None:
    encoder = load(trained)
    assert encoder.towers is None
    assert not encoder.config.trained_towers
    assert not [name for name in encoder.state_dict() if "tower" in name]


def test_training_changes_the_encoder_and_the_seed_decides_it(
    shop: Shop, trained: Path, tmp_path: Path
) -> None:
    untouched = posttrain(shop.training(tmp_path / "untouched", epochs=0))
    again = posttrain(shop.training(tmp_path / "again", keep_epochs=True))
    expected = read_json(trained / "metrics.json")
    assert again["encoder_fingerprint"] == expected["encoder_fingerprint"]
    assert history(tmp_path / "again") == history(trained)
    assert len(history(tmp_path / "untouched")) == 2
    # Whether an epoch beats the start on this little data is chance; the loss shows that it learns.
    losses = [line["loss"] for line in history(trained)[1:]]
    assert losses[1] < losses[0]
    changed = untouched["encoder_fingerprint"] != expected["encoder_fingerprint"]
    assert changed == any(one["best_epoch"] > 0 for one in expected["rounds"])
    # Keeping the encoders of all epochs has changed nothing of the training.
    kept = {path.name: load(path).fingerprint() for path in (tmp_path / "again" / "epochs").iterdir()}
    assert sorted(kept) == ["1-00", "1-01", "1-02", "2-01", "2-02"]
    assert len(set(kept.values())) == 5
    best = f"2-{expected['rounds'][1]['best_epoch']:02d}"
    if best in kept:
        assert kept[best] == expected["encoder_fingerprint"]


def test_a_run_killed_in_both_rounds_goes_on_to_the_same_encoder_and_history(
    shop: Shop, trained: Path, tmp_path: Path
) -> None:
    config, partial = shop.training(tmp_path / "run"), tmp_path / "run.partial"
    for lines in (2, 5):
        kill_after_lines(config, lines)

    metrics, expected = posttrain(config), read_json(trained / "metrics.json")
    assert read_json(tmp_path / "run" / "provenance.json")["resumed"] is True
    assert metrics["encoder_fingerprint"] == expected["encoder_fingerprint"]
    for found, wanted in zip(metrics["rounds"], expected["rounds"], strict=True):
        assert found["experts"] == wanted["experts"]
    assert history(tmp_path / "run") == history(trained)
    assert {path.name for path in (tmp_path / "run").iterdir()} == CONTRACT
    assert not partial.exists()


def test_post_training_can_start_from_a_run(shop: Shop, trained: Path, tmp_path: Path) -> None:
    posttrain(shop.training(tmp_path / "next", from_=str(trained), epochs=0))
    encoder = load(tmp_path / "next")
    assert encoder.fingerprint() == load(trained).fingerprint()
    with pytest.raises(UserError, match=r"--dims: .* was built with"):
        posttrain(shop.training(tmp_path / "other", from_=str(trained), dims=(64,)))


def tiny(shop: Shop, folder: Path) -> PosttrainConfig:
    """Two pairs among a dozen items: few enough that none is held out, so that the last epoch is kept."""
    items = pq.read_table(shop.items).slice(0, 12)
    pq.write_table(items, folder / "items.parquet")
    ids = items.column("item_id").to_pylist()
    rows = [
        {"user_id": user, "item_id": item, "timestamp": 10**15 + number}
        for number, (user, item) in enumerate(zip("uuvv", [ids[0], ids[-1], ids[5], ids[6]], strict=True))
    ]
    write_table(folder / "events.parquet", rows)
    return PosttrainConfig(
        items=str(folder / "items.parquet"), events=str(folder / "events.parquet"),
        out=str(folder / "run"), train_towers=True, epochs=1, regions=False,
        rounds=("1",), pairs_per_epoch=8, batch_size=8,
        learning_rate=1e-3, device="cpu", cache=str(folder / "cache"),
    )  # fmt: skip


def test_trained_towers_change_are_saved_and_export(shop: Shop, towers: Towers, tmp_path: Path) -> None:
    config = tiny(shop, tmp_path)
    metrics = posttrain(config)
    assert metrics["rounds"][0]["best_epoch"] == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == CONTRACT
    encoder = load(config.out)
    assert encoder.fingerprint() == metrics["encoder_fingerprint"]
    assert encoder.towers is not None
    start, end = towers.state_dict(), encoder.towers.state_dict()
    changed = [name for name in start if not torch.equal(start[name], end[name])]
    assert any(name.startswith("image.") for name in changed)
    assert any(name.startswith("text.") for name in changed)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert not [name for name in changed if name.endswith(statistics)]
    out = tmp_path / "set"
    export(
        ExportConfig(encoder=config.out, items=config.items, out=str(out), device="cpu", cache=config.cache)
    )
    assert len(EmbeddingSet.open(out)) == 12


@pytest.mark.slow
def test_a_killed_run_that_trains_towers_goes_on_to_the_same_encoder(shop: Shop, tmp_path: Path) -> None:
    config = replace(tiny(shop, tmp_path), epochs=4)
    expected = posttrain(config)["encoder_fingerprint"]
    again = replace(config, out=str(tmp_path / "again"))
    kill_after_lines(again, 2)
    assert posttrain(again)["encoder_fingerprint"] == expected
    assert read_json(tmp_path / "again" / "provenance.json")["resumed"] is True


def test_held_out_impressions_take_pairs_away(shop: Shop, tmp_path: Path) -> None:
    pairs = {}
    # Impressions of the training period reach far back: most events come after a user's first.
    for split in (None, "test", "train"):
        holdout = None if split is None else shop.holdout.replace("_test", f"_{split}")
        metrics = posttrain(shop.training(tmp_path / str(split), holdout=holdout, epochs=0))
        pairs[split] = {name: counts["training"] for name, counts in metrics["rounds"][0]["pairs"].items()}
    assert pairs["test"]["events"] == pairs[None]["events"]  # the shop's training events end before the test
    assert 0 < pairs["train"]["events"] < pairs["test"]["events"] / 2
    assert 0 < pairs["train"]["searches"] < pairs["test"]["searches"]
    reports = {split: (tmp_path / str(split) / "report.html").read_text() for split in pairs}
    assert "is optimistic" in reports[None]
    assert "is optimistic" not in reports["test"]


def test_a_holdout_that_leaves_nothing_is_refused(shop: Shop, tmp_path: Path) -> None:
    impressions, first = pq.read_table(shop.holdout), pq.read_table(shop.events).column("timestamp")[0]
    times = pa.array([first.as_py()] * len(impressions), first.type)
    at = impressions.column_names.index("timestamp")
    pq.write_table(impressions.set_column(at, "timestamp", times), tmp_path / "holdout.parquet")
    with pytest.raises(UserError, match="before the held-out time"):
        posttrain(shop.training(tmp_path / "run", searches=None, holdout=str(tmp_path / "holdout.parquet")))
    assert not (tmp_path / "run").exists()


def test_one_source_alone_is_enough_and_none_is_refused(shop: Shop, tmp_path: Path) -> None:
    for name, options in (("events", {"searches": None}), ("searches", {"events": None})):
        metrics = posttrain(shop.training(tmp_path / name, epochs=0, **options))
        assert set(metrics["rounds"][0]["pairs"]) == {name}
    with pytest.raises(UserError, match="--searches, --events, or both"):
        posttrain(shop.training(tmp_path / "none", searches=None, events=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_types": ("bought",)}, "bought"),
        ({"from_": "/nowhere/at/all"}, "no such folder"),
        ({"mix": (0.0, 1.0), "events": None}, "--mix"),
        ({"items": "/nowhere.parquet"}, "nowhere"),
        ({"rounds": ("2", "1")}, "--rounds"),
        ({"cleaning": ("dust",)}, "--cleaning"),
        ({"modality_mix": "1:2"}, "--modality-mix"),
        ({"purchase_types": ("stolen",)}, "--purchase-types"),
        ({"dims": (64, 128)}, "--dims"),
        ({"experts": 2}, "experts"),
        ({"lora_rank": 4}, "--lora-rank"),
        ({"fsdp": True}, "--fsdp"),
    ],
)
def test_mistakes_are_told_and_leave_no_run(
    options: dict[str, Any], message: str, shop: Shop, tmp_path: Path
) -> None:
    arguments = vars(shop.training(tmp_path / "run")) | options
    with pytest.raises(UserError, match=message):
        posttrain(PosttrainConfig(**arguments))
    assert not (tmp_path / "run").exists()


def test_a_trailing_slash_names_the_same_run(shop: Shop, tmp_path: Path) -> None:
    posttrain(shop.training(tmp_path / "run", epochs=0))
    slashed = replace(shop.training(tmp_path / "run", epochs=0), out=f"{tmp_path / 'run'}/")
    posttrain(slashed)
    assert {path.name for path in (tmp_path / "run").iterdir()} == CONTRACT
    assert not (tmp_path / "run.partial").exists()


def test_searches_without_a_timestamp_are_counted_beside_a_holdout(shop: Shop, tmp_path: Path) -> None:
    searches = pq.read_table(shop.searches).drop_columns(["timestamp"])
    pq.write_table(searches, tmp_path / "searches.parquet")
    config = shop.training(
        tmp_path / "run",
        epochs=0,
        searches=str(tmp_path / "searches.parquet"),
        holdout=shop.holdout,
    )
    metrics = posttrain(config)
    assert metrics["rounds"][0]["pairs"]["searches"]["undated"] == len(searches)
    assert "no timestamp" in (tmp_path / "run" / "report.html").read_text()


def test_searches_that_a_holdout_removes_do_not_shape_the_starting_encoder(
    shop: Shop, tmp_path: Path
) -> None:
    searches = pq.read_table(shop.searches)
    later = searches.slice(0, 20)
    at = later.column_names.index("timestamp")
    kind = later.schema.field("timestamp").type
    future = pa.array([4 * 10**15] * len(later), pa.timestamp("us", "UTC")).cast(kind)
    pq.write_table(
        pa.concat_tables([searches, later.set_column(at, later.schema.field("timestamp"), future)]),
        tmp_path / "searches.parquet",
    )
    fingerprints = [
        posttrain(shop.training(tmp_path / name, searches=path, holdout=shop.holdout, epochs=0))[
            "encoder_fingerprint"
        ]
        for name, path in (("without", shop.searches), ("with", str(tmp_path / "searches.parquet")))
    ]
    assert fingerprints[0] == fingerprints[1]
