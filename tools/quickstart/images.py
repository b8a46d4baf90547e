"""Twenty places in two photographs as an ordinary image tree, made from files that scikit-learn ships.

The classes are the most detailed cells of a grid over the two photographs: roofs, railings, tree tops, petals. A
picture is a square cut at random from its place, at a random scale, perhaps mirrored, and in false colours: its hue is
turned all round the circle and its saturation, contrast and brightness are changed. So the colour of a picture says
nothing about its class and no two pictures match pixel by pixel; what they share is what they show. Held-out pictures
are other cuts of the same places in other colours.

    python tools/quickstart/images.py FOLDER
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Dict, List

import cv2
import numpy as np

SIDE = 36  # pixels of a picture
PLACES = 20  # classes
GRID = (4, 6)  # rows and columns of cells on a photograph
SMALLEST_CUT = 60  # pixels of a photograph; the largest cut is a whole cell, about 106
SATURATION, CONTRAST, BRIGHTNESS = (0.3, 1.7), (0.4, 1.4), (50.0, 206.0)


def make_images(folder: Path, seed: int = 0, train_images: int = 200, val_images: int = 50) -> Dict[str, int]:
    """Write folder/{train,val}/<place>/*.png, SIDE x SIDE RGB; returns the number of images of each split.

    train_images, val_images: of each place. The same arguments give the same files, byte for byte; a folder that was
    made with the same arguments is left as it is.
    """
    folder = Path(folder)
    recipe = {"version": 2, "seed": seed, "train_images": train_images, "val_images": val_images}
    counts = {"train": train_images, "val": val_images}
    marker = folder / "recipe.json"  # written last: a folder without it is not finished
    if not marker.is_file() or json.loads(marker.read_text()) != recipe:
        marker.unlink(missing_ok=True)
        for place, cell in enumerate(find_places()):
            for split, count in counts.items():
                _write_class(folder / split / f"{place:02d}", cell, count, [seed, int(split == "val"), place])
        marker.write_text(json.dumps(recipe))
    return {split: PLACES * count for split, count in counts.items()}


def _write_class(folder: Path, cell: np.ndarray, count: int, key: List[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for index in range(count):
        path = folder / f"{index:04d}.png"
        if not cv2.imwrite(str(path), picture_of(cell, np.random.default_rng([*key, index]))[:, :, ::-1]):
            raise OSError(f"cannot write {path}")


def find_places() -> List[np.ndarray]:
    """The PLACES cells with the most detail, most detailed first: uint8 [H, W, 3] RGB views of the photographs."""
    from sklearn.datasets import load_sample_images

    cells = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[0] // GRID[0], photograph.shape[1] // GRID[1]
        cells += [photograph[row * height:(row + 1) * height, column * width:(column + 1) * width]
                  for row in range(GRID[0]) for column in range(GRID[1])]
    return sorted(cells, key=detail, reverse=True)[:PLACES]


def detail(cell: np.ndarray) -> float:
    """Mean absolute Laplacian after a slight blur: sky and defocused background have next to none."""
    grey = cv2.GaussianBlur(cv2.cvtColor(cell, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def picture_of(cell: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One picture of a place, uint8 [SIDE, SIDE, 3]: a random cut in false colours."""
    height, width = cell.shape[:2]
    side = int(np.exp(random.uniform(np.log(SMALLEST_CUT), np.log(min(height, width)))))
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    cut = cell[top:top + side, left:left + side]
    if random.random() < 0.5:
        cut = cut[:, ::-1]
    return cv2.resize(false_colours(np.ascontiguousarray(cut), random), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def false_colours(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The uint8 RGB picture with its hue turned and its saturation, contrast and mean brightness redrawn."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + random.integers(180)) % 180  # OpenCV's hue circle has 180 steps
    hsv[..., 1] = np.minimum(hsv[..., 1] * random.uniform(*SATURATION), 255)
    rgb = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    rgb = (rgb - rgb.mean()) * random.uniform(*CONTRAST) + random.uniform(*BRIGHTNESS)
    return np.rint(rgb.clip(0, 255)).astype(np.uint8)


if __name__ == "__main__":
    make_images(Path(sys.argv[1]))
