"""Core regions: found where the product is, kept by content, resumed after a kill, checked when read."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import CPU, busy_encoder, picture, write_table
from PIL import Image

import encoders.regions.store
from encoders.look import Look
from encoders.products import Aspect, Product, iter_items
from encoders.regions import Box, Regions, ground_regions, open_regions
from encoders.regions.open import boxes_path
from encoders.regions.store import RegionStore
from moonrec.errors import UserError
from moonrec.simulation import simulate
from moonrec.tables import ITEMS, SEARCHES, open_table

ROOT = Path(__file__).resolve().parent.parent


class Says:
    """A model that answers every question with the same words."""

    box_scale = "thousand"

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def seen_size(self, width: int, height: int) -> tuple[int, int]:
        return width, height

    def generate(self, images: Any, prompts: Any, max_new_tokens: int = 64) -> list[str]:
        return [self.answer for _ in zip(images, prompts, strict=True)]

    def fingerprint(self) -> str:
        return self.answer


def products(count: int = 6, seed: int = 0) -> list[Product]:
    return [Product(f"p{i}", picture(seed + i), ((Aspect.TITLE, f"mug {i}"),)) for i in range(count)]


def opened(folder: Path, **options: Any) -> Regions:
    return open_regions(folder / "items.parquet", CPU, None, **options)


def boxes(regions: Regions, *batches: list[Product]) -> list[Box | None]:
    return [product.region for batch in regions.attach(batches) for product in batch]


def iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_products_in_clutter_are_found_better_than_by_any_centred_box(tmp_path: Path) -> None:
    simulate(tmp_path / "shop", items=120, users=20, seed=5, image_size=128)
    truth = {
        row["item_id"]: tuple(row["box"])
        for row in pq.read_table(tmp_path / "shop" / "truth_items.parquet").to_pylist()
        if row["cluttered"] and row["box"]
    }
    table = tmp_path / "shop" / "items.parquet"
    regions = open_regions(table, CPU, None)
    whole = (0.0, 0.0, 1.0, 1.0)
    found = {
        product.key: product.region or whole
        for batch in regions.attach(iter_items(open_table(table, ITEMS)))
        for product in batch
        if product.key in truth
    }
    ours = np.mean([iou(found[key], truth[key]) for key in truth])
    sides = np.arange(0.3, 1.01, 0.1)
    centred = max(
        np.mean([iou((0.5 - s / 2, 0.5 - s / 2, 0.5 + s / 2, 0.5 + s / 2), box) for box in truth.values()])
        for s in sides
    )
    assert len(truth) > 30
    assert ours > centred + 0.1


def test_a_second_run_computes_nothing_and_gives_the_same_boxes(tmp_path: Path) -> None:
    first = opened(tmp_path)
    found = boxes(first, products())
    again = opened(tmp_path)
    assert boxes(again, products()[:2], products()[2:]) == found
    assert (first.counts.computed, again.counts.computed) == (6, 0)
    assert again.counts.sources == first.counts.sources


def test_only_a_changed_picture_is_looked_at_again(tmp_path: Path) -> None:
    boxes(opened(tmp_path), products())
    changed = products()
    changed[3] = replace(changed[3], image=picture(99))
    changed[4] = replace(changed[4], texts=((Aspect.TITLE, "another title"),))
    again = opened(tmp_path)
    boxes(again, changed)
    assert again.counts.computed == 1


def test_equal_pictures_of_a_batch_are_looked_at_once(tmp_path: Path) -> None:
    regions = opened(tmp_path)
    same = [replace(product, image=picture(1)) for product in products()]
    assert len(set(boxes(regions, same))) == 1
    assert (regions.counts.pictures, regions.counts.computed) == (6, 1)


def test_what_shows_nothing_passes_unchanged_and_is_counted(tmp_path: Path) -> None:
    broken = Product("broken", b"no picture", ())
    unread = Product("unread", None, (), broken="no file 'x.png'")
    words = Product("words", None, ((Aspect.TITLE, "mug"),))
    regions = opened(tmp_path)
    (batch,) = regions.attach([[broken, unread, words]])
    assert batch == [broken, unread, words]
    assert regions.counts.broken.to_dict()["examples"] == [
        {"id": "broken", "reason": "does not decode"},
        {"id": "unread", "reason": "no file 'x.png'"},
    ]
    assert (regions.counts.pictures, regions.counts.computed) == (0, 0)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (400, 2)])
def test_a_picture_of_one_colour_is_taken_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", size, (90, 120, 200)).save(stream, "PNG")
    regions = opened(tmp_path)
    assert boxes(regions, [Product("flat", stream.getvalue(), ())]) == [None]
    assert regions.counts.whole == {"one colour": 1}


def test_what_was_found_before_a_caller_stopped_is_kept(tmp_path: Path) -> None:
    regions = opened(tmp_path)
    stream = regions.attach([products(2), products(2, seed=10), products(2, seed=20)])
    next(stream)
    stream.close()
    again = opened(tmp_path)
    boxes(again, products(2))
    assert again.counts.computed == 0


def test_a_killed_job_goes_on_where_it_wrote_last(tmp_path: Path) -> None:
    script = f"""
    import os, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
    import encoders.regions.store
    from test_encoder_regions import opened, products
    from pathlib import Path
    encoders.regions.store._AT_LEAST = 4
    batches = [products(4, seed=10 * n) for n in range(4)]
    for done, _ in enumerate(opened(Path({str(tmp_path)!r})).attach(batches)):
        if done == 2:
            os._exit(9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, check=False)
    assert killed.returncode == 9
    again = opened(tmp_path)
    boxes(again, *[products(4, seed=10 * n) for n in range(4)])
    assert again.counts.computed == 4


def test_only_the_writing_process_leaves_a_table(tmp_path: Path) -> None:
    reader = opened(tmp_path, write=False)
    found = boxes(reader, products())
    assert not list(tmp_path.iterdir())
    assert boxes(opened(tmp_path), products()) == found
    reader = opened(tmp_path, write=False)
    assert boxes(reader, products()) == found
    assert reader.counts.computed == 0


def test_the_boxes_of_two_detectors_live_side_by_side(tmp_path: Path) -> None:
    table, says = tmp_path / "items.parquet", Says('{"bbox_2d": [100, 200, 500, 900]}')
    boxes(opened(tmp_path), products(3))
    found = boxes(ground_regions(table, says, None), products())
    assert np.allclose([box or () for box in found], (0.092, 0.186, 0.508, 0.914), atol=1e-6)
    again = ground_regions(table, says, None)
    boxes(again, products())
    assert again.counts.computed == 0
    retitled = ground_regions(table, says, None)
    boxes(retitled, [replace(product, texts=((Aspect.TITLE, "x"),)) for product in products()])
    assert retitled.counts.computed == 6
    assert pq.read_table(boxes_path(table, None)).num_rows == 3 + 6 + 6


def test_boxes_found_with_titles_go_before_those_of_the_tower(tmp_path: Path) -> None:
    boxes(ground_regions(tmp_path / "items.parquet", Says("[0, 0, 500, 500]"), None), products(2))
    regions = opened(tmp_path)
    boxes(regions, products(3))
    assert regions.counts.sources["grounding"] == 2
    assert regions.counts.computed == 1


def test_boxes_of_query_photos_are_the_same_with_and_without_their_words(tmp_path: Path) -> None:
    table, some = tmp_path / "searches.parquet", products(2)
    bare = [replace(product, texts=()) for product in some]
    list(ground_regions(table, Says("[0, 0, 500, 500]"), None).attach([some], titled=False))
    for shown in (some, bare):
        again = ground_regions(table, Says("[0, 0, 500, 500]"), None)
        list(again.attach([shown], titled=False))
        assert again.counts.computed == 0
        preferred = open_regions(table, CPU, None)
        list(preferred.attach([shown], titled=False))
        assert preferred.counts.sources["grounding"] == 2
    encoder = busy_encoder()
    encoder.config = replace(encoder.config, regions=True)
    for spec, known in ((SEARCHES, True), (ITEMS, False)):
        write_table(
            table, [{"item_id": "a", "title": "", "query_text": "mug 0", "query_image": some[0].image}]
        )
        (found,) = Look(encoder, CPU, None)(open_table(table, spec), [some])
        assert (found[0].region is not None and found[0].region[2] < 0.6) == known, spec.name


def test_answers_without_a_box_mean_the_whole_picture_and_are_counted(tmp_path: Path) -> None:
    regions = ground_regions(tmp_path / "items.parquet", Says("I see a mug."), None)
    assert boxes(regions, products()) == [None] * 6
    assert regions.counts.to_dict()["whole"] == {"malformed answer": 6}
    again = ground_regions(tmp_path / "items.parquet", Says("I see a mug."), None)
    boxes(again, products())
    assert again.counts.to_dict()["whole"] == {"malformed answer": 6}


def test_boxes_are_proper_whatever_the_picture(tmp_path: Path) -> None:
    regions = opened(tmp_path)
    for box in boxes(regions, products(30)):
        if box is not None:
            x0, y0, x1, y1 = box
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            assert min(x1 - x0, y1 - y0) > 0.07


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    boxes(opened(tmp_path), products())
    path = boxes_path(tmp_path / "items.parquet", None)
    assert path is not None
    return path


def _without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def _with(name: str, value: Any, dtype: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[2] = value
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values, dtype))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("source"), "column 'source' is missing"),
        (_with("x1", 0.5, pa.float64()), "column 'x1' is double"),
        (_with("x0", float("nan"), pa.float32()), "row 2: x0, y0, x1, y1 are not a box"),
        (_with("y1", 1.5, pa.float32()), "row 2: x0, y0, x1, y1 are not a box"),
        (_with("x1", 0.0, pa.float32()), "row 2: x0, y0, x1, y1 are not a box"),
        (_with("source", "guess", pa.string()), "row 2: source is none of"),
        (_with("image_sha256", "zz", pa.string()), "row 2: image_sha256 is no SHA-256"),
        (_with("detector", None, pa.string()), "row 2: detector is null"),
    ],
)
def test_a_table_that_is_none_of_ours_is_refused_in_one_line(
    kept: Path, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    pq.write_table(change(pq.read_table(kept)), kept)
    with pytest.raises(UserError, match=words) as error:
        opened(kept.parent)
    assert str(kept) in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_parquet_are_refused(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:-40])
    with pytest.raises(UserError, match="cut off"):
        opened(kept.parent)


def test_boxes_of_a_folder_lie_beside_it_and_are_no_part_of_any_table(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    pq.write_table(pa.table({"item_id": ["a"], "title": ["mug"]}), folder / "part.parquet")
    assert boxes_path(folder, None) == tmp_path / "_items.regions.parquet"
    boxes(open_regions(folder / "part.parquet", CPU, None), products(2))
    assert (folder / "_part.regions.parquet").exists()
    assert open_table(folder, ITEMS).count_rows() == 1


def test_where_nothing_can_be_written_the_cache_keeps_the_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    regions = open_regions(tmp_path / "items.parquet", CPU, tmp_path / "cache")
    boxes(regions, products(2))
    assert regions.path is not None
    assert Path(regions.path).is_relative_to(tmp_path / "cache")
    assert regions.path in capsys.readouterr().err
    assert boxes_path(tmp_path / "items.parquet", None) is None
    assert "in memory only" in capsys.readouterr().err


def test_of_repeated_keys_the_last_row_counts(kept: Path) -> None:
    table = pq.read_table(kept)
    moved = _with("x0", 0.0, pa.float32())(_with("x1", 0.25, pa.float32())(table))
    moved = _with("source", "saliency", pa.string())(moved)
    pq.write_table(pa.concat_tables([table, moved]), kept)
    box = boxes(opened(kept.parent), products())[2]
    assert box is not None
    assert (box[0], box[2]) == (0.0, 0.25)


def test_the_file_is_rewritten_seldom_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders.regions.store, "_AT_LEAST", 2)
    boxes(opened(tmp_path), products(5), products(5, seed=50))
    path = boxes_path(tmp_path / "items.parquet", None)
    assert pq.read_table(path).num_rows == 10
    detector = pq.read_table(path)["detector"][0].as_py()
    assert len(RegionStore(path, detector)) == 10
    assert len(RegionStore(path, "another")) == 0
