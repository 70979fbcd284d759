"""What the tests of export share: small catalogues and ways to run an export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.export import ExportConfig, export
from moonrec.embedding_set import EmbeddingSet

WORKER = Path(__file__).parent / "encoder_export_worker.py"


def exported(out: Path, encoder: Path | str, items: str, **options: Any) -> EmbeddingSet:
    """An export in this process; opens what it wrote and compares it with what was returned."""
    defaults: dict[str, Any] = {"cache": "", "device": "cpu"}
    results = export(ExportConfig(encoder=str(encoder), items=items, out=str(out), **(defaults | options)))
    found = EmbeddingSet.open(out)
    assert results["rows"] == len(found) == results["encoded"] + results["copied"]
    assert results["empty"] == found.metadata["empty"]
    assert results["dimension"] == found.dimension
    assert not out.with_name(f"{out.name}.partial").exists()
    return found


def toys(rows: int, words: str = "wool") -> list[dict[str, Any]]:
    """Products of words only, some with many."""
    return [
        {"item_id": str(number), "title": f"sock number {number} " + f"{words} " * (number % 9)}
        for number in range(rows)
    ]


def work(
    options: Mapping[str, Any], *, part_rows: int, ranks: int = 1, kill_after: int | None = None
) -> subprocess.CompletedProcess[str]:
    """An export by processes of its own; `options` are those of `ExportConfig`."""
    path = Path(options["out"]).with_suffix(".json")
    path.write_text(json.dumps({"cache": "", "device": "cpu"} | dict(options)))
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launch, str(WORKER), str(part_rows), str(path)]
    command += [] if kill_after is None else [str(kill_after)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)


def results_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the main process of an export printed."""
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return results
