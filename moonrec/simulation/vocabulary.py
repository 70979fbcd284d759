"""What the simulated shop sells and the words that people have for it.

Every word fact (material, brand, mood, occasion) is a value with synonyms: texts use any of them, the truth
keeps the value. A shape is a kind of product; it decides most of the category and the noun.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of product: its category, what it is called, and whether it is made of soft materials."""

    category: str
    nouns: tuple[str, ...]
    soft: bool


KINDS: dict[str, Kind] = {
    "tshirt": Kind("Fashion > Clothing > T-Shirts", ("t-shirt", "tee", "short sleeve top"), True),
    "dress": Kind("Fashion > Clothing > Dresses", ("dress", "frock", "gown"), True),
    "trousers": Kind("Fashion > Clothing > Trousers", ("trousers", "pants", "slacks"), True),
    "handbag": Kind("Fashion > Bags > Handbags", ("handbag", "tote", "shoulder bag"), True),
    "backpack": Kind("Fashion > Bags > Backpacks", ("backpack", "rucksack", "daypack"), True),
    "hat": Kind("Fashion > Accessories > Hats", ("hat", "fedora", "brimmed hat"), True),
    "umbrella": Kind("Fashion > Accessories > Umbrellas", ("umbrella", "parasol", "brolly"), True),
    "boot": Kind("Fashion > Footwear > Boots", ("boot", "ankle boot", "bootie"), True),
    "mug": Kind("Home > Tableware > Mugs", ("mug", "cup", "coffee mug"), False),
    "vase": Kind("Home > Decor > Vases", ("vase", "flower vase", "jar"), False),
    "lamp": Kind("Home > Decor > Lamps", ("lamp", "table lamp", "bedside light"), False),
    "cushion": Kind("Home > Textiles > Cushions", ("cushion", "throw pillow", "pillow"), True),
    "bottle": Kind("Home > Tableware > Bottles", ("bottle", "flask", "water bottle"), False),
}
SHAPES = tuple(KINDS)

PATTERNS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "stripes": ("striped", "stripe"),
    "diagonal": ("diagonal stripe", "candy stripe"),
    "dots": ("polka dot", "dotted"),
    "checks": ("checked", "plaid"),
    "zigzag": ("zigzag", "chevron"),
    "diamonds": ("harlequin", "argyle"),
    "rings": ("ringed", "concentric"),
}

MATERIALS: dict[str, tuple[str, ...]] = {
    "cotton": ("cotton", "pure cotton"),
    "linen": ("linen", "flax"),
    "wool": ("wool", "merino"),
    "silk": ("silk", "satin"),
    "denim": ("denim", "jean fabric"),
    "leather": ("leather", "cowhide"),
    "canvas": ("canvas", "sailcloth"),
    "velvet": ("velvet", "velour"),
    "ceramic": ("ceramic", "stoneware"),
    "glass": ("glass", "crystal"),
    "bamboo": ("bamboo", "bamboo fibre"),
    "steel": ("steel", "stainless"),
    "oak": ("oak", "hardwood"),
    "copper": ("copper", "brass"),
    "marble": ("marble", "natural stone"),
    "enamel": ("enamel", "enamelled"),
}
SOFT_MATERIALS = 8
"""The first so many materials are soft, the others hard."""

MOODS: dict[str, tuple[str, ...]] = {
    "boho": ("boho", "bohemian", "hippie"),
    "minimalist": ("minimalist", "minimal", "scandi"),
    "retro": ("retro", "vintage", "old school"),
    "romantic": ("romantic", "sweet", "fairy"),
    "rustic": ("rustic", "farmhouse", "country"),
    "sporty": ("sporty", "athletic", "active"),
    "elegant": ("elegant", "classy", "luxury"),
    "playful": ("playful", "cute", "fun"),
    "industrial": ("industrial", "urban", "loft"),
    "coastal": ("coastal", "nautical", "seaside"),
}

OCCASIONS: dict[str, tuple[str, ...]] = {
    "wedding": ("wedding", "bridal party"),
    "office": ("office", "work"),
    "beach": ("beach", "summer holiday"),
    "festival": ("festival", "party"),
    "travel": ("travel", "trips"),
    "everyday": ("everyday", "daily use"),
    "school": ("school", "campus"),
    "garden": ("garden", "picnic"),
    "christmas": ("christmas", "winter holidays"),
    "birthday": ("birthday", "anniversary"),
}

BRANDS = (
    "Norvale", "Kestrel & Co", "Lumabry", "Ostra", "Tindale", "Fairwick", "Velloni", "Hubert Gray",
    "Mirocle", "Pinewater", "Quillon", "Sandrift", "Arbelle", "Corvane", "Drumlin", "Eastmere",
    "Folkvar", "Gossmer", "Halden Row", "Juniquo",
)  # fmt: skip

FILLER = (
    "new arrival", "hot sale", "premium quality", "free shipping", "best seller", "2024 new", "high quality",
    "wholesale", "limited offer", "in stock", "trendy", "must have", "top rated", "great value",
)  # fmt: skip

COLOURS: tuple[tuple[float, str, str, str], ...] = (
    (0.03, "maroon", "red", "salmon"),
    (0.11, "brown", "orange", "peach"),
    (0.19, "olive", "yellow", "cream"),
    (0.28, "moss", "lime", "pale lime"),
    (0.42, "forest green", "green", "mint"),
    (0.53, "petrol", "turquoise", "aqua"),
    (0.62, "navy", "blue", "sky blue"),
    (0.72, "indigo", "violet", "lavender"),
    (0.83, "plum", "purple", "lilac"),
    (0.95, "burgundy", "pink", "rose"),
    (1.01, "maroon", "red", "salmon"),
)
"""Upper hue bound and the name of the dark, the middle and the light tone."""


def colour_name(hue: float, lightness: float) -> str:
    """Return the everyday name of a colour; `hue` and `lightness` run over 0..1."""
    tone = 1 if lightness < 0.4 else 2 if lightness < 0.62 else 3
    return str(next(entry for entry in COLOURS if hue < entry[0])[tone])
