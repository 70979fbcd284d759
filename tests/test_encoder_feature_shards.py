"""Feature shards: each is one file and one memory map, since a process may hold few of either."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from encoder_helpers import shard_of

from encoders.feature_shards import Shard
from moonrec.errors import UserError


def maps_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_a_saved_shard_is_one_map_and_keeps_no_file_open(tmp_path: Path) -> None:
    written = shard_of([2, 0, 3], [True, True, False])
    written.save(tmp_path / "shard")
    before = len(os.listdir("/proc/self/fd"))
    opened = [Shard.open(tmp_path / "shard") for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert maps_of(tmp_path / "shard") == 20
    for shard in opened:
        assert shard is not None
        for name, array in vars(shard).items():
            np.testing.assert_array_equal(array, getattr(written, name))
            assert array.dtype == getattr(written, name).dtype
            assert array.flags.aligned
    del opened, shard, array
    assert maps_of(tmp_path / "shard") == 0
    assert Shard.open(tmp_path / "nowhere") is None


def test_a_system_that_maps_no_more_files_is_told_in_one_line(tmp_path: Path) -> None:
    rows = 300
    shard_of([0] * rows, [True] * rows).save(tmp_path / "shard")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (tmp_path / "shard").stat().st_size // 2, hard))
    try:
        with pytest.raises(UserError, match=r"sysctl -w vm\.max_map_count") as told:
            Shard.open(tmp_path / "shard")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert "\n" not in str(told.value)
