"""Host batches on the device, whole and in parts."""
import numpy as np
import pytest

from passl.engine.batches import on_device, split

BATCH = {"crops": [np.arange(5 * 2 * 2 * 3, dtype=np.uint8).reshape(5, 2, 2, 3), np.ones([5, 1, 1, 3], np.uint8)],
         "index": np.arange(5)}


@pytest.mark.parametrize("count, sizes", [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1] * 5)])
def test_parts_are_the_batch_in_order(count, sizes):
    parts = split(BATCH, count)
    assert [len(part["index"]) for part in parts] == sizes
    np.testing.assert_array_equal(np.concatenate([part["index"] for part in parts]), BATCH["index"])
    for crop, whole in enumerate(BATCH["crops"]):
        np.testing.assert_array_equal(np.concatenate([part["crops"][crop] for part in parts]), whole)


def test_pixels_are_normalised_and_the_rest_is_not():
    batch = on_device({**BATCH, "image": BATCH["crops"][0], "label": np.array([3, 1, 2, 0, -1])},
                      lambda pixels: pixels.astype("float32") / 2)
    np.testing.assert_array_equal(batch["crops"][0].numpy(), BATCH["crops"][0] / 2)
    np.testing.assert_array_equal(batch["image"].numpy(), BATCH["crops"][0] / 2)
    assert batch["label"].tolist() == [3, 1, 2, 0, -1] and batch["index"].tolist() == [0, 1, 2, 3, 4]
