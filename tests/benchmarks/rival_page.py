"""What was measured of the retrieval models, as a page of Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rival_contenders import OURS, PEERS, POPULARITY, QUALITY

_SPEED = "samples_per_second"


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured.

    Attributes:
        setting: what all runs shared.
        measured: by model, the numbers of every round; the first one's hold its quality.
        popularity: quality of the baseline, by the kind of catalogue.
    """

    setting: Mapping[str, Any]
    measured: Mapping[str, Sequence[Mapping[str, float]]]
    popularity: Mapping[str, Mapping[str, float]]

    def page(self) -> str:
        """The comparison in Markdown."""
        what = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        return "\n".join([what, "", *self._numbers(), "", *self._ratios()])

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "setting": dict(self.setting),
            "measured": {model: list(rounds) for model, rounds in self.measured.items()},
            POPULARITY: dict(self.popularity),
        }

    def _numbers(self) -> list[str]:
        columns = ["model", "samples/s", *QUALITY, "epochs", "best"]
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for model, rounds in self.measured.items():
            speeds, first = [values[_SPEED] for values in rounds], rounds[0]
            spread = f"{median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})"
            lines.append(_row(model, spread, first, f"{first['epochs']:.0f}", f"{first['best_epoch']:.0f}"))
        lines += [_row(f"{POPULARITY}, {kind}", "", found, "", "") for kind, found in self.popularity.items()]
        return lines

    def _ratios(self) -> list[str]:
        """How many times as fast each of ours is as each of theirs."""
        lines = [f"| times as fast as | {' | '.join(OURS)} |", "|---" * (len(OURS) + 1) + "|"]
        for peer in PEERS:
            ratios = [f"{self._middle(model) / self._middle(peer):.1f}" for model in OURS]
            lines.append(f"| {peer} | {' | '.join(ratios)} |")
        return lines

    def _middle(self, model: str) -> float:
        return median(values[_SPEED] for values in self.measured[model])


def _row(name: str, speed: str, found: Mapping[str, float], epochs: str, best: str) -> str:
    quality = " | ".join(f"{found[key]:.4f}" for key in QUALITY)
    return f"| {name} | {speed} | {quality} | {epochs} | {best} |"
