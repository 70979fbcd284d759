"""`moonrec regions`: counts, a readable sheet, and one line for mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from encoder_helpers import picture, write_table
from PIL import Image

import moonrec.cli.regions  # noqa: F401
from moonrec.cli import main
from moonrec.simulation import simulate


def regions(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, ["regions", *map(str, arguments), "--device", "cpu", "--json"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regions") / "shop"
    simulate(folder, items=30, users=20, image_size=64)
    return folder


def test_boxes_are_counted_kept_and_shown(shop: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    tables = ("--items", shop / "items.parquet", "--searches", shop / "searches_train.parquet")
    result = regions(*tables, "-o", sheet, "--count", 8)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for name, file in (("items", "_items"), ("searches", "_searches_train")):
        counts = found[name]
        assert counts["computed"] == counts["pictures"] == sum(counts["sources"].values()) > 20
        assert 0 < counts["mean_area"] < 1
        assert counts["table"] == str(shop / f"{file}.regions.parquet")
        assert Path(counts["table"]).is_file()
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.size == (6 * 208 + 8, 2 * 246 + 8)
        pixels = np.asarray(image.convert("RGB"))
    is_frame = (pixels == (255, 45, 45)).all(2)
    assert is_frame[:246, :208].any()
    assert is_frame.sum() > 8 * 200
    # The last four places of the second row are empty.
    assert (pixels[254:, 3 * 208 :] == 255).all()
    before = sheet.read_bytes()
    again = json.loads(regions(*tables, "-o", sheet, "--count", 8).stdout)
    assert again["items"]["computed"] == again["searches"]["computed"] == 0
    assert sheet.read_bytes() == before
    regions(*tables, "-o", sheet, "--count", 8, "--seed", 1)
    assert sheet.read_bytes() != before


def test_a_broken_picture_is_counted_and_not_drawn(tmp_path: Path) -> None:
    rows = [{"item_id": "a", "title": "mug", "image": picture(1)}, {"item_id": "b", "image": b"nothing"}]
    result = regions("--items", write_table(tmp_path / "items.parquet", rows), "-o", tmp_path / "s.png")
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)["items"]
    assert (counts["pictures"], counts["broken_images"]["count"]) == (1, 1)
    with Image.open(tmp_path / "s.png") as image:
        assert image.size == (208 + 8, 246 + 8)


def test_mistakes_are_one_line(tmp_path: Path, shop: Path) -> None:
    bare = write_table(tmp_path / "bare.parquet", [{"item_id": "a", "title": "mug"}])
    broken = write_table(tmp_path / "broken.parquet", [{"item_id": "a", "title": "x", "image": b"nothing"}])
    items = shop / "items.parquet"
    for arguments, words in (
        (("--items", bare), "has no pictures"),
        (("--items", broken), "none of its pictures can be used"),
        (("--items", items, "-o", items), "lies in the input"),
        (("--items", items, "-o", tmp_path), "is a folder"),
        (("--items", items, "--encoder", tmp_path / "nothing"), "nothing"),
    ):
        result = regions(*arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
