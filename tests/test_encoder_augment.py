"""`moonrec augment`: the catalogue as it was, with columns beside it, whatever is wrong with its items."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from encoder_export_cases import exported
from encoder_helpers import Shop, busy_encoder, picture, write_table
from PIL import Image, ImageFont

import moonrec.cli.augment  # noqa: F401
from encoders.augment.augment import AugmentConfig, _Job, augment
from encoders.augment.images_local import LocalImages
from encoders.augment.provenance import model_name
from encoders.augment.sheet import one_line
from moonrec.cli import main
from moonrec.errors import UserError
from moonrec.table_spec import IMAGES_TYPE
from moonrec.tables import ITEMS, open_table
from moonrec.validation import validate

pytest_plugins = ["encoder_fixtures"]
NEW = ["title_enriched", "title_enriched_source", "images_augmented", "images_augmented_source"]
ITEMS_MADE = 24


def by_command(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main, ["augment", *map(str, arguments), "--device", "cpu", "--json"])


def words_only(items: Path | str, out: Path, **options: Any) -> dict[str, Any]:
    config = {"images": "none", "device": "cpu", "cache": "", **options}
    return augment(AugmentConfig(items=str(items), out=str(out), **config))


@pytest.fixture(scope="module")
def items(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first items of the shop."""
    path = tmp_path_factory.mktemp("plain") / "items.parquet"
    pq.write_table(pq.read_table(shop.items).slice(0, ITEMS_MADE), path)
    return path


@pytest.fixture(scope="module")
def augmented(items: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The catalogue with titles and pictures, in a folder of its own, and the counts."""
    out = tmp_path_factory.mktemp("augmented") / "items.parquet"
    result = by_command("--items", items, "-o", out, "--variants", 2, "--sheet", out.with_suffix(".png"))
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_all_other_columns_and_the_order_of_rows_stay(
    items: Path, augmented: tuple[Path, dict[str, Any]]
) -> None:
    before, after = pq.read_table(items), pq.read_table(augmented[0])
    assert after.column_names == [*open_table(items, ITEMS).column_names, *NEW]
    assert after.select(before.column_names).equals(before)


def test_every_generated_field_tells_where_it_comes_from(augmented: tuple[Path, dict[str, Any]]) -> None:
    out, counts = augmented
    rows = pq.read_table(out, columns=NEW).to_pylist()
    enriched = [row for row in rows if row["title_enriched"] is not None]
    assert {row["title_enriched_source"] for row in enriched} == {"rules"}
    assert all(row["title_enriched_source"].startswith("kept: ") for row in rows if row not in enriched)
    assert counts["items"] == len(rows) == ITEMS_MADE
    assert counts["titles"]["enriched"] == len(enriched) > 20
    assert sum(counts["titles"]["kept"].values()) == ITEMS_MADE - len(enriched)
    sources = [source for row in rows for source in row["images_augmented_source"]]
    assert all(len(row["images_augmented"]) == len(row["images_augmented_source"]) <= 2 for row in rows)
    assert len(sources) == counts["images"]["written"] == sum(counts["images"]["written_by_source"].values())
    assert set(sources) <= {"background", "viewpoint", "detail", "light"}
    assert counts["images"]["written"] + counts["images"]["dropped"] == counts["images"]["made"] > 40
    for cell in (cell for row in rows for cell in row["images_augmented"]):
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert max(image.size) <= 256


def test_the_columns_are_known_to_every_reader(items: Path, augmented: tuple[Path, dict[str, Any]]) -> None:
    report = validate(augmented[0])
    assert report.ok, report
    table = pq.read_table(augmented[0])
    numbers = table.set_column(table.column_names.index(NEW[0]), NEW[0], [list(range(ITEMS_MADE))])
    wrong = augmented[0].with_name("wrong.parquet")
    pq.write_table(numbers, wrong)
    with pytest.raises(UserError, match=r"column 'title_enriched' is int64, expected string"):
        open_table(wrong, ITEMS)
    texts = table.drop_columns(NEW[3]).append_column(NEW[3], [["light"] * ITEMS_MADE])
    pq.write_table(texts, wrong)
    with pytest.raises(UserError, match=r"'images_augmented_source' is string, expected list<string>"):
        open_table(wrong, ITEMS)


def test_the_sheet_shows_items_before_and_after(augmented: tuple[Path, dict[str, Any]]) -> None:
    with Image.open(augmented[1]["sheet"]) as sheet:
        assert (sheet.format, sheet.size) == ("PNG", (4 * 208 + 8, 16 * 264 + 8))


def test_export_sees_none_of_it(items: Path, augmented: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    busy_encoder().save_pretrained(tmp_path / "encoder")
    sets = [
        exported(tmp_path / name, tmp_path / "encoder", str(table))
        for name, table in (("plain", items), ("augmented", augmented[0]))
    ]
    assert len(sets[0]) > 20
    plain, other = (tmp_path / name / "vectors.arrow" for name in ("plain", "augmented"))
    assert plain.read_bytes() == other.read_bytes()


def test_core_regions_go_with_the_table(items: Path, augmented: tuple[Path, dict[str, Any]]) -> None:
    boxes = [Path(path).with_name("_items.regions.parquet") for path in (items, augmented[0])]
    assert boxes[0].read_bytes() == boxes[1].read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_pictures(
    items: Path, augmented: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first = pq.read_table(augmented[0], columns=["images_augmented"]).slice(0, 6).to_pylist()
    few = tmp_path / "items.parquet"
    pq.write_table(pq.read_table(items).slice(0, 6), few)
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.parquet"
        options: dict[str, Any] = {"titles": "none", "variants": 2, "min_agreement": 0.0, "seed": seed}
        augment(AugmentConfig(items=str(few), out=str(out), device="cpu", **options))
        made[name] = pq.read_table(out)
    assert made["a"].equals(made["b"])
    assert not made["a"].equals(made["c"])
    # What is drawn for an item does not depend on the others of its catalogue.
    kept = made["a"]["images_augmented"].to_pylist()
    assert all(
        cell in of_one for row, of_one in zip(first, kept, strict=True) for cell in row["images_augmented"]
    )


def test_columns_are_replaced_and_those_not_asked_for_stay(
    augmented: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    table = pq.read_table(augmented[0])
    place = table.column_names.index(NEW[0])
    stale = tmp_path / "stale.parquet"
    pq.write_table(table.set_column(place, NEW[0], [["old"] * len(table)]), stale)
    counts = words_only(stale, tmp_path / "new.parquet")
    new = pq.read_table(tmp_path / "new.parquet")
    assert "images" not in counts
    assert new.select(table.column_names).equals(table)


def toys(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_table(folder / "items.parquet", rows)


def test_pictures_named_by_path_are_found_from_another_folder(tmp_path: Path) -> None:
    rows = [{"item_id": str(n), "title": "mug", "image": f"{n}.png", "category": "Cups"} for n in range(2)]
    items = toys(tmp_path / "in", rows)
    (tmp_path / "in" / "0.png").write_bytes(picture(0))
    words_only(items, tmp_path / "in" / "beside.parquet")
    words_only(items, tmp_path / "out" / "apart.parquet")
    beside = pq.read_table(tmp_path / "in" / "beside.parquet")["image"].to_pylist()
    apart = pq.read_table(tmp_path / "out" / "apart.parquet")["image"].to_pylist()
    assert beside == [{"bytes": None, "path": f"{n}.png"} for n in range(2)]
    assert apart == [{"bytes": picture(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}]


def test_a_picture_path_that_leads_out_of_the_catalogue_is_told_with_its_row(tmp_path: Path) -> None:
    items = toys(tmp_path / "in", [{"item_id": str(n), "title": "mug"} for n in range(3)])
    cells = pa.array([None, [], [{"bytes": None, "path": "../x.png"}]], IMAGES_TYPE)
    pq.write_table(pq.read_table(items).append_column(NEW[2], cells), items)
    with pytest.raises(UserError, match=r"items\.parquet: row 2: column 'images_augmented': .*x\.png"):
        words_only(items, tmp_path / "out" / "items.parquet")


def test_what_cannot_be_augmented_is_counted_and_passes_as_it_is(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "no picture", "title": "blue mug", "category": "Cups"},
        {"item_id": "broken", "title": "red mug", "category": "Cups", "image": b"nothing"},
        {"item_id": "lost", "title": "red pot", "category": "Pots", "image": "lost.png"},
        {"item_id": "no words", "title": None, "image": picture(1)},
    ]
    items = toys(tmp_path, rows)
    config = AugmentConfig(
        items=str(items), out=str(tmp_path / "out.parquet"), device="cpu", min_agreement=0.0
    )
    counts = augment(config)
    assert counts["titles"] == {"enriched": 3, "kept": {"the item has no words": 1}}
    images = counts["images"]
    assert images["items"] == {
        "with a broken picture": 2, "with pictures": 1, "without an own picture": 1,
    }  # fmt: skip
    assert images["broken_images"]["count"] == 2
    assert images["written"] == 3
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [len(row["images_augmented"]) for row in found] == [0, 0, 0, 3]
    assert [row["images_augmented_source"] for row in found[:3]] == [[], [], []]


def test_a_model_that_answers_nonsense_leaves_every_title(items: Path, tmp_path: Path) -> None:
    few = tmp_path / "items.parquet"
    pq.write_table(pq.read_table(items).slice(0, 6), few)
    titles = words_only(few, tmp_path / "out.parquet", titles="tiny-mllm")["titles"]
    assert titles["enriched"] == 0
    assert sum(titles["kept"].values()) == 6
    assert all(reason.startswith("the answer ") for reason in titles["kept"])
    assert pq.read_table(tmp_path / "out.parquet")["title_enriched"].null_count == 6


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = [{"item_id": str(n), "title": "mug", "category": f"Cups {n}"} for n in range(2500)]
    rows[2000]["image"] = "photo.png"
    items = toys(tmp_path / "in", rows)
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(0))
    (tmp_path / "in" / "photo.png").symlink_to(outside)
    out = tmp_path / "out" / "items.parquet"
    with pytest.raises(UserError, match=r"items\.parquet: row 2000: .*leaves the folder"):
        words_only(items, out)
    assert not out.exists()
    (tmp_path / "in" / "photo.png").unlink()
    # Parts lie beside the output; no reader takes them for a table.
    assert not list(out.parent.rglob("*.parquet"))
    assert words_only(items, out)["resumed"] == 1024
    words_only(items, tmp_path / "whole.parquet")
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert [path.name for path in out.parent.iterdir()] == ["items.parquet"]


def test_an_mllm_is_named_by_its_folder_never_by_the_path_to_it(tmp_path: Path) -> None:
    assert model_name(str(tmp_path)) == model_name(f"{tmp_path}/../{tmp_path.name}/") == tmp_path.name
    assert model_name("owner/name") == "owner/name"


@pytest.mark.parametrize("width", [0, 5, 40, 200])
def test_a_line_of_the_sheet_is_one_and_as_long_as_there_is_room(width: int) -> None:
    font = ImageFont.load_default(12)
    text = "red\nmug\x00\x1b[0m " + "红x" * 500_000
    line = one_line(text, font, width)
    assert line.isprintable()
    assert line == "…" or font.getlength(line) <= width
    assert one_line("a\nb", font, 100) == "a b"


def test_a_changed_picture_maker_makes_old_parts_worthless(tmp_path: Path) -> None:
    items = toys(tmp_path, [{"item_id": "a", "title": "red mug", "category": "Cups", "image": picture(0)}])
    job = _Job(AugmentConfig(items=str(items), out=str(tmp_path / "out.parquet"), device="cpu"))
    before = job.identity()
    job.augmenter = LocalImages(128)
    assert job.identity() != before


def test_mistakes_are_one_line_and_leave_the_old_output(shop: Shop, tmp_path: Path) -> None:
    empty = toys(tmp_path / "empty", [{"item_id": "a", "title": "mug"}])
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    twice = toys(tmp_path / "twice", [{"item_id": "a", "title": "mug"}] * 2)
    out = tmp_path / "out.parquet"
    out.write_bytes(b"old")
    (tmp_path / "file").write_text("")
    plain = ("--items", shop.items)
    for arguments, told in (
        (("--items", tmp_path / "none.parquet", "-o", out), "no such file"),
        (("--items", empty, "-o", out), "has no rows"),
        (("--items", twice, "-o", out), "duplicate item_id"),
        ((*plain, "-o", shop.items), "lies in the input"),
        ((*plain, "-o", tmp_path), "is a folder"),
        ((*plain, "-o", out, "--sheet", out), "is the output itself"),
        ((*plain, "-o", out, "--titles", "none", "--images", "none"), "nothing is left to do"),
        ((*plain, "-o", out, "--titles", tmp_path / "none"), "no such folder"),
        ((*plain, "-o", out, "--titles", "compact"), "writes no words"),
        ((*plain, "-o", out, "--images", tmp_path / "none"), "none"),
        ((*plain, "-o", out, "--encoder", tmp_path / "none"), "no such folder"),
        ((*plain, "-o", tmp_path / "file" / "x.parquet", "--images", "none"), "cannot be written"),
        ((*plain, "-o", out, "--min-agreement", 1.5), "1.5"),
        ((*plain, "-o", out, "--sheet", shop.items), f"--sheet {shop.items}: lies in the input"),
        ((*plain, "-o", out, "--sheet", tmp_path / "file" / "x.png"), "cannot be written (file exists)"),
        ((*plain, "-o", out, "--sheet", "/proc/x.png"), "--sheet /proc/x.png: cannot be written"),
        ((*plain, "-o", "/proc/x"), "-o /proc/x: cannot be written"),
        ((*plain, "-o", "x" * 300), "-o xxx"),
        ((*plain, "-o", out, "--sheet", "x" * 300), "--sheet xxx"),
        ((*plain, "-o", out, "--titles", "x" * 300), "--titles xxx"),
        ((*plain, "-o", out, "--images", "x" * 300), "--images xxx"),
        ((*plain, "-o", ""), "-o ''"),
        ((*plain, "-o", out, "--titles", ""), "--titles ''"),
        ((*plain, "-o", out, "--images", ""), "--images ''"),
    ):
        result = by_command(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert told in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "twice", "out.parquet", "file"}
