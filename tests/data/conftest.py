"""Images for the data tests: smooth, textured pictures that behave like photographs under resizing."""
from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from passl.data.decode import read_image


def photo(seed: int = 0, height: int = 300, width: int = 400) -> np.ndarray:
    """uint8 [H, W, 3] noise with a natural spectrum (amplitude falls a little faster than frequency rises)."""
    generator = np.random.RandomState(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1 / max(height, width)
    amplitude = frequency ** -1.2
    shared = generator.randn(height, width)
    channels = []
    for _ in range(3):
        spectrum = np.fft.fft2(shared + 0.5 * generator.randn(height, width)) * amplitude
        channel = np.fft.ifft2(spectrum).real
        channels.append((channel - channel.mean()) / channel.std() * 50 + 120)
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    return photo()


def _photograph_folder() -> str:
    folder = os.path.join(os.environ.get("PASSL_TEST_DATA", ""), "imagenet-sample")
    if not os.environ.get("PASSL_TEST_DATA") or not os.path.isdir(folder):
        pytest.skip("set PASSL_TEST_DATA to the folder that holds imagenet-sample/ to test on real photographs")
    return folder


@pytest.fixture(scope="session")
def real_photographs():
    """Twenty decoded photographs of the ImageNet sample under PASSL_TEST_DATA."""
    folder = _photograph_folder()
    return [read_image(os.path.join(folder, name)) for name in sorted(os.listdir(folder))[::20]]


@pytest.fixture(scope="session")
def real_large_photographs():
    """Paths of the sample's photographs of more than a megapixel."""
    folder = _photograph_folder()
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    return [path for path in paths if np.prod(Image.open(path).size) > 1e6]


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory):
    """Three classes of four 48 x 40 JPEG files each; read-only."""
    root = tmp_path_factory.mktemp("tree")
    for number, name in enumerate(("bee", "ant", "cat")):
        (root / name).mkdir()
        for item in range(4):
            Image.fromarray(photo(10 * number + item, 40, 48)).save(root / name / f"{item}.jpg")
    return root


@pytest.fixture(autouse=True)
def one_opencv_thread():
    cv2.setNumThreads(0)
