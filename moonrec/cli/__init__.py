"""The command line. Each command imports what it needs when it runs; `--help` imports click alone."""

from __future__ import annotations

import os

import click

import moonrec

# Start-up chatter and telemetry that a user cannot act on; set before the libraries are imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TORCHREC_LOG_LEVEL", "ERROR")
# Threads that wait by spinning slow a shared machine down several times over.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(moonrec.__version__, prog_name="moonrec")
def main() -> None:
    """Product pictures and words, frozen into embeddings, lifting ranking models."""


from moonrec.cli import (  # noqa: E402, F401
    ablate,
    augment,
    data,
    encoder,
    exchange,
    general,
    heatmap,
    ranking,
    regions,
    relevance,
    report,
    retrieval,
    retrieve,
    scaling,
    scoring,
    search,
    training,
)
