"""What stands on a report page beside text and tables: key figures, pictures, folded parts, provenance."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from moonrec.report import Cell, Report, Tile, add_provenance, line_figure


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format=kind)
    return buffer.getvalue()


def saved(report: Report, folder: Path) -> str:
    report.save(folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_key_figures_show_label_value_and_note(tmp_path: Path) -> None:
    report = Report("title")
    report.headline([("AUC", 0.61234, "± 0.0012"), ("rows", 16998, "")])
    page = saved(report, tmp_path)
    assert '<dt>AUC</dt><dd>0.6123</dd><dd class="note">± 0.0012</dd>' in page
    assert "<dt>rows</dt><dd>16,998</dd></div>" in page


def test_a_strip_ranks_its_results_and_marks_hits(tmp_path: Path) -> None:
    report = Report("title")
    results = [Tile(picture("blue", "JPEG"), "mug", "0.91", hit=True), Tile(None, "lamp", hit=False)]
    report.strip(Tile(picture(), "a red mug"), results, "best query")
    page = saved(report, tmp_path)
    assert page.count('aria-label="hit"') == 1
    assert page.index("a red mug") < page.index("<b>1</b>") < page.index("<b>2</b>")
    assert page.count("data:image/png;base64,") == page.count("data:image/jpeg;base64,") == 1
    assert '<span class="blank">lamp</span>' in page


def test_a_tile_without_picture_says_what_it_is_once(tmp_path: Path) -> None:
    report = Report("title")
    report.tiles([Tile(None, "only words"), Tile(picture(), "seen")], "gallery")
    page = saved(report, tmp_path)
    assert page.count("only words") == 1
    assert 'alt="seen"' in page


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"<svg onload=alert(1)>"])
def test_what_is_no_picture_file_does_not_get_onto_a_page(image: bytes) -> None:
    report = Report("title")
    with pytest.raises(ValueError, match="PNG or JPEG"):
        report.tiles([Tile(image, "x")])
    with pytest.raises(ValueError, match="PNG"):
        report.picture(image)
    with pytest.raises(ValueError, match="PNG file"):
        report.picture(picture(kind="JPEG"))


def test_folded_parts_stand_inside_their_summary(tmp_path: Path) -> None:
    report = Report("title")
    with report.details("outer"):
        report.text("inside")
        with report.details("inner"):
            report.heading("deep")
    report.text("after")
    page = saved(report, tmp_path)
    order = ["<summary>outer", "<p>inside", "<summary>inner", "<h3>deep</h3>", "</details>", "<p>after"]
    assert [page.index(text) for text in order] == sorted(page.index(text) for text in order)
    assert page.count("<details>") == page.count("</details>") == 2
    assert page.rindex("</details>") < page.index("<p>after")


def test_a_failure_inside_a_folded_part_leaves_the_next_parts_outside(tmp_path: Path) -> None:
    report = Report("title")
    with pytest.raises(ZeroDivisionError), report.details("folded"):
        raise ZeroDivisionError
    report.text("after")
    page = saved(report, tmp_path)
    assert page.index("</details>") < page.index("<p>after")


def test_a_marked_cell_stands_out_and_an_unknown_number_keeps_its_column(tmp_path: Path) -> None:
    report = Report("title")
    report.table([{"run": "a", "auc": Cell(0.5, "+0.1", marked=True)}, {"run": "b", "auc": None}])
    page = saved(report, tmp_path)
    assert '<td class="number"><strong>0.5000</strong><span class="note">+0.1</span></td>' in page
    assert '<td class="number">–</td>' in page
    assert '<th scope="col" class="number">auc</th>' in page


def test_a_figure_keeps_its_place_while_it_loads(tmp_path: Path) -> None:
    report = Report("title")
    report.figure(line_figure({"loss": ([1, 2], [0.5, 0.4])}, "epoch", "loss"), "curve")
    report.picture(picture(size=(300, 150)), "drawn", density=1.5)
    sizes = re.findall(r'width="(\d+)" height="(\d+)"', saved(report, tmp_path))
    assert sizes[1] == ("200", "100")
    assert 500 < int(sizes[0][0]) < 800


def test_provenance_ends_a_page_with_options_inputs_and_versions(tmp_path: Path) -> None:
    report = Report("title")
    add_provenance(report, {"seed": 7, "device": None, "content": ["a", "b"]}, {"items": "abc123"})
    page = saved(report, tmp_path)
    for text in ("<td>seed</td><td>7</td>", "abc123", "<td>torch</td>", "source commit"):
        assert text in page
    assert "<td>device</td>" not in page


def test_any_name_can_stand_in_a_legend() -> None:
    names = ["", "_hidden", "$x^{", r"\$", "$$", "名前", "a\nb", "50 %", "\x01"]
    figure = line_figure({name: ([1, 2], [1.0, 2.0]) for name in names}, "x", "y")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(names)
    Report("title").figure(figure)
