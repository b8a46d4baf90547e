#!/usr/bin/env python
"""Seconds and peak memory of converting a PyTorch file to Paddle, against torch.load + paddle.save where both exist.

    python tools/benchmarks/convert.py [--folder /fast/disk] [--models resnet50 resnet50w5]

Files are made first (random float32 weights: ResNet-50 with its heads, 28.4M parameters; the trunk of ResNet-50 w5,
586M). Every conversion runs in a process of its own. `resident` counts the mapped pages of the source file, which the
system may drop at any time; `own` is anonymous memory. Both are peaks above what the imports alone take, sampled every
5 ms, and given as multiples of the weights.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

MODELS = {"resnet50": (64, True), "resnet50w5": (320, False)}


def key_table(channels, heads):
    """Names and shapes of a released file, with `module.` prefix."""
    shapes = {"conv1.weight": (channels, 3, 7, 7), **norm("bn1", channels)}
    inputs = channels
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        planes = channels * 2 ** (stage - 1)
        for index in range(blocks):
            name = f"layer{stage}.{index}"
            sizes = ((planes, inputs, 1), (planes, planes, 3), (planes * 4, planes, 1))
            for number, (outputs, into, kernel) in enumerate(sizes, start=1):
                shapes[f"{name}.conv{number}.weight"] = (outputs, into, kernel, kernel)
                shapes.update(norm(f"{name}.bn{number}", outputs))
            if index == 0:
                shapes[f"{name}.downsample.0.weight"] = (planes * 4, inputs, 1, 1)
                shapes.update(norm(f"{name}.downsample.1", planes * 4))
            inputs = planes * 4
    if heads:
        shapes.update({"projection_head.0.weight": (2048, inputs), "projection_head.0.bias": (2048,),
                       **norm("projection_head.1", 2048), "projection_head.3.weight": (128, 2048),
                       "projection_head.3.bias": (128,), "prototypes.weight": (3000, 128)})
    return {f"module.{name}": shape for name, shape in shapes.items()}


def norm(name, size):
    return {f"{name}.{leaf}": (size,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def make_file(path, model):
    import numpy as np

    from passl.weights.formats.writers import write_torch

    generator = np.random.default_rng(0)
    state = {name: generator.random(shape, np.float32) for name, shape in key_table(*MODELS[model]).items()}
    write_torch(str(path), {"state_dict": state})
    return sum(array.nbytes for array in state.values())


def ours(source, target):
    from passl.weights import convert_file

    return lambda: convert_file(source, target)


def theirs(source, target):
    import paddle
    import torch

    def run():
        state = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        paddle.save({name: array.T if array.ndim == 2 else array for name, array in arrays.items()}, target)
    return run


def memory():
    """(resident, anonymous) bytes of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["RssAnon"].split()[0]) * 1024


def measure(way, source, target):
    """Runs in the child: seconds and memory peaks of one conversion as a line of JSON."""
    run = {"passl": ours, "torch": theirs}[way](source, target)
    if os.path.exists(target):
        os.unlink(target)
    os.sync()  # or this conversion waits for earlier files to reach the disk
    start, peaks, done = memory(), [0, 0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peaks[:] = [max(old, now) for old, now in zip(peaks, memory())]

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    print(json.dumps({"seconds": seconds, "resident": max(0, peaks[0] - start[0]), "own": max(0, peaks[1] - start[1])}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", default=None, help="where the files are made; needs 5 GB for resnet50w5")
    parser.add_argument("--repeats", type=int, default=3, help="conversions per row; the fastest is shown")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return measure(*options.child)
    ways = ["passl"] + (["torch"] if all(importlib.util.find_spec(name) for name in ("torch", "paddle")) else [])
    print("| file | way | seconds | resident / weights | own / weights |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for model in options.models:
            source, target = os.path.join(folder, "in.pth"), os.path.join(folder, "out.pdparams")
            size = make_file(source, model)
            for way in ways:
                command = [sys.executable, __file__, "--child", way, source, target]
                runs = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(options.repeats)]
                best = min(runs, key=lambda row: row["seconds"])
                label = {"passl": "passl-convert", "torch": "torch.load + paddle.save"}[way]
                print(f"| {model}, {size / 4e6:.1f}M parameters, {size / 1e6:.0f} MB | {label} | "
                      f"{best['seconds']:.2f} | {best['resident'] / size:.2f}x | {best['own'] / size:.2f}x |",
                      flush=True)
            os.unlink(source)
    if "torch" not in ways:
        print("\nPyTorch and Paddle are not both installed here: no comparison.")


if __name__ == "__main__":
    main()
