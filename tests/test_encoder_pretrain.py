"""Stage 1: pictures are aligned with words, or a language model answers questions; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import Shop, picture, write_table

from encoders.export import ExportConfig, export
from encoders.loading import load_encoder
from encoders.posttrain import posttrain
from encoders.pretrain import PretrainConfig, pretrain
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

pytest_plugins = ["encoder_fixtures"]


def config(shop: Shop, out: Path, **options: Any) -> PretrainConfig:
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 16, "regions": False, "device": "cpu"}
    return PretrainConfig(items=shop.items, out=str(out), cache=shop.cache, **(defaults | options))


def test_alignment_lowers_the_rank_of_a_pictures_own_words(shop: Shop, tmp_path: Path) -> None:
    metrics = pretrain(config(shop, tmp_path / "run", epochs=3, learning_rate=1e-3))
    start, best = metrics["validation"]["start"], metrics["validation"]["best"]
    assert best["catalogue_log_rank"] < start["catalogue_log_rank"]
    assert set(metrics["experts"]) == {"image", "title", "category", "attributes", "description"}
    assert metrics["experts"]["category"][0] == metrics["experts"]["attributes"][1] == 1.0
    assert sum(metrics["experts"]["image"][:2]) == 0
    encoder, ready = load_encoder(str(tmp_path / "run"))
    assert ready
    assert encoder.fingerprint() == metrics["encoder_fingerprint"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "saw (0: category" in report


def test_a_pretrained_encoder_is_post_trained(shop: Shop, tmp_path: Path) -> None:
    first = pretrain(config(shop, tmp_path / "one", epochs=1))
    posttrain(shop.training(tmp_path / "two", from_=str(tmp_path / "one"), epochs=0))
    provenance = json.loads((tmp_path / "two" / "provenance.json").read_text())
    assert provenance["inputs"]["from"] == first["encoder_fingerprint"]


def test_a_dense_run_is_given_experts_that_change_nothing(shop: Shop, tmp_path: Path) -> None:
    pretrain(config(shop, tmp_path / "dense", epochs=1, experts=0))
    dense, _ = load_encoder(str(tmp_path / "dense"))
    assert not dense.guided_experts()
    out = tmp_path / "guided"
    posttrain(shop.training(out, from_=str(tmp_path / "dense"), epochs=0, experts=4))
    guided, _ = load_encoder(str(out))
    assert len(guided.guided_experts()) == 2
    sets = []
    for name in ("dense", "guided"):
        place = str(tmp_path / f"{name}_set")
        export(ExportConfig(encoder=str(tmp_path / name), items=shop.items, out=place, cache=shop.cache))
        sets.append(EmbeddingSet.open(place).matrix().astype(float))
    assert abs(sets[0] - sets[1]).max() < 0.02  # both multiply in bf16 where that is fast


def test_a_tiny_language_model_passes_through_all_stages(shop: Shop, tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    pq.write_table(pq.read_table(shop.items).slice(0, 24), items)
    small = replace(shop, items=str(items))
    one = config(small, tmp_path / "one", backbone="tiny-mllm", epochs=1, batch_size=8, samples_per_epoch=24)
    with pytest.raises(UserError, match="--keep 1: an MLLM learns answers"):
        pretrain(replace(one, keep=1.0))
    metrics = pretrain(replace(one, dims=(32, 16)))
    assert metrics["validation"]["best"]
    assert not load_encoder(str(tmp_path / "one"))[0].guided_experts()
    assert "Example answers" in (tmp_path / "one" / "report.html").read_text()
    options: dict[str, Any] = {
        "from_": str(tmp_path / "one"), "epochs": 1, "batch_size": 8, "pairs_per_epoch": 16, "chunk_size": 6,
        "searches": None, "regions": None, "cleaning": ("sku",), "queue": 8,
    }  # fmt: skip
    done = posttrain(small.training(tmp_path / "two", **options))
    assert [one["name"] for one in done["rounds"]] == ["round 1", "round 2"]
    out = tmp_path / "set"
    counts = export(ExportConfig(encoder=str(tmp_path / "two"), items=str(items), out=str(out), dim=16))
    assert counts["rows"] == 24
    assert EmbeddingSet.open(out).dimension == 16


@pytest.mark.parametrize("missing", ["image", "title"])
def test_products_without_pictures_or_without_words_cannot_be_aligned(missing: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": str(i), "title": f"red sock {i}", "image": picture(i)} for i in range(6)
    ]
    for row in rows:
        row[missing] = None
    path = write_table(tmp_path / "items.parquet", rows)
    with pytest.raises(UserError, match="needs products that have both"):
        pretrain(PretrainConfig(items=str(path), out=str(tmp_path / "run"), regions=False, device="cpu"))
    assert not (tmp_path / "run").exists()


def test_a_catalogue_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    rows = [{"item_id": str(i), "title": None, "image": b"broken"} for i in range(3)]
    path = write_table(tmp_path / "items.parquet", rows)
    with pytest.raises(UserError, match="no product shows anything"):
        pretrain(PretrainConfig(items=str(path), out=str(tmp_path / "run"), device="cpu", cache=""))


def test_a_loss_that_is_not_finite_names_the_items_and_keeps_the_checkpoint(
    shop: Shop, tmp_path: Path
) -> None:
    options = {"learning_rate": 1e30, "epochs": 3, "precision": "fp32"}
    with pytest.raises(UserError, match=r"alignment, epoch \d+, step \d+: the loss is .*item '") as caught:
        pretrain(config(shop, tmp_path / "run", **options))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run.partial" / "checkpoint" / "state.pt").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "bert"}, "not supported; supported are .*qwen3_vl"),
        ({"backbone": "huge"}, "unknown backbone"),
        ({"backbone": "mllm"}, "model|config|backbone"),
        ({"backbone": "dual"}, "model|config|backbone"),
        ({"model_type": "qwen2_5_vl"}, "/"),
        ({"model_type": "clip"}, "/"),
    ],
)
def test_folders_that_hold_no_usable_encoder_are_refused(
    content: dict[str, Any], message: str, shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        pretrain(config(shop, tmp_path / "run", backbone=str(tmp_path / "model")))
    assert "\n" not in str(caught.value)


def test_unknown_items_above_half_of_the_searches_are_refused(shop: Shop, tmp_path: Path) -> None:
    searches = pq.read_table(shop.searches)
    ids = searches.column("item_id").to_pylist()
    for share, refused in ((0.3, False), (0.7, True)):
        cut = int(share * len(ids))
        changed = pa.array(["gone"] * cut + ids[cut:])
        at = searches.column_names.index("item_id")
        pq.write_table(searches.set_column(at, "item_id", changed), tmp_path / "searches.parquet")
        training = shop.training(
            tmp_path / "run", searches=str(tmp_path / "searches.parquet"), events=None, epochs=0
        )
        if refused:
            with pytest.raises(UserError, match="'gone'"):
                posttrain(training)
        else:
            counts = posttrain(training)["rounds"][0]["pairs"]["searches"]
            assert (counts["unknown"], counts["examples"]) == (cut, ["gone"])
