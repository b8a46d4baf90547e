"""Another machine's rounding, for machines that are not at hand."""
from contextlib import contextmanager

import numpy as np


def neighbours(array, *seed):
    """A copy in which every number but zero is the next one in its precision, above or below as `seed` draws."""
    up = np.random.RandomState(list(seed)).randint(0, 2, array.shape).astype(bool)
    return np.where(array == 0, array, np.nextafter(array, np.where(up, np.inf, -np.inf).astype(array.dtype)))


@contextmanager
def another_rounding(seed):
    """Inside, every float32 product and convolution, and the gradient that comes back to it, is off by one rounding.

    Of its own size, or of the result's typical size where that is larger: sums whose terms cancel are off by as much.
    What is added is a function of the number itself and of the seed, so that equal inputs keep equal outputs: what must
    repeat bit for bit still does. Seed 0 changes nothing.
    """
    import paddle
    import paddle.nn.functional as F

    def change(value):
        array = value.numpy()
        drawn = (array.view(np.uint32) + np.uint32(seed)) * np.uint32(2654435761) >> np.uint32(16)
        signs = (drawn % 3).astype(np.float32) - 1
        size = np.maximum(np.abs(array), np.sqrt(np.mean(array ** 2)))
        return paddle.to_tensor(signs * size * np.float32(2.0 ** -24))

    def wrapped(function):
        def call(*arguments, **options):
            result = function(*arguments, **options)
            if not paddle.in_dynamic_mode() or result.dtype != paddle.float32 or not result.size:
                return result  # an exported network, another precision
            if not result.stop_gradient:
                result.register_hook(lambda gradient: gradient + change(gradient))
            return result + change(result)

        return call

    places = [(paddle, "matmul"), (F, "linear"), (F, "conv2d"), (paddle.Tensor, "matmul"),
              (paddle.Tensor, "__matmul__")]
    before = [getattr(owner, name) for owner, name in places]
    try:
        for (owner, name), function in zip(places, before if seed else ()):
            setattr(owner, name, wrapped(function))
        yield
    finally:
        for (owner, name), function in zip(places, before):
            setattr(owner, name, function)
