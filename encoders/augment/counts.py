"""What became of the items: counted part by part, summed up at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from encoders.products import BrokenImages


@dataclass
class Counts:
    """Titles and pictures, made and not made, and why.

    Attributes:
        titles: how many titles have which source.
        images: how many pictures stand, by source.
        dropped: how many pictures were dropped, by source.
        items: how many items have pictures, and why the others have none.
        broken: own pictures of items that cannot be used.
    """

    titles: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    broken: BrokenImages = field(default_factory=BrokenImages)

    def add(self, other: Counts) -> None:
        """Add what was counted elsewhere."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        for key, reason in other.broken.examples:
            self.broken.add(key, reason)
        self.broken.count += other.broken.count - len(other.broken.examples)

    def to_notes(self) -> dict[str, Any]:
        """All of it as JSON, for `from_notes`."""
        return {name: dict(getattr(self, name)) for name in _COUNTERS} | {"broken": vars(self.broken)}

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Counts:
        """What `to_notes` gave."""
        broken = BrokenImages(
            notes["broken"]["count"], [(key, why) for key, why in notes["broken"]["examples"]]
        )
        return cls(**{name: Counter(notes[name]) for name in _COUNTERS}, broken=broken)

    def titles_to_dict(self) -> dict[str, Any]:
        """How many titles were enriched, and why the others were not."""
        reasons = {
            source.removeprefix(_KEPT): n for source, n in self.titles.items() if source.startswith(_KEPT)
        }
        return {"enriched": self.titles.total() - sum(reasons.values()), "kept": _sorted(reasons)}

    def images_to_dict(self) -> dict[str, Any]:
        """How many pictures were made and dropped, and what items have none."""
        made, dropped = self.images.total() + self.dropped.total(), self.dropped.total()
        return {
            "made": made,
            "written": made - dropped,
            "dropped": dropped,
            "written_by_source": _sorted(self.images),
            "dropped_by_source": _sorted(self.dropped),
            "items": _sorted(self.items),
            "broken_images": self.broken.to_dict(),
        }


_KEPT = "kept: "
_COUNTERS = ("titles", "images", "dropped", "items")


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """The commonest first."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
