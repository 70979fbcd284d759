"""Run folders as commands leave them behind, made in a moment; and pages of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from moonrec.compare.compare import CompareConfig, compare_runs

HOSTILE = "<script>alert('x')</script>"


def jpeg(colour: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(buffer, format="JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_run(
    folder: Path,
    metrics: Mapping[str, Any] | str,
    command: str = "train-ctr",
    history: str = "",
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    examples: Mapping[str, Any] | None = None,
) -> str:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(metrics if isinstance(metrics, str) else json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config or {"seed": 0})))
    provenance = {
        "command": command,
        "seed": 0,
        "inputs": inputs or {"test": "aa"},
        "versions": {"torch": "2"},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "history.jsonl").write_text(history)
    if examples is not None:
        (folder / "examples.json").write_text(json.dumps(examples))
    return str(folder)


def page_of(tmp_path: Path, *runs: str, names: tuple[str, ...] = ()) -> str:
    compare_runs(CompareConfig(runs=runs, out=str(tmp_path / "page.html"), names=names))
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def ctr_metrics(auc: float, logloss: float) -> dict[str, Any]:
    return {"test": {"auc": auc, "logloss": logloss, "rows": 100}, "groups": [{"group": "new", "auc": auc}]}
