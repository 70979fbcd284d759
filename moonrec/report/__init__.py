"""Self-contained HTML pages: numbers first, plots and pictures beside them, what made them at the end."""

from __future__ import annotations

from moonrec.report.curves import line_figure
from moonrec.report.ending import add_provenance
from moonrec.report.page import Report
from moonrec.report.tiles import Tile
from moonrec.report.values import Cell, format_value

__all__ = ["Cell", "Report", "Tile", "add_provenance", "format_value", "line_figure"]
