"""Outputs stay out of what a command reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctr.config import TrainConfig, resolved
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs


@pytest.mark.parametrize(
    "out", ["data", "data/part.parquet", "data/a/b", ".", "link", "link/run", "data/../data"]
)
def test_an_output_that_would_touch_an_input_is_refused(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(UserError, match=r"-o .*the input --events data; choose another output"):
        refuse_inside_inputs(out, [("--users", None), ("--events", "data")])


@pytest.mark.parametrize("out", ["data2", "run/data", "data.parquet", "../data"])
def test_a_neighbour_of_an_input_is_allowed(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_inside_inputs(out, [("--events", "data")])


def test_only_a_name_where_a_folder_stands_is_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert folder_or_none(str(tmp_path)) == str(tmp_path)
    assert not any(map(folder_or_none, (None, "", "compact", str(tmp_path / "file"), "x" * 300)))


@pytest.mark.parametrize(
    ("out", "option"),
    [
        ("rows", "--impressions"),
        ("rows/run", "--impressions"),
        ("events/run", "--events"),
        ("test.parquet", "--test"),
        ("users", "--users"),
        ("items", "--items"),
        ("valid", "--validation"),
        ("image/run", "--embeddings"),
        ("queries", "--query-embeddings"),
        ("sets", "--embeddings"),
    ],
)
def test_a_run_is_not_written_over_its_inputs(out: str, option: str) -> None:
    config = TrainConfig(
        impressions="rows",
        test="test.parquet",
        events="events",
        users="users",
        items="items",
        validation="valid",
        embeddings=("image=image", "text=sets/text"),
        query_embeddings=("text=queries",),
        out=out,
    )
    with pytest.raises(UserError, match=f"-o {out}: .* the input {option} "):
        resolved(config)
