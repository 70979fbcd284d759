"""Core regions: where in its picture a product is, found once by a frozen detector and kept in a table."""

from encoders.regions.boxes import Box
from encoders.regions.find import Regions
from encoders.regions.open import ground_regions, open_regions

__all__ = ["Box", "Regions", "ground_regions", "open_regions"]
