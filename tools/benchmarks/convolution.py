"""Training time of convolutions on small maps: image by image, as Paddle's CPU kernel works, and the batch at once.

    OMP_NUM_THREADS=1 python tools/benchmarks/convolution.py

Forward and backward of one layer, median of several turns; both ways take turns.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from passl.engine.environment import prepare  # noqa: E402

prepare()  # before Paddle is imported

import paddle  # noqa: E402

from passl.models.convolution import Convolution  # noqa: E402

# images, input channels, output channels, side of the input map, kernel, stride
CASES = [(256, 64, 128, 4, 3, 2), (256, 128, 128, 2, 3, 1), (256, 256, 256, 1, 3, 1),  # the quickstart's last stages
         (128, 512, 512, 3, 3, 1), (64, 2048, 512, 3, 1, 1), (64, 512, 2048, 3, 1, 1),  # ResNet-50, 96-pixel crops
         (128, 512, 512, 4, 3, 1), (128, 512, 512, 2, 3, 1), (16, 2048, 512, 7, 1, 1),
         (128, 64, 64, 3, 3, 1), (128, 256, 256, 4, 3, 1), (16, 512, 512, 7, 3, 1)]  # left image by image


def milliseconds(layer, x) -> float:
    x.clear_gradient()
    layer.clear_gradients()
    start = time.perf_counter()
    layer(x).sum().backward()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    print("  images      channels  map  kernel  stride  by image  at once  ratio  used")
    for images, inputs, outputs, side, kernel, stride in CASES:
        layer = Convolution(inputs, outputs, kernel, stride, kernel // 2)
        x = paddle.randn([images, inputs, side, side])
        x.stop_gradient = False
        worth_up_to, times = layer.most_positions, {0: [], side * side: []}
        for _ in range(turns + 1):  # the first one warms up
            for most in times:
                layer.most_positions = most
                times[most].append(milliseconds(layer, x))
        by_image, at_once = (statistics.median(values[1:]) for values in times.values())
        positions = ((side - 1) // stride + 1) ** 2
        print(f"{images:>8}{f'{inputs}->{outputs}':>14}{side:>5}{kernel:>8}{stride:>8}{by_image:>10.1f}{at_once:>9.1f}"
              f"{at_once / by_image:>7.2f}  {'yes' if positions <= worth_up_to else 'no'}", flush=True)


if __name__ == "__main__":
    main()
