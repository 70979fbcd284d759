"""Export in parts: by several processes, killed and resumed, always to the same bytes."""

from __future__ import annotations

import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from encoder_export_cases import exported, results_of, toys, work
from encoder_helpers import busy_encoder, picture, write_table
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import export as export_module
from encoders.catalogue_parts import PartReader, parts_of
from encoders.export_parts import PartStore
from encoders.products import iter_items
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.runs import partial_folder
from moonrec.tables import ITEMS, open_table

ROWS = 90


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    busy_encoder().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Products with and without pictures, some broken, some that show nothing."""
    rows: list[dict[str, Any]] = toys(ROWS)
    for number, row in enumerate(rows):
        row["image"] = picture(number) if number % 3 == 0 else None
        if number % 10 == 7:
            row["title"] = None
        if number % 30 == 11:
            row["image"] = b"broken"
    return str(write_table(tmp_path_factory.mktemp("catalogue") / "items.parquet", rows))


@pytest.fixture(scope="module")
def killed(encoder_folder: Path, items: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed export of six parts left when it had finished two."""
    out = tmp_path_factory.mktemp("killed") / "set"
    options = {"encoder": str(encoder_folder), "items": items, "out": str(out)}
    assert work(options, part_rows=16, kill_after=2).returncode == -signal.SIGKILL
    assert not out.exists()
    return partial_folder(out)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "PART_ROWS", 16)


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("vectors.arrow", "digests.arrow")}


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_processes(
    encoder_folder: Path, items: str, tmp_path: Path, small_parts: None
) -> None:
    options = {"encoder": str(encoder_folder), "items": items, "out": str(tmp_path / "shared")}
    shared = results_of(work(options, part_rows=16, ranks=2))
    alone = exported(tmp_path / "alone", encoder_folder, items).metadata
    assert files(tmp_path / "alone") == files(tmp_path / "shared")
    assert (alone["export"]["ranks"], shared["ranks"]) == (1, 2)
    assert alone["broken_images"]["count"] == 3
    assert shared["padding_share"] == alone["export"]["padding_share"]
    together = EmbeddingSet.open(tmp_path / "shared").metadata
    for metadata in (alone, together):
        del metadata["created"], metadata["export"]
    assert alone == together
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_more_processes_than_parts_fit_one_untrained_encoder(items: str, tmp_path: Path) -> None:
    options = {"encoder": "compact", "items": items, "out": str(tmp_path / "shared")}
    results_of(work(options, part_rows=4096, ranks=2))
    exported(tmp_path / "alone", "compact", items)
    assert files(tmp_path / "alone") == files(tmp_path / "shared")


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job_and_the_parts_stay(
    encoder_folder: Path, items: str, tmp_path: Path, small_parts: None
) -> None:
    options = {"encoder": str(encoder_folder), "items": items, "out": str(tmp_path / "set")}
    failed = work(options, part_rows=16, ranks=2, kill_after=1)
    assert failed.returncode != 0
    assert "SIGKILL" in failed.stderr
    assert list((tmp_path / "set.partial").glob("*.arrow"))
    assert exported(tmp_path / "set", encoder_folder, items).metadata["export"]["resumed"] >= 16


def test_a_killed_export_goes_on_with_the_parts_that_are_missing(
    killed: Path,
    encoder_folder: Path,
    items: str,
    tmp_path: Path,
    small_parts: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(killed, tmp_path / "set.partial")
    shutil.copytree(killed, tmp_path / "cut.partial")
    # Of a product whose vector in a finished part is another, the set shows whether that part was made again.
    finished = PartStore(tmp_path / "set", parts_of(ROWS, 16), 32)
    part = finished.read(0)
    part.vectors = part.vectors[:, ::-1]
    finished.write(0, part)
    marked = exported(tmp_path / "set", encoder_folder, items)
    assert "2 of 6 parts are there already" in capfd.readouterr().err
    assert marked.metadata["export"]["resumed"] == 32
    # A power cut may leave a file whose content is missing.
    damaged = tmp_path / "cut.partial" / "000001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:100])
    cut = exported(tmp_path / "cut", encoder_folder, items)
    assert cut.metadata["export"]["resumed"] == 16
    fresh = exported(tmp_path / "fresh", encoder_folder, items)
    assert files(tmp_path / "cut") == files(tmp_path / "fresh")
    in_first_part = len(part.covered())
    expected = fresh.matrix().copy()
    expected[:in_first_part] = expected[:in_first_part, ::-1]
    np.testing.assert_array_equal(marked.matrix(), expected)
    assert {path.name for path in tmp_path.iterdir()} == {"set", "cut", "fresh"}


def test_parts_of_other_options_are_not_taken(
    killed: Path,
    encoder_folder: Path,
    items: str,
    tmp_path: Path,
    small_parts: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(killed, tmp_path / "set.partial")
    found = exported(tmp_path / "set", encoder_folder, items, dim=8)
    assert "starts anew" in capfd.readouterr().err
    assert found.metadata["export"]["resumed"] == 0


def test_a_full_disk_is_one_line_and_the_finished_parts_stay(
    encoder_folder: Path, items: str, tmp_path: Path, small_parts: None
) -> None:
    exported(tmp_path / "set", encoder_folder, items)
    size = (tmp_path / "set" / "vectors.arrow").stat().st_size
    before = files(tmp_path / "set")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for each part, too little for all of them together.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written") as told:
            exported(tmp_path / "set", encoder_folder, items)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    assert files(tmp_path / "set") == before
    assert len(list((tmp_path / "set.partial").glob("*.arrow"))) == 6
    again = exported(tmp_path / "set", encoder_folder, items)
    assert again.metadata["export"]["resumed"] == ROWS
    assert files(tmp_path / "set") == before


def test_two_exports_to_one_place_do_not_mix(
    encoder_folder: Path, items: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested: list[UserError] = []
    real = export_module.Totals

    def meddle(store: Any) -> Any:
        with pytest.raises(UserError, match="another moonrec process") as told:
            exported(tmp_path / "set", encoder_folder, items)
        nested.append(told.value)
        return real(store)

    monkeypatch.setattr(export_module, "Totals", meddle)
    exported(tmp_path / "set", encoder_folder, items)
    assert len(nested) == 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    group=st.integers(1, 25),
    part_rows=st.integers(1, 30),
    data=st.data(),
)
def test_a_reader_of_some_parts_reads_exactly_their_rows(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    group: int,
    part_rows: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("catalogue")
    rows = [row | {"attributes": {"number": row["item_id"]}} for row in toys(sum(sizes))]
    whole = pq.read_table(write_table(folder / "_all.parquet", rows))
    for number, (start, size) in enumerate(zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)):
        pq.write_table(whole.slice(start, size), folder / f"{number}.parquet", row_group_size=group)
    items = open_table(folder, ITEMS)
    parts = parts_of(items.count_rows(), part_rows)
    assert [row for part in parts for row in part] == list(range(len(rows)))
    wanted = [part for part in parts if data.draw(st.booleans())]
    reader = PartReader(items, iter(wanted))
    regroup = data.draw(st.booleans())
    batches = [[p for batch in reader.batches() for p in batch]] if regroup else reader.batches()
    read = [(part, product) for part, batch in reader.by_part(batches) for product in batch]
    everything = [product for batch in iter_items(items) for product in batch]
    assert read == [(part, everything[row]) for part in wanted for row in part]


def test_an_error_names_the_row_of_the_file(tmp_path: Path) -> None:
    rows = toys(30)
    for row in rows:
        row["image"] = "../outside.png" if row["item_id"] == "27" else None
    items = open_table(write_table(tmp_path / "items.parquet", rows), ITEMS)
    with pytest.raises(UserError, match=r"items\.parquet: row 27"):
        list(PartReader(items, [range(20, 30)]).batches())
