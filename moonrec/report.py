"""A self-contained HTML page: numbers first, then plots, then what made them. No script, no outside file."""

from __future__ import annotations

import base64
import io
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from moonrec.atomic import atomic_file

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } .subtitle { color: #5a6478; margin-top: .2rem }
h2 { margin-top: 2rem; border-bottom: 1px solid #d9dee8; padding-bottom: .2rem }
table { border-collapse: collapse; margin: .6rem 0 }
caption { text-align: left; color: #5a6478; padding: .3rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #e6e9f0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.warning { background: #fff4d6; border-left: 4px solid #e0a400; padding: .5rem .8rem }
figure { margin: 1rem 0 } figure img { max-width: 100% } figcaption { color: #5a6478 }
</style></head><body>
<h1>{{ title }}</h1>{% if subtitle %}<p class="subtitle">{{ subtitle }}</p>{% endif %}
{% for kind, value in parts %}
{% if kind == "heading" %}<h2>{{ value }}</h2>
{% elif kind == "text" %}<p>{{ value }}</p>
{% elif kind == "warning" %}<p class="warning">{{ value }}</p>
{% elif kind == "figure" %}<figure><img alt="{{ value.caption }}" src="data:image/png;base64,{{ value.png }}">
<figcaption>{{ value.caption }}</figcaption></figure>
{% else %}<table>{% if value.caption %}<caption>{{ value.caption }}</caption>{% endif %}
<tr>{% for name in value.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in value.rows %}<tr>
{%- for cell in row %}<td{% if cell.number %} class="number"{% endif %}>{{ cell.text }}</td>
{%- endfor %}</tr>
{% endfor %}</table>{% endif %}
{% endfor %}</body></html>
"""


class Report:
    """Collects parts in the order in which they are added; `save` writes the page."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._subtitle = subtitle
        self._parts: list[tuple[str, object]] = []

    def heading(self, text: str) -> None:
        """Open a section."""
        self._parts.append(("heading", text))

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(("text", text))

    def warning(self, text: str) -> None:
        """Add a paragraph that a reader must not miss."""
        self._parts.append(("warning", text))

    def table(self, rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
        """Add a table; the first row's keys are the columns, floats are shown with four decimals."""
        columns = list(rows[0]) if rows else []
        cells = [[_cell(row.get(name)) for name in columns] for row in rows]
        self._parts.append(("table", {"columns": columns, "rows": cells, "caption": caption}))

    def figure(self, figure: Figure, caption: str = "") -> None:
        """Add a matplotlib figure, drawn into the page."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        png = base64.b64encode(buffer.getvalue()).decode()
        self._parts.append(("figure", {"png": png, "caption": caption}))

    def save(self, path: str | Path) -> None:
        """Write the page to `path`, atomically."""
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        page = environment.from_string(_PAGE).render(
            title=self._title, subtitle=self._subtitle, parts=self._parts
        )
        with atomic_file(path) as temporary:
            temporary.write_text(page, encoding="utf-8")


def line_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str
) -> Figure:
    """A small line plot: one (x, y) series per name."""
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="." if len(x) < 40 else None, label=name)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return figure


def format_value(value: object) -> str:
    """A number or text as reports and the terminal show it."""
    if value is None:
        return "–"
    if not _is_number(value):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    number = float(value)  # type: ignore[arg-type]
    return f"{number:.4f}" if abs(number) < 100 else f"{number:,.0f}"


def _is_number(value: object) -> bool:
    """Python's and NumPy's integers and floats, but not bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _cell(value: object) -> dict[str, object]:
    return {"text": format_value(value), "number": _is_number(value)}
