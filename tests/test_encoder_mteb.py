"""The real mteb measures an encoder, offline, and finds what `moonrec evaluate` finds on the same items."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from encoder_helpers import CPU, Shop, picture, write_table
from PIL import Image
from torch.utils.data import DataLoader

import moonrec
from encoders.compact import CompactConfig, CompactEncoder
from encoders.encoding import encode, shortened
from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.mteb_inputs import packed
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.loading import load_encoder
from encoders.products import IMAGE_ONLY, Aspect, Product, iter_items
from moonrec.errors import UserError
from moonrec.images import decode_image
from moonrec.tables import ITEMS, open_table

if TYPE_CHECKING:
    from moonrec import MtebEncoder

pytest_plugins = ["encoder_fixtures"]

# What a task shows of queries and of items, in mteb's letters.
CATEGORIES = {
    "image_to_item": "i2it",
    "text_to_item": "t2it",
    "item_to_item": "it2it",
    "image_to_text": "i2t",
    "text_to_image": "t2i",
}
SAME = {f"hit@{k}": f"hit_rate_at_{k}" for k in (1, 5, 10, 50)}
SAME |= {"recall@10": "recall_at_10", "recall@50": "recall_at_50"}
SAME |= {"mrr": "mrr_at_1000", "ndcg@10": "ndcg_at_10"}


@dataclass(frozen=True)
class Case:
    """Products that all have a picture and a title, searches for them, and an encoder fitted to them."""

    folder: Path
    items: list[dict[str, Any]]
    searches: list[dict[str, Any]]

    def model(self, **options: Any) -> MtebEncoder:
        defaults = {"device": "cpu", "cache": self.folder / "cache"}
        return moonrec.MtebEncoder(self.folder / "encoder", **(defaults | options))

    def rows(self, letters: str) -> list[dict[str, Any]]:
        """The catalogue as a corpus that shows the picture, the title or both."""
        return [row(one["item_id"], letters, one["title"], one["image"]) for one in self.items]

    def queries(self, letters: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
        """Distinct queries that have all that is shown, and what was taken, by their id."""
        found: dict[str, dict[str, Any]] = {}
        taken: dict[str, list[str]] = defaultdict(list)
        for one in self.searches:
            shown = row("", letters, one["query_text"], one["query_image"])
            if None in shown.values():
                continue
            key = str(sorted(shown.items()))
            name = found.setdefault(key, shown | {"id": f"q{len(found)}"})["id"]
            taken[name] = sorted({*taken[name], one["item_id"]})
        return list(found.values()), taken


def row(name: str, letters: str, text: str | None, image: bytes | None) -> dict[str, Any]:
    shown = {"t": ("text", text), "i": ("image", image)}
    return {"id": name} | dict(shown[letter] for letter in letters)


def random_encoder(config: CompactConfig) -> CompactEncoder:
    torch.manual_seed(0)
    encoder = CompactEncoder(config).eval()
    for parameter in encoder.parameters():
        parameter.data.normal_(std=0.3)
    return encoder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def case(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The encoder is dense and has learnt no aspects: mteb shows labels as titles, `evaluate` as categories.

    Its other weights are random: fitted to a catalogue only, pictures and words would be at right angles.
    """
    folder = tmp_path_factory.mktemp("mteb")
    items = [
        {name: one[name] for name in ("item_id", "title", "category")} | {"image": one["image"]["bytes"]}
        for one in pq.read_table(shop.items).to_pylist()
        if one["image"] is not None and one["category"] is not None
    ]
    known = {one["item_id"] for one in items}
    searches = [
        {"query_text": one["query_text"], "item_id": one["item_id"]}
        | {"query_image": one["query_image"] and one["query_image"]["bytes"]}
        for one in pq.read_table(shop.test_searches).to_pylist()
        if one["item_id"] in known
    ]
    write_table(folder / "labelled.parquet", items)
    shown = [{name: one[name] for name in ("item_id", "title", "image")} for one in items]
    write_table(folder / "items.parquet", shown)
    write_table(folder / "searches.parquet", searches)
    encoder = random_encoder(CompactConfig(dims=(64, 32), width=64, experts=0, regions=False))
    encoder.aspect.weight.data.zero_()
    encoder.save_pretrained(folder / "encoder")
    return Case(folder, items, searches)


def evaluated(case: Case, out: Path, items: str, tasks: Sequence[str]) -> dict[str, Any]:
    config = EvaluateConfig(
        tasks=tuple(tasks),
        encoder=str(case.folder / "encoder"),
        items=str(case.folder / items),
        searches=str(case.folder / "searches.parquet"),
        cache=str(case.folder / "cache"),
        device="cpu",
        out=str(out),
    )
    return evaluate(config)


def measured(model: MtebEncoder, task: Any) -> dict[str, float]:
    """What mteb says of the model on one task."""
    import mteb

    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    scores: dict[str, float] = found.task_results[0].scores["test"][0]
    return scores


def test_mteb_and_evaluate_find_the_same_in_every_retrieval_task(case: Case, tmp_path: Path) -> None:
    from mteb_tasks import retrieval_task

    ours = evaluated(case, tmp_path / "run", "items.parquet", list(CATEGORIES))["retrieval"]
    model = case.model()
    for task, category in CATEGORIES.items():
        asked, answers = category.split("2")
        queries, positives = case.queries(asked)
        theirs = measured(model, retrieval_task(task, category, queries, case.rows(answers), positives))
        assert len(queries) == ours[task]["queries"] > 10
        found = {name: theirs[same] for name, same in SAME.items()}
        assert found == pytest.approx({name: ours[task][name] for name in SAME}, abs=1e-4), task
        assert 0 < found["mrr"] < 1
    assert model.broken.count == 0


def test_mteb_and_evaluate_name_the_same_categories(case: Case, tmp_path: Path) -> None:
    from mteb_tasks import zero_shot_task

    found = evaluated(case, tmp_path / "run", "labelled.parquet", ["classification"])
    ours = found["classification"]["level1"]
    level1 = [one["category"].split(" > ")[0] for one in case.items]
    rows = [
        {"text": one["title"], "image": one["image"], "label": label}
        for one, label in zip(case.items, level1, strict=True)
    ]
    theirs = measured(case.model(), zero_shot_task("level1", rows, sorted(set(level1))))
    names = ("accuracy", "f1", "f1_weighted", "precision", "recall")
    assert {name: theirs[name] for name in names} == pytest.approx(
        {name: ours[name] for name in names}, abs=1e-4
    )
    assert len(set(level1)) > 1


def loader_of(*batches: dict[str, list[Any]]) -> DataLoader[Any]:
    """Batches as they are, without a data set of files behind them."""
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def encoded(model: MtebEncoder, inputs: DataLoader[Any], **options: Any) -> np.ndarray:
    task: Any = SimpleNamespace(name="Toys")
    return model.encode(inputs, task_metadata=task, hf_split="test", hf_subset="default", **options)


def test_files_and_pixels_make_the_same_vectors_and_a_broken_picture_stops_nothing(
    case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    from mteb._create_dataloaders import create_dataloader
    from mteb_tasks import retrieval_task

    model = case.model()
    rows = [row(f"d{n}", "ti", f"toy {n}", picture(n)) for n in range(5)]
    rows[1]["image"], rows[2]["image"], rows[3]["text"] = b"broken", None, ""
    task = retrieval_task("Toys", "it2it", rows, rows, {"d0": ["d0"]})
    task.load_data()
    data = task.dataset["default"]["test"]["corpus"]
    files = create_dataloader(data, task_metadata=task.metadata, input_column="image", batch_size=2)
    from_files = encoded(model, files)
    assert "Toys default/test: unusable pictures left out: 1" in capfd.readouterr().err
    assert model.broken.examples == [("Toys default/test: row 1", "does not decode")]
    pictures = [None if n in (1, 2) else Image.open(io.BytesIO(rows[n]["image"])) for n in range(5)]
    pixels = loader_of(
        {"text": ["toy 0", "toy 1"], "image": pictures[:2]}, {"text": ["toy 2"], "image": [None]}
    )
    np.testing.assert_allclose(encoded(model, pixels), from_files[:3], atol=1e-6)
    np.testing.assert_allclose(
        encoded(model, loader_of({"image": pictures[3:4]})), from_files[3:4], atol=1e-6
    )
    encoder, _ = load_encoder(str(case.folder / "encoder"))
    products = [Product("", rows[n]["image"], ((Aspect.TITLE, f"toy {n}"),)) for n in (0, 4)]
    expected, _ = encode(encoder, encoder.preparer(None, CPU).table([products]), device=CPU)
    np.testing.assert_allclose(from_files[[0, 4]], expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I;16"])
def test_pixels_are_packed_without_loss(mode: str) -> None:
    source = Image.open(io.BytesIO(picture(3)))
    image = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900)
    image = image if mode == "I;16" else source.convert(mode)
    assert image.mode == mode
    found = Image.open(io.BytesIO(packed(image)))
    np.testing.assert_array_equal(np.asarray(found.convert("RGB")), np.asarray(image.convert("RGB")))
    assert decode_image(packed(image)).size == image.size


def test_a_shorter_vector_is_another_experiment_on_the_same_weights(case: Case) -> None:
    whole, short = case.model(), case.model(dim=16)
    texts = loader_of({"text": ["red mug", "blue scarf", " "]})
    vectors = encoded(whole, texts)
    np.testing.assert_allclose(encoded(short, texts), shortened(vectors, 16), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0], atol=1e-6)
    cosines = whole.similarity(vectors, vectors)
    np.testing.assert_allclose(cosines.diagonal(), whole.similarity_pairwise(vectors, vectors), atol=1e-6)
    metas = [model.mteb_model_meta for model in (whole, short)]
    assert [meta.embed_dim for meta in metas] == [64, 16]
    assert metas[0].name == "moonrec/encoder"
    assert metas[0].revision == metas[1].revision
    assert metas[0].revision == load_encoder(str(case.folder / "encoder"))[0].fingerprint()
    assert metas[0] != metas[1]
    assert {"image", "text"} == set(metas[0].modalities)
    # The towers, which are no part of the checkpoint, are most of it.
    assert (metas[0].n_parameters or 0) > 20_000_000


def test_an_encoder_of_core_regions_is_shown_them(case: Case, tmp_path: Path) -> None:
    shown = case.items[:6]
    table = open_table(write_table(tmp_path / "items.parquet", shown), ITEMS)
    vectors = {}
    for regions in (True, False):
        folder = tmp_path / f"regions {regions}"
        random_encoder(CompactConfig(dims=(32,), width=32, regions=regions)).save_pretrained(folder)
        pictures = [Image.open(io.BytesIO(one["image"])) for one in shown]
        model = moonrec.MtebEncoder(folder, device="cpu", cache="")
        vectors[regions] = encoded(model, loader_of({"image": pictures}))
        worker = WorkingEncoder.start(str(folder), None, CPU, None)
        shards = worker.shards(iter_items(table), table, "items")
        expected = np.concatenate([worker.vectors(shard, IMAGE_ONLY)[0] for shard in shards])
        np.testing.assert_allclose(vectors[regions], expected, atol=1e-6)
    assert np.abs(vectors[True] - vectors[False]).max() > 0.01


def test_what_an_encoder_cannot_do_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.model()
    with pytest.raises(UserError, match="mteb gave audio"):
        encoded(model, loader_of({"audio": [np.zeros(4)]}))
    with pytest.raises(UserError, match="the picture is a Tensor"):
        encoded(model, loader_of({"image": [np.zeros((4, 4, 3))]}))
    with pytest.raises(UserError, match="precision 'int8'"):
        encoded(model, loader_of({"text": ["mug"]}), precision="int8")
    with pytest.raises(UserError, match="64 dimensions"):
        case.model(dim=65)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match=r"pip install moonrec\[mteb\]"):
        case.model()
