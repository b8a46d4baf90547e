from __future__ import annotations

import numpy as np
import paddle
import pytest

from passl.data.batch import Normalizer


def test_equals_the_definition():
    pixels = np.random.RandomState(0).randint(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    result = Normalizer(mean, std)(paddle.to_tensor(pixels))
    expected = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    assert list(result.shape) == [2, 3, 5, 4] and result.dtype == paddle.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean, std", [((0.5, 0.5), (1, 1, 1)), ((0, 0, 0), (1, 0, 1))])
def test_bad_constants(mean, std):
    with pytest.raises(ValueError, match="three means and three positive deviations"):
        Normalizer(mean, std)
