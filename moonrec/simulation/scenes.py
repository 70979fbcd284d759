"""Where a simulated photo is taken: camera, light, background, and the clutter around the product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moonrec.simulation.shapes import SILHOUETTES


@dataclass(frozen=True)
class Camera:
    """A viewpoint: degrees, shear and squeeze as factors, size and centre as shares of the picture's side."""

    rotation: float
    shear: float
    squeeze: float
    size: float
    x: float
    y: float
    mirrored: bool = False

    def matrix(self) -> NDArray[np.float64]:
        """Return the (2, 2) map from product coordinates (-1..1) to half sides of the picture."""
        angle = np.radians(self.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        flip = -1.0 if self.mirrored else 1.0
        return self.size * turn @ np.array([[self.squeeze * flip, self.shear], [0.0, 1.0]])

    def centre(self) -> NDArray[np.float64]:
        """Return where the product's middle is, as shares of the side."""
        return np.array([self.x, self.y])


@dataclass(frozen=True)
class Scene:
    """`clutter` things lie around; `gains` multiply red, green, blue; `light` is -1..1, left to right.

    `blur` is a radius in pixels of a picture 128 wide; `covered` lets a thing hide a part of the product.
    """

    studio: bool
    clutter: int
    light: float
    gains: tuple[float, float, float]
    blur: float = 0.0
    quality: int = 88
    covered: bool = False


def main_view(rng: np.random.Generator, cluttered: bool) -> tuple[Camera, Scene]:
    """Return how a shop shows a product first: large on white or, if cluttered, smaller in a room."""
    low, high, off = (0.5, 0.7, 0.12) if cluttered else (0.7, 0.84, 0.03)
    camera = Camera(
        rotation=rng.uniform(-6, 6),
        shear=rng.uniform(-0.05, 0.05),
        squeeze=rng.uniform(0.95, 1.0),
        size=rng.uniform(low, high),
        x=0.5 + rng.uniform(-off, off),
        y=0.5 + rng.uniform(-off, off),
    )
    gain = rng.uniform(0.94, 1.04)
    clutter = int(rng.integers(3, 7)) if cluttered else 0
    return camera, Scene(not cluttered, clutter, rng.uniform(-1, 1), (gain, gain, gain))


def other_view(rng: np.random.Generator) -> tuple[Camera, Scene]:
    """Return one of the further photos of a shop page: turned a little, often in a room."""
    camera = Camera(
        rotation=rng.uniform(-18, 18),
        shear=rng.uniform(-0.18, 0.18),
        squeeze=rng.uniform(0.8, 1.0),
        size=rng.uniform(0.55, 0.85),
        x=rng.uniform(0.4, 0.6),
        y=rng.uniform(0.4, 0.6),
        mirrored=rng.random() < 0.3,
    )
    studio = rng.random() < 0.5
    clutter = 0 if studio else int(rng.integers(2, 6))
    return camera, Scene(studio, clutter, rng.uniform(-1, 1), _cast(rng, 0.05))


def query_view(rng: np.random.Generator) -> tuple[Camera, Scene]:
    """Return how a shopper's phone sees a product: askew, partly out of frame, dim, blurred, in clutter."""
    close = rng.random() < 0.3
    camera = Camera(
        rotation=rng.uniform(-25, 25),
        shear=rng.uniform(-0.25, 0.25),
        squeeze=rng.uniform(0.7, 1.0),
        size=rng.uniform(0.95, 1.25) if close else rng.uniform(0.5, 0.8),
        x=rng.uniform(0.36, 0.64),
        y=rng.uniform(0.36, 0.64),
        mirrored=rng.random() < 0.3,
    )
    scene = Scene(
        studio=rng.random() < 0.1,
        clutter=int(rng.integers(2, 7)),
        light=rng.uniform(-1, 1),
        gains=_cast(rng, 0.12),
        blur=rng.uniform(0.4, 1.3) if rng.random() < 0.4 else 0.0,
        quality=int(rng.integers(40, 90)),
        covered=rng.random() < 0.3,
    )
    return camera, scene


def _cast(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    brightness = rng.uniform(1 - 2.5 * strength, 1 + strength)
    red, green, blue = brightness * (1 + rng.uniform(-strength, strength, 3))
    return float(red), float(green), float(blue)


def draw_background(scene: Scene, camera: Camera, rng: np.random.Generator, side: int) -> Image.Image:
    """Return a square canvas of `side` pixels with everything that is behind the product."""
    if scene.studio:
        tint = rng.uniform(232, 255) + rng.uniform(-6, 4, (2, 2, 3))
        return _smooth(tint, side, Image.Resampling.BILINEAR)
    wall = rng.uniform(90, 215) + rng.uniform(-22, 22, 3)
    spots = rng.normal(0, 14, (5, 5, 1)) + rng.normal(0, 7, (5, 5, 3))
    image = _smooth(wall + spots, side, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.6:
        floor = side * rng.uniform(0.6, 0.85)
        draw.rectangle((0, floor, side, side), fill=_muted(rng))
    for _ in range(scene.clutter):
        # Things keep out of the middle of the product, which hides whatever it covers of them.
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2) * max(camera.size, 0.55) * 0.6
        place = camera.centre() + away * np.array([np.cos(angle), np.sin(angle)])
        _draw_thing(draw, rng, place * side, rng.uniform(0.06, 0.2) * side)
    return image


def draw_foreground(image: Image.Image, rng: np.random.Generator) -> None:
    """Let one thing at the border hide a part of the product."""
    side = image.width
    place = np.array([rng.uniform(0, 1), rng.choice((0.0, 1.0))])
    place = place if rng.random() < 0.5 else place[::-1]
    _draw_thing(ImageDraw.Draw(image), rng, place * side, rng.uniform(0.12, 0.24) * side)


def _smooth(small: NDArray[np.float64], side: int, method: Image.Resampling) -> Image.Image:
    pixels = np.clip(small, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((side, side), method)


def _muted(rng: np.random.Generator) -> tuple[int, int, int]:
    grey = rng.uniform(50, 210)
    red, green, blue = np.clip(grey + rng.uniform(-55, 55, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _draw_thing(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, place: NDArray[np.float64], radius: float
) -> None:
    """Draw an ellipse, a box or the silhouette of another product in one colour."""
    form, colour = rng.random(), _muted(rng)
    if form < 0.3:
        reach = radius * rng.uniform(0.6, 1.2, 2)
        draw.ellipse((*(place - reach), *(place + reach)), fill=colour)
    elif form < 0.6:
        angle = rng.uniform(0, np.pi) + np.array([0.4, np.pi - 0.4, np.pi + 0.4, -0.4])
        corners = place + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        draw.polygon(corners.ravel().tolist(), fill=colour)
    else:
        names = tuple(SILHOUETTES)
        for body in SILHOUETTES[names[int(rng.integers(len(names)))]].body:
            draw.polygon((place + radius * body).ravel().tolist(), fill=colour)
