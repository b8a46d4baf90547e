"""Time of one SwAV training step, split into data / forward / assignment / backward / optimizer.

    python tools/benchmarks/training_step.py                       # the default settings of passl-train
    python tools/benchmarks/training_step.py --compare             # also without each of them, and PyTorch

Every setting runs in a process of its own, because these settings are fixed when Paddle is imported. The batch
holds `--batch-size` images in two crops of `--size` pixels: the trunk sees twice as many pictures.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=8, help="images; two crops each")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5, help="timed steps after one warm-up step")
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: all cores)")
    parser.add_argument("--compare", action="store_true", help="add runs without the default settings, and PyTorch")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--run", choices=["passl", "torch"], help=argparse.SUPPRESS)
    return parser.parse_args()


def run_passl(options) -> dict:
    """Median seconds of every part of a step."""
    if not os.environ.get("PADDLE_AS_IMPORTED"):
        from passl.engine.environment import prepare

        prepare(options.threads)
    import numpy as np
    import paddle

    from passl.data.batch import Normalizer
    from passl.methods.swav import SwAV
    from passl.optim.groups import GroupedOptimizer

    method = SwAV({"type": options.arch, "normalize": True, "hidden_mlp": 2048, "output_dim": 128,
                   "nmb_prototypes": options.prototypes}, freeze_prototypes_niters=0)
    method.train()
    optimizer = GroupedOptimizer({"name": "MomentumLARC", "weight_decay": 1e-6,
                                  "lr": {"name": "Constant", "learning_rate": 0.1}},
                                 method.trainable_parameters(), 1, 1)
    normalize = Normalizer((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
    pixels = [np.random.RandomState(k).randint(0, 256, (options.batch_size, options.size, options.size, 3), np.uint8)
              for k in range(2)]
    assignment = []
    original = method.assign

    def timed_assign(*arguments):
        began = time.perf_counter()
        result = original(*arguments)
        result[0].numpy()
        assignment.append(time.perf_counter() - began)
        return result

    method.assign = timed_assign
    trunk = []
    network = method.model.res_model.encoder
    forward = network.forward

    def timed_trunk(x):
        began = time.perf_counter()
        result = forward(x)
        trunk.append(time.perf_counter() - began)
        return result

    network.forward = timed_trunk
    parts = []
    for _ in range(options.steps + 1):
        marks = [time.perf_counter()]
        batch = {"crops": [normalize(paddle.to_tensor(p)) for p in pixels]}
        marks.append(time.perf_counter())
        loss, _ = method.training_step(batch, method.plan([batch])[0])
        float(loss)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        method.after_backward(0)
        for inner in optimizer.optimizers:
            inner.step()
        optimizer.clear_grad()
        marks.append(time.perf_counter())
        data, step, backward, update = (b - a for a, b in zip(marks, marks[1:]))
        parts.append({"data to device": data, "trunk forward": trunk[-1],
                      "head and loss": step - trunk[-1] - assignment[-1], "assignment": assignment[-1],
                      "backward": backward, "optimizer": update, "whole step": marks[-1] - marks[0]})
    return {name: statistics.median(part[name] for part in parts[1:]) for name in parts[0]}


def run_torch(options) -> dict:
    """The same network and step length in PyTorch (SGD; forward, backward, update), for comparison."""
    import torch
    from torch import nn

    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))

    def block(inputs, planes, stride):
        class Bottleneck(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(
                    nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(True),
                    nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes), nn.ReLU(True),
                    nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes))
                self.short = nn.Identity() if stride == 1 and inputs == 4 * planes else nn.Sequential(
                    nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes))

            def forward(self, x):
                return torch.relu(self.body(x) + self.short(x))

        return Bottleneck()

    inputs = 64
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    for stage, blocks in enumerate([3, 4, 6, 3]):
        for index in range(blocks):
            layers.append(block(inputs, 64 * 2 ** stage, 2 if index == 0 and stage else 1))
            inputs = 256 * 2 ** stage
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 2048),
                            nn.BatchNorm1d(2048), nn.ReLU(True), nn.Linear(2048, 128),
                            nn.Linear(128, options.prototypes, bias=False))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9)
    images = torch.randn(2 * options.batch_size, 3, options.size, options.size)
    times = []
    for _ in range(options.steps + 1):
        began = time.perf_counter()
        network(images).log_softmax(1).mean().neg().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return {"whole step": statistics.median(times[1:])}


def in_process(options, what: str, environment=None, python=sys.executable) -> dict:
    """Run one setting in a fresh interpreter and read its figures."""
    arguments = [python, __file__, "--run", what, "--arch", options.arch, "--batch-size", str(options.batch_size),
                 "--size", str(options.size), "--steps", str(options.steps), "--prototypes", str(options.prototypes)]
    if options.threads:
        arguments += ["--threads", str(options.threads)]
    result = subprocess.run(arguments, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if result.returncode == 0 and lines else {}


def main():
    options = parse()
    if options.run:
        print(json.dumps(run_passl(options) if options.run == "passl" else run_torch(options)))
        return
    rows = [("passl-train defaults", in_process(options, "passl"))]
    if options.compare:
        rows.append(("the same without oneDNN", in_process(options, "passl", {"FLAGS_use_onednn": "0",
                                                                              "FLAGS_use_mkldnn": "0"})))
        rows.append(("the same without MKL's AVX2 on AMD", in_process(options, "passl", {"MKL_DEBUG_CPU_TYPE": "0"})))
        rows.append(("Paddle as imported (1 thread, neither of the two)",
                     in_process(options, "passl", {"PADDLE_AS_IMPORTED": "1", "OMP_NUM_THREADS": "1"})))
        rows.append(("PyTorch, same network", in_process(options, "torch", python=options.torch_python)))
    names = list(rows[0][1])
    print(f"{options.arch}, {options.batch_size} images x 2 crops of {options.size} pixels, K {options.prototypes}, "
          f"median of {options.steps} steps, milliseconds\n")
    print("| setting | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for title, row in rows:
        cells = [f"{1000 * row[name]:.0f}" if name in row else "-" for name in names]
        print(f"| {title} | " + " | ".join(cells) + " |" if row else f"| {title} | not installed |")
    first = rows[0][1]
    outside = sum(first[name] for name in ("data to device", "head and loss", "assignment", "optimizer"))
    share = 100 * outside / first["whole step"]
    print(f"\noutside the trunk (data, head, loss, assignment, optimizer): {share:.1f}% of the step")


if __name__ == "__main__":
    main()
