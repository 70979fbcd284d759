"""The joint round: which queries it shows how, that it learns and resumes, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from encoder_helpers import Shop, history, kill_after_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.joint_round import JointRound
from encoders.loading import load_encoder
from encoders.modality_mix import Contents, ModalityMix
from encoders.objective.config import JointConfig
from encoders.objective.sample_filter import margin_of
from encoders.pairs import Pairs
from encoders.posttrain import posttrain
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]


def searches(image: list[bool], text: list[bool]) -> tuple[Contents, Pairs]:
    """Queries behind one item that shows everything."""
    has_image, has_text = np.array([True, *image]), np.array([True, *text])
    count = len(image)
    nothing, zeros = np.full(count, -1), np.zeros(count, np.int64)
    return Contents(has_image, has_text, has_text), Pairs(
        1 + np.arange(count), zeros, nothing, nothing, nothing
    )


def round_of(contents: Contents, mix: str) -> JointRound:
    return JointRound(JointConfig(), contents, ModalityMix.parse(mix), np.zeros(1, bool))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
    st.sampled_from(["12:3:2", "1:1:1", "0:1:0", "1:0:0", "0:0:1", "1:0:4"]),
    st.integers(0, 100),
)
def test_a_query_is_shown_in_something_that_it_has_and_the_mix_asks_for(
    queries: list[tuple[bool, bool]], mix: str, seed: int
) -> None:
    contents, pairs = searches([image for image, _ in queries], [text for _, text in queries])
    joint = round_of(contents, mix)
    has_PM, asked_PM = joint.has(pairs), joint.asked(pairs, np.random.default_rng(seed))
    assert not (asked_PM & ~has_PM).any()
    assert (asked_PM.any(1) == has_PM.any(1)).all()
    always = np.array(joint.mix.chances()) == 1
    assert (asked_PM[:, always] == has_PM[:, always]).all()
    pools = joint.pools(pairs)
    shown = set(np.flatnonzero(has_PM.any(1)).tolist()) if has_PM.any(1).sum() > 1 else set()
    assert {row for pool in pools.pools for row in pool.rows.tolist()} == shown


def test_rarer_modalities_are_shown_as_often_as_the_mix_says() -> None:
    contents, pairs = searches([True] * 8000, [True] * 8000)
    joint = round_of(contents, "12:3:2")
    shown = joint.asked(pairs, np.random.default_rng(0)).mean(0)
    assert shown.tolist() == pytest.approx([1, 3 / 12, 2 / 12], abs=0.02)
    assert joint.shares(pairs) == pytest.approx({"image": 12 / 17, "text": 3 / 17, "both": 2 / 17})


def test_the_shares_are_those_of_what_is_shown_where_queries_lack_modalities() -> None:
    image = [True] * 3000 + [False] * 3000 + [True] * 2000
    text = [False] * 3000 + [True] * 3000 + [True] * 2000
    contents, pairs = searches(image, text)
    joint = round_of(contents, "3:12:2")
    shown = joint.asked(pairs, np.random.default_rng(0)).sum(0)
    assert list(joint.shares(pairs).values()) == pytest.approx((shown / shown.sum()).tolist(), abs=0.01)


def test_a_photo_without_words_is_asked_as_a_photo_whatever_the_mix() -> None:
    contents, pairs = searches([True, False], [False, True])
    joint = round_of(contents, "1:1000:1")
    assert joint.asked(pairs, np.random.default_rng(0)).tolist() == [
        [True, False, False],
        [False, True, False],
    ]


OPTIONS: dict[str, Any] = {"rounds": ("joint",), "learning_rate": 1e-3, "pairs_per_epoch": 192}


@pytest.fixture(scope="module")
def joint(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of an uninterrupted joint round of two epochs, and its metrics."""
    out = tmp_path_factory.mktemp("joint") / "run"
    return out, posttrain(shop.training(out, heatmaps=1, **OPTIONS))


def test_the_history_tells_losses_weights_and_what_was_filtered(
    shop: Shop, joint: tuple[Path, dict[str, Any]]
) -> None:
    run, metrics = joint
    start, first, second = history(run)
    assert start["loss"] is None
    for line in (first, second):
        assert line["margin"] == pytest.approx(margin_of(line["epoch"]))
        assert 0 <= line["filtered"] <= 1
        assert line["catalogue_log_rank"] > 0
        for name in ("image", "text", "both"):
            assert 0 < line[f"weight_{name}"] < 1
            assert line[f"inter_{name}"] > 0
    assert second["intra"] < first["intra"]
    assert second["inter_image"] < first["inter_image"]
    shares = metrics["rounds"][0]["modalities"]["searches"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    table = pq.read_table(run / "filtered.parquet")
    weights = table.column("weight").to_numpy()
    assert len(weights) > 0
    assert weights.max() < 1
    assert (np.diff(weights) >= 0).all()
    assert set(table.column("item_id").to_pylist()) <= set(shop.item_ids())
    asked = pq.read_table(shop.searches).column("item_id").to_pylist()
    for row in table.to_pylist():
        assert (row["search"] is None) != (row["query_item_id"] is None)
        if row["search"] is not None:
            assert row["item_id"] == asked[row["search"]]
    facts = metrics["rounds"][0]["filtered"]
    assert facts["epoch"] == 2
    assert facts["down_weighted"] == len(weights) < facts["pairs"]
    page = (run / "report.html").read_text()
    for text in (
        "Dynamic sample filtering",
        "The ten least believed",
        "What the vectors come from",
        "modality gap",
    ):
        assert text in page
    assert "could not be drawn" not in page


def test_a_killed_run_goes_on_to_the_same_encoder_and_history(
    shop: Shop, joint: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole, expected = joint
    config = shop.training(tmp_path / "run", **OPTIONS)
    kill_after_lines(config, 2)
    assert posttrain(config)["encoder_fingerprint"] == expected["encoder_fingerprint"]
    assert history(tmp_path / "run") == history(whole)
    once, twice = (pq.read_table(run / "filtered.parquet") for run in (tmp_path / "run", whole))
    assert once == twice


@pytest.mark.parametrize(
    "switched_off",
    [
        {"filter": False, "objective_weights": "even"},
        {"intra_weight": 0.0, "guided": False},
        {"inter_weight": 0.0, "hard_negatives": 0, "queue": 0},
        {"experts": 0},
    ],
)
def test_every_part_can_be_switched(switched_off: dict[str, Any], shop: Shop, tmp_path: Path) -> None:
    options: dict[str, Any] = OPTIONS | {"epochs": 1, "pairs_per_epoch": 128} | switched_off
    posttrain(shop.training(tmp_path / "run", **options))
    line = history(tmp_path / "run")[-1]
    assert (
        ("filtered" in line)
        == (tmp_path / "run" / "filtered.parquet").exists()
        == options.get("filter", True)
    )
    assert ("intra" in line) == (options.get("intra_weight") != 0)
    assert ("balance" in line) == (options.get("experts") != 0)
    encoder, _ = load_encoder(str(tmp_path / "run"))
    forced = {layer.forced for layer in encoder.guided_experts()}
    assert forced == (set() if options.get("experts") == 0 else {2 * options.get("guided", True)})
    even = options.get("objective_weights") == "even" or options.get("experts") == 0
    assert (line["weight_image"] == pytest.approx(1 / 3, abs=1e-6)) == even


def test_chunks_change_nothing_but_memory(shop: Shop, tmp_path: Path) -> None:
    options: dict[str, Any] = OPTIONS | {"epochs": 1, "pairs_per_epoch": 128}
    lines = []
    for size in (0, 50):
        posttrain(shop.training(tmp_path / str(size), chunk_size=size, **options))
        lines.append(history(tmp_path / str(size))[-1])
    for name in ("loss", "inter_image", "inter_text", "intra", "balance", "weight_both", "filtered"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=1e-3), name


def test_a_joint_round_goes_with_the_others(shop: Shop, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "pairs_per_epoch": 128, "rounds": ("1", "joint", "2")}
    metrics = posttrain(shop.training(tmp_path / "run", **options))
    assert [one["name"] for one in metrics["rounds"]] == ["round 1", "joint round", "round 2"]
    assert "catalogue_recall@10" in (tmp_path / "run" / "report.html").read_text()


def test_a_round_without_anything_to_learn_is_refused(shop: Shop, tmp_path: Path) -> None:
    items = pq.read_table(shop.items)
    pictures = [name for name in items.column_names if name.startswith("image")]
    pq.write_table(items.drop_columns(pictures), tmp_path / "items.parquet")
    config = shop.training(tmp_path / "run", inter_weight=0.0, **OPTIONS)
    with pytest.raises(UserError, match="--inter-weight 0 leaves nothing to learn"):
        posttrain(replace(config, items=str(tmp_path / "items.parquet")))


def test_searches_of_photos_alone_train_with_that_modality_alone(shop: Shop, tmp_path: Path) -> None:
    table = pq.read_table(shop.searches).drop_columns(["query_text"])
    pq.write_table(table, tmp_path / "photos.parquet")
    options = OPTIONS | {"searches": str(tmp_path / "photos.parquet"), "events": None, "epochs": 1}
    posttrain(shop.training(tmp_path / "run", **options))
    line = history(tmp_path / "run")[-1]
    assert line["weight_text"] == line["weight_both"] == 0
    assert "inter_text" not in line
    assert line["weight_image"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": ("joint", "1")}, "some of 1,joint,2, in this order"),
        ({"objective_weights": "best"}, "learned, even"),
        ({"inter_weight": 0.0, "intra_weight": 0.0}, "--inter-weight or --intra-weight"),
        ({"modality_mix": "0:0:0"}, "not all 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        posttrain(shop.training(tmp_path / "run", **(OPTIONS | options)))
