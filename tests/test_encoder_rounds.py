"""What the rounds of post-training are made of: whose answers belong together, what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from encoder_helpers import CPU, Shop

from encoders.launch import make_accelerator
from encoders.loading import cache_folder, start_encoder
from encoders.look import Look
from encoders.posttrain import PosttrainConfig, posttrain
from encoders.posttrain_rounds import RoundMaker
from encoders.products import EVERYTHING
from encoders.sampling import PlannedBatch
from encoders.sides import JointSides
from encoders.sides_maker import SidesMaker
from encoders.training_data import load_products, open_tables
from encoders.training_loop import Trainer
from encoders.training_state import Checkpoint

pytest_plugins = ["encoder_fixtures"]


def made(config: PosttrainConfig, folder: Path) -> tuple[RoundMaker, Trainer]:
    """What a post-training makes its rounds with, before the first step."""
    tables = open_tables(items=config.items, searches=config.searches, events=config.events)
    encoder, _ = start_encoder(config.from_, config.start_options(), tables["items"])
    look, cache = Look(encoder, CPU, None), cache_folder(config.cache)
    products = load_products(
        tables["items"], tables.get("searches"), encoder, look=look, device=CPU, cache=cache, folder=folder
    )
    maker = RoundMaker(config, tables, products, encoder, keep=1.0, processes=1, device=CPU)
    accelerator = make_accelerator("cpu", "fp32", find_unused=False)
    checkpoint = Checkpoint(folder / "checkpoint", writes=True)
    return maker, Trainer(encoder, products, accelerator, None, checkpoint, chunk_size=0, fsdp=False, seed=0)


def test_rows_with_the_same_words_are_not_each_others_negatives(shop: Shop, tmp_path: Path) -> None:
    searches = pq.read_table(shop.searches).select(["item_id"])
    words = pa.array(["red dress" if row % 2 else f"thing {row}" for row in range(len(searches))])
    pq.write_table(searches.append_column("query_text", words), tmp_path / "searches.parquet")
    config = shop.training(tmp_path / "run", searches=str(tmp_path / "searches.parquet"), rounds=("1",))
    maker, trainer = made(config, tmp_path)
    round_ = maker.first()
    sides_maker = SidesMaker(trainer, round_)
    asked, users = [], []
    for source, pairs in enumerate(maker.sources):
        batch = PlannedBatch(source, np.arange(len(pairs.training)), EVERYTHING, EVERYTHING)
        group_P = sides_maker.sides(batch, epoch=1, number=0).labels.user_P
        if pairs.name == "events":
            users = group_P.tolist()
            assert users == pairs.training.user.tolist()
            continue
        rows = pairs.training.anchor - len(shop.item_ids())
        same_PP = torch.from_numpy(np.array([words[int(row)].as_py() for row in rows]) == "red dress")
        assert int(same_PP.sum()) > 5
        assert len(set(group_P[same_PP].tolist())) == 1
        assert len(set(group_P.tolist())) == 1 + int((~same_PP).sum())
        asked = group_P.tolist()
    assert not set(asked) & set(users)


def test_the_report_says_what_round_two_was_made_of(shop: Shop, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rounds": ("2",), "epochs": 0, "queue": 10**6, "batch_size": 512}
    metrics = posttrain(shop.training(tmp_path / "run", **options))
    (one,) = metrics["rounds"]
    products = len(set(pq.read_table(shop.items).column("product_id").to_pylist()))
    assert one["queue"] == {"asked": 10**6, "held": products}
    assert one["batch"]["asked"] == 512
    assert one["batch"]["largest"] < 512
    steps = one["cleaning"]["events"]
    assert list(steps) == ["entity_filter", "merge_skus", "hardest_query", "match_exposure"]
    assert one["purchases"] == {"searches": ["purchase"], "events": ["purchase"]}
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("The queue holds", "No batch has the 512 pairs", "hardest_query", "No epoch beat the start"):
        assert text in page


def test_impressions_give_the_mix_of_categories(shop: Shop, tmp_path: Path) -> None:
    shown = shop.holdout.replace("_test", "_train")
    options: dict[str, Any] = {"rounds": ("2",), "epochs": 0}
    without = posttrain(shop.training(tmp_path / "without", **options))
    given = posttrain(shop.training(tmp_path / "given", impressions=shown, **options))
    assert "skipped" in without["rounds"][0]["cleaning"]["events"]["match_exposure"]
    assert "skipped" not in given["rounds"][0]["cleaning"]["events"]["match_exposure"]


@pytest.mark.parametrize("queue", [0, 16])
def test_round_two_trains_with_and_without_every_kind_of_negative(
    queue: int, shop: Shop, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"rounds": ("2",), "epochs": 1, "queue": queue, "hard_negatives": queue // 8}
    (one,) = posttrain(shop.training(tmp_path / "run", **options))["rounds"]
    assert one["epochs"] == 1


def test_a_joint_batch_shows_every_query_in_all_that_it_has(shop: Shop, tmp_path: Path) -> None:
    maker, trainer = made(shop.training(tmp_path / "run", rounds=("joint",)), tmp_path)
    round_, table = maker.joint(), trainer.products.table
    for source, pairs in enumerate(maker.sources):
        batch = PlannedBatch(source, np.arange(len(pairs.training)), EVERYTHING, EVERYTHING)
        sides = SidesMaker(trainer, round_).sides(batch, epoch=1, number=0)
        assert isinstance(sides, JointSides)
        has_image, has_text = table.has_image()[sides.anchor_P], table.has_text()[sides.anchor_P]
        for pair_A, has in zip(sides.asked, (has_image, has_text, has_image & has_text), strict=True):
            assert pair_A.tolist() == np.flatnonzero(has).tolist()
        assert round_.joint is not None
        held_out = np.flatnonzero(round_.joint.held_out_M)
        assert len(held_out) > 0
        own = table.has_image() & table.has_text() & ~np.isin(np.arange(len(table)), held_out)
        assert set(sides.own_J.tolist()) == {
            row for row in [*sides.positive_P.tolist(), *sides.hard_H.tolist()] if own[row]
        }
        assert len(sides.own_labels) == len(sides.own_J)


def test_two_processes_show_what_one_would(shop: Shop, tmp_path: Path) -> None:
    config = shop.training(tmp_path / "run", rounds=("joint",), modality_mix="12:3:2")
    maker, trainer = made(config, tmp_path)
    round_ = maker.joint()
    batch = PlannedBatch(0, np.arange(30), EVERYTHING, EVERYTHING)
    whole = SidesMaker(trainer, round_).sides(batch, epoch=2, number=5)
    shares = []
    for process in range(2):
        of_two = SidesMaker(trainer, round_)
        of_two._processes, of_two._process = 2, process
        shares.append(of_two.sides(batch, epoch=2, number=5))
    assert isinstance(whole, JointSides)
    for name in ("anchor_P", "positive_P", "hard_H"):
        together = np.concatenate([getattr(share, name) for share in shares])
        assert together.tolist() == getattr(whole, name).tolist()
    first, second = shares
    assert isinstance(first, JointSides)
    assert isinstance(second, JointSides)
    assert set(first.own_J.tolist()) | set(second.own_J.tolist()) == set(whole.own_J.tolist())
    for one, two, both in zip(first.asked, second.asked, whole.asked, strict=True):
        assert [*one.tolist(), *(two + 15).tolist()] == both.tolist()
