"""Wrong purchases planted in simulated searches: the sample filter finds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.planted_noise import study


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_most_of_what_the_filter_weights_down_was_planted(share: float, tmp_path: Path) -> None:
    found = study(items=300, share=share, seed=0, epochs=4, pairs=400, cache=str(tmp_path / "cache"))
    # By chance the precision would be the planted share.
    assert found["with"]["precision"] > share + 0.3
    assert found["with"]["found"] > 0.5
    for name in ("photo", "words"):
        assert found["with"][name] > found["without"][name] - 0.1
