"""`moonrec report` on folders that are not what they seem: told in one line, and nothing of theirs runs."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from compare_case import HOSTILE, ctr_metrics, jpeg, page_of, write_run
from PIL import Image

from moonrec.cli import main
from moonrec.errors import UserError


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


def test_pictures_that_are_none_are_shown_as_missing(tmp_path: Path) -> None:
    bad = [jpeg("red")[:40], base64.b64encode(b"<svg onload=alert(1)>").decode(), "no base64!", 7, None]
    results = [{"image": one, "label": f"missing {place}", "hit": "yes"} for place, one in enumerate(bad)]
    entry = {"kind": HOSTILE, "rank": -3, "query": {"label": HOSTILE}, "results": [*results, "text", None]}
    examples = {
        "tasks": {"image_to_item": [entry, 5, {"query": []}], "other": "text"},
        "neighbours": {"a": 1},
    }
    page = page_of(tmp_path, write_run(tmp_path / "run", {}, "evaluate", examples=examples))
    assert all(f'<span class="blank">missing {place}</span>' in page for place in range(len(bad)))
    assert "<script" not in page
    assert "data:image/" not in page


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"test": 5, "groups": [[1, 2], {"a": {}}], "warnings": {"a": HOSTILE}, HOSTILE: {HOSTILE: HOSTILE}},
        {
            "test": {"auc": [1], "gauc": None, "logloss": True},
            "ci": [1],
            "retrieval": {"x": {"ci": {"mrr": "a"}}},
        },
        {"key_figures": [{"label": HOSTILE, "value": HOSTILE, "note": HOSTILE}], "verdicts": [HOSTILE]},
        {"key_figures": HOSTILE, "verdicts": {HOSTILE: 1}, "notes": [HOSTILE, {}, 7], "rates": [HOSTILE]},
        {"warnings": [HOSTILE, 3], "rows": [{"a": 1}, {"b": 2}], "": {"": ""}, "a.b": {"c": 10**300}},
        '{"test": {"auc": NaN, "gauc": Infinity, "logloss": -1e999}}',
    ],
)
def test_numbers_of_any_form_make_a_page_without_markup_of_theirs(
    metrics: Mapping[str, Any] | str, tmp_path: Path
) -> None:
    runs = [write_run(tmp_path / name, metrics) for name in "ab"]
    for page in (page_of(tmp_path, *runs), page_of(tmp_path, runs[0])):
        assert "<script" not in page
        assert "nan" not in re.sub('src="data:[^"]*"', "", page).lower()


def test_deep_and_wide_numbers_are_cut_and_said_so(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"auc": 0.5}
    for _ in range(60):
        deep = {"a": deep}
    wide = {f"loss_{place}": float(place) for place in range(6000)}
    runs = [write_run(tmp_path / name, {"deep": deep, **wide}) for name in "ab"]
    assert "the rest stands in metrics.json" in page_of(tmp_path, *runs)


@pytest.mark.parametrize("missing", ["metrics.json", "provenance.json", "config.yaml"])
def test_an_incomplete_run_is_refused_with_the_missing_file_named(missing: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {})
    (tmp_path / "run" / missing).unlink()
    result = call(run, "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    assert f"holds no {missing}" in result.output
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("metrics.json", b"[1]", "expected a JSON object, found list"),
        ("metrics.json", b"{", "is not the JSON"),
        ("metrics.json", b"\xff\xfe", "is not the JSON"),
        ("metrics.json", b"[" * 100_000, "nested too deep"),
        ("metrics.json", b" " * (33 << 20), "is larger than 32 MiB"),
        ("history.jsonl", b'{"a": 1}\n7\n', "line 2: expected a JSON object"),
        ("config.yaml", b"- a", "expected a mapping"),
        ("config.yaml", b"a: &x [1]\nb: *x", "holds references"),
        ("config.yaml", b"a: !!python/object:os.system {}", "cannot be read as YAML"),
        ("provenance.json", b'{"command": 5}', "expected the name of a command"),
        ("examples.json", b"[]", "expected a JSON object"),
    ],
)
def test_a_file_that_no_run_writes_is_told_in_one_line(
    file: str, content: bytes, told: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", {})
    (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(UserError, match=told) as raised:
        page_of(tmp_path, run)
    assert file in str(raised.value)


def test_a_fifo_in_a_run_does_not_hang(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {})
    os.mkfifo(tmp_path / "run" / "examples.json")
    with pytest.raises(UserError, match="not an ordinary file"):
        page_of(tmp_path, run)


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("run/page.html", "lies in the input RUN"),
        ("elsewhere/deep/page.html", "lies in the run folder"),
        ("page.txt", "expected the name of a page"),
        ("folder.html", "is a folder"),
        ("mine.html", "was not written by `moonrec report`"),
    ],
)
def test_a_page_is_not_written_into_runs_or_over_what_is_no_such_page(
    out: str, told: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", {})
    write_run(tmp_path / "elsewhere", {})
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "mine.html").write_text("<html>my own notes</html>")
    result = call(run, "-o", str(tmp_path / out))
    assert result.exit_code == 2
    assert told in result.output
    assert (tmp_path / "mine.html").read_text() == "<html>my own notes</html>"


def test_plots_of_a_run_folder_are_shown_and_false_ones_are_not(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ctr_metrics(0.6, 0.5))
    Image.new("RGB", (40, 30), "red").save(tmp_path / "run" / "table.png")
    (tmp_path / "run" / "false.png").write_bytes(b"<svg>")
    page = page_of(tmp_path, run)
    assert "table.png" in page
    assert "false.png" not in page


@pytest.mark.parametrize(
    "pair", [(1e308, -1e308), (-1e308, -1e308), (1e308, 0.5), (1e99, -1e99), (5e-324, 0.0)]
)
def test_huge_and_tiny_numbers_are_written_and_not_drawn(pair: tuple[float, float], tmp_path: Path) -> None:
    runs = []
    for name, value in zip("ab", pair, strict=True):
        history = f'{{"samples": {value}, "loss": {-value}}}\n' + "".join(
            f'{{"samples": {n}, "loss": {number}, "auc": 0.5}}\n'
            for n, number in enumerate((value, 1, -value))
        )
        metrics = {"test": {"auc": value, "logloss": -value, "ci": {"auc": [-value, value]}}}
        runs.append(write_run(tmp_path / name, metrics, history=history))
    for page in (page_of(tmp_path, *runs), page_of(tmp_path, runs[0])):
        assert "0" * 120 not in re.sub('src="data:[^"]*"', "", page)
