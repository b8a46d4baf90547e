"""Step time, time in collectives and scaling efficiency of SwAV on 1 and 2 ranks of this machine, and what limits it.

    python tools/benchmarks/scaling.py                                # a ResNet-18 of quarter width, 16 images
    python tools/benchmarks/scaling.py --channels 64 --batch-size 64  # more compute for the same number of collectives

Ranks are gloo processes with one thread each, joined and watched as passl-train joins them. Weak scaling keeps the
images of each rank, strong scaling keeps the images of all ranks together. Two processes that do not communicate run
at the same time, too: what they lose is the machine's, not the communication's.
"""
from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--channels", type=int, default=16, help="of the first stage; 64 is the usual network")
    parser.add_argument("--size", type=int, default=48, help="pixels of the two crops of an image")
    parser.add_argument("--batch-size", type=int, default=16, help="images of one rank alone")
    parser.add_argument("--prototypes", type=int, default=300)
    parser.add_argument("--steps", type=int, default=8, help="timed steps after two warm-up steps")
    parser.add_argument("--sync-batch-norm", default="global", choices=("none", "global"))
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # a rank: where to write its figures
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------- one rank
class CollectiveClock:
    """Seconds that the collectives of `passl.distributed` take once all ranks are there, and waiting before that."""

    def __init__(self):
        self.waiting = self.moving = 0.0
        self.calls = 0

    @contextmanager
    def running(self):
        """Time the collectives issued inside the block."""
        import paddle.distributed

        names = ("all_reduce", "all_gather")
        originals = {name: getattr(paddle.distributed, name) for name in names}

        def timed(original):
            def call(*arguments, **keywords):
                began = time.perf_counter()
                paddle.distributed.barrier()
                met = time.perf_counter()
                result = original(*arguments, **keywords)
                self.waiting += met - began
                self.moving += time.perf_counter() - met
                self.calls += 1
                return result

            return call

        for name, original in originals.items():
            setattr(paddle.distributed, name, timed(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(paddle.distributed, name, original)


def measure(options) -> dict:
    """Median seconds of a step, of its backward pass with and without reduction, and of its collectives."""
    from passl import distributed
    from passl.engine.environment import prepare

    prepare()
    import numpy as np
    import paddle

    from passl.distributed.watchdog import watchdog
    from passl.methods.swav import SwAV
    from passl.optim.groups import GroupedOptimizer

    distributed.initialize("cpu")
    with watchdog():
        paddle.seed(0)
        method = SwAV({"type": options.arch, "normalize": True, "hidden_mlp": 128, "output_dim": 64, "stem": "small",
                       "nmb_prototypes": options.prototypes, "base_channels": options.channels},
                      freeze_prototypes_niters=0)
        distributed.convert_batch_norm(method.model, options.sync_batch_norm)
        optimizer = GroupedOptimizer({"name": "MomentumLARC", "lr": {"name": "Constant", "learning_rate": 0.01}},
                                     method.trainable_parameters(), 1, 1)
        method.distribute(distributed.wrap)
        method.train()
        generator = np.random.RandomState(distributed.rank())
        shape = (options.batch_size, 3, options.size, options.size)
        batch = {"crops": [paddle.to_tensor(generator.standard_normal(shape).astype("float32")) for _ in range(2)]}

        def step(reduce=True):
            with nullcontext() if reduce else distributed.no_sync(method.network):
                began = time.perf_counter()
                loss, _ = method.training_step(batch, None)
                distributed.all_reduce(loss)  # as the trainer does, before the backward pass
                forward = time.perf_counter()
                loss.backward()
                backward = time.perf_counter()
            method.after_backward(0)
            for inner in optimizer.optimizers:
                inner.step()
            optimizer.clear_grad()
            return time.perf_counter() - began, backward - forward

        def median(reduce):
            times = [step(reduce) for _ in range(options.steps + 2)][2:]
            return [statistics.median(column) for column in zip(*times)]

        whole, backward = median(True)
        local_backward, clock = backward, CollectiveClock()
        if distributed.world_size() > 1:
            _, local_backward = median(False)
            with clock.running():
                for _ in range(options.steps):
                    step()
    return {"step": whole, "gradients": max(0.0, backward - local_backward),
            "collectives": clock.moving / options.steps, "waiting": clock.waiting / options.steps,
            "calls": clock.calls / options.steps}


# ---------------------------------------------------------------------------------------------- all runs
def environment(rank: int, ports) -> dict:
    """Launch variables of one rank; none for a process alone."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PADDLE_")}
    inherited["OMP_NUM_THREADS"] = "1"
    if len(ports) > 1:
        endpoints = [f"127.0.0.1:{port}" for port in ports]
        inherited.update(PADDLE_TRAINERS_NUM=str(len(ports)), PADDLE_TRAINER_ID=str(rank),
                         PADDLE_TRAINER_ENDPOINTS=",".join(endpoints), PADDLE_CURRENT_ENDPOINT=endpoints[rank])
    return inherited


def free_ports(count: int):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run(options, batch_size: int, processes: int, joined: bool) -> dict:
    """Figures of `processes` processes at once, ranks of one job or each for itself: the mean over them."""
    ports = free_ports(processes) if joined else [0]
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(processes):
            report = Path(folder) / f"{rank}.json"
            command = [sys.executable, __file__, "--report", str(report), "--batch-size", str(batch_size)]
            for name in ("arch", "channels", "size", "prototypes", "steps", "sync_batch_norm"):
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            started.append((report, subprocess.Popen(command, env=environment(rank, ports), stdout=subprocess.DEVNULL,
                                                     stderr=subprocess.PIPE, text=True)))
        for _, process in started:
            _, errors = process.communicate()
            if process.returncode:
                for _, other in started:
                    other.kill()
                sys.exit(f"a process of the benchmark failed:\n{errors[-3000:]}")
        figures = [json.loads(report.read_text()) for report, _ in started]
    return {name: statistics.mean(figure[name] for figure in figures) for name in figures[0]}


def main():
    options = parse()
    if options.report:
        options.report.write_text(json.dumps(measure(options)))
        return
    batch, half = options.batch_size, options.batch_size // 2
    load = os.getloadavg()[0]
    alone, alone_half = run(options, batch, 1, False), run(options, half, 1, False)
    apart, apart_half = run(options, batch, 2, False), run(options, half, 2, False)
    weak, strong = run(options, batch, 2, True), run(options, half, 2, True)

    print(f"{options.arch}, {options.channels} channels, two crops of {options.size} pixels, "
          f"K {options.prototypes}, batch norm {options.sync_batch_norm}; one thread a process, {os.cpu_count()} "
          f"cores, load before the start {load:.1f}; median of {options.steps} steps\n")
    print("| run | images a rank | step, ms | images/s | efficiency | collectives a step | in them, ms | "
          "waiting for the other, ms | gradient reduction, ms |\n|---|---|---|---|---|---|---|---|---|")

    def row(title, count, images, figures, efficiency):
        cells = [title, images, f"{1e3 * figures['step']:.0f}", f"{count * images / figures['step']:.0f}",
                 f"{100 * efficiency:.0f}%"]
        cells += [f"{figures['calls']:.0f}", *(f"{1e3 * figures[name]:.1f}" for name in
                                               ("collectives", "waiting", "gradients"))]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")

    row("1 rank", 1, batch, alone, 1.0)
    row("1 rank, half the images", 1, half, alone_half, alone["step"] / (2 * alone_half["step"]))
    row("2 processes, no communication", 2, batch, apart, alone["step"] / apart["step"])
    row("2 ranks, weak scaling", 2, batch, weak, alone["step"] / weak["step"])
    row("2 ranks, strong scaling", 2, half, strong, alone["step"] / (2 * strong["step"]))
    for title, ideal, machine, figures in (("weak", alone["step"], apart["step"], weak),
                                           ("strong", alone["step"] / 2, apart_half["step"], strong)):
        lost = {"sharing the machine and smaller batches": machine - ideal,
                "collectives of batch norm, assignment and loss": figures["collectives"],
                "reduction of gradients": figures["gradients"]}
        rest = figures["step"] - ideal - sum(lost.values())
        lost["the rest (passes of joint batch norm, ranks waiting for each other)"] = max(0.0, rest)
        parts = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in
                          sorted(lost.items(), key=lambda item: -item[1]))
        print(f"\n{title} scaling: {1e3 * (figures['step'] - ideal):.0f} ms above the ideal {1e3 * ideal:.0f} ms. "
              f"What limits it: {parts}.")


if __name__ == "__main__":
    main()
