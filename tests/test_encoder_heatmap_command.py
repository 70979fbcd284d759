"""`moonrec heatmap`: a picture, a page, the numbers, and one line for mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from encoder_helpers import picture, write_table
from PIL import Image

import moonrec.cli.heatmap  # noqa: F401
from moonrec.cli import main


def heatmap(items: Path, *arguments: str | Path, encoder: str | Path = "compact") -> Result:
    fixed = ("heatmap", "--items", items, "--encoder", encoder, "--device", "cpu", "--no-cache", "--json")
    return CliRunner().invoke(main, [*map(str, fixed), *map(str, arguments)])


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = [
        {"item_id": "mug-001", "title": "red $mug$ of 茶", "category": "Home > Mugs", "image": picture(1)},
        {"item_id": "mug-002", "title": "blue mug"},
        {"item_id": "bad", "title": "green lamp", "image": b"nothing"},
        {"item_id": "bare", "image": picture(2)},
        {"item_id": "empty"},
        {"item_id": "left, right ", "title": "two socks"},
        {"item_id": "hopeless", "image": b"nothing"},
    ]
    return write_table(tmp_path_factory.mktemp("items") / "items.parquet", rows)


def rows_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return {row["item_id"]: row for row in json.loads(result.stdout)["items"]}


def test_a_picture_of_products_that_lack_something_and_the_numbers(items: Path, tmp_path: Path) -> None:
    out, ids = tmp_path / "heat.png", ("mug-001", "mug-002", "bad", "bare")
    chosen = [part for key in ids for part in ("--item-id", key)]
    result = heatmap(items, *chosen, "-o", out, encoder="tiny-mllm")
    rows = rows_of(result)
    assert tuple(rows) == ids
    whole = rows["mug-001"]
    assert whole["picture"] + whole["title"] + whole["category"] == pytest.approx(1, abs=1e-4)
    assert whole["words"] == pytest.approx(whole["title"] + whole["category"])
    assert rows["mug-002"]["picture"] is rows["bad"]["picture"] is None
    assert rows["bare"]["words"] == 0
    words = [row["word"] for row in json.loads(result.stdout)["words"] if row["item_id"] == "mug-001"]
    assert words == ["red", "$mug$", "of", "茶"]
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > 4 * 250
    before = out.read_bytes()
    heatmap(items, *chosen, "-o", out, encoder="tiny-mllm")
    assert out.read_bytes() == before


def test_two_encoders_stand_side_by_side_in_a_page_that_explains_a_match(items: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(picture(1))
    options = ("--item-id", "mug-001", "--query-text", "mug", "--query-image", photo)
    against = ("--against", "tiny-mllm", "-o", tmp_path / "heat.html")
    result = heatmap(items, *options, *against)
    assert result.exit_code == 0, result.output
    names = [row["encoder"] for row in json.loads(result.stdout)["items"]]
    assert names == ["compact (untrained), for the query", "tiny-mllm, for the query"]
    for row in json.loads(result.stdout)["items"]:
        assert row["picture"] + row["words"] == pytest.approx(row["cosine"], abs=1e-4)
    page = (tmp_path / "heat.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 1
    assert "the match with a query" in page


@pytest.mark.parametrize("by_file", [False, True])
def test_an_id_may_hold_commas_and_spaces(items: Path, tmp_path: Path, by_file: bool) -> None:
    ids = ["left, right ", "mug-002"]
    options: list[str | Path] = ["-o", tmp_path / "heat.png"]
    if by_file:
        (tmp_path / "c.yaml").write_text(json.dumps({"item_id": ids}))
        options += ["--config", tmp_path / "c.yaml"]
    else:
        options += [part for key in ids for part in ("--item-id", key)]
    assert list(rows_of(heatmap(items, *options, encoder="tiny-mllm"))) == ids


def test_mistakes_are_one_line(items: Path, tmp_path: Path) -> None:
    out, photo = tmp_path / "x.png", tmp_path / "photo.png"
    photo.write_bytes(b"nothing")
    many = [part for n in range(25) for part in ("--item-id", str(n))]
    mistakes: tuple[tuple[tuple[str | Path, ...], str], ...] = (
        (("--item-id", "mug-01", "-o", out), "no such item; near are 'mug-001'"),
        (("--item-id", "empty", "-o", out), "shows nothing"),
        (("--item-id", "hopeless", "-o", out), "not a picture"),
        (("--item-id", "bare", "-o", tmp_path / "x.jpg"), ".png or .html"),
        (("--item-id", "bare", "-o", items), "ends in .png"),
        ((*many, "-o", out), "more than the 24"),
        (("--item-id", "bare", "-o", out, "--query-text", " "), "is empty"),
        (("--item-id", "bare", "-o", out, "--query-image", photo), "not a picture"),
        (("--item-id", "bare", "-o", out, "--query-image", tmp_path / "none"), "cannot be read"),
        (("--item-id", "bare", "-o", out, "--against", "compact"), "is --encoder itself"),
        (
            ("--item-id", "bare", "-o", out, "--against", tmp_path / "nothing"),
            f"--against {tmp_path / 'nothing'}",
        ),
        (
            ("--item-id", "bare", "-o", out, "--encoder", tmp_path / "nothing"),
            f"--encoder {tmp_path / 'nothing'}",
        ),
        (("--item-id", "a,b ", "-o", out), "--item-id 'a,b '"),
        (("--item-id", "bare", "-o", tmp_path / f"{'x' * 300}.png"), "file name too long"),
        (("--item-id", "bare", "-o", "/proc/nowhere.png"), "/proc/nowhere.png: cannot be written"),
    )
    for arguments, words in mistakes:
        result = heatmap(items, *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert not out.exists()
