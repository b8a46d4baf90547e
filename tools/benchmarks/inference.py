"""Images a second of everything that can run a network on this CPU: `python tools/benchmarks/inference.py`.

Every contender has a process of its own. They take turns, one at work and the others asleep, and the table holds
medians over the turns, so that a busy machine slows all of them. Contenders: the engines of this library;
`paddle.jit.load`; and onnxruntime and OpenVINO called without this library, on the same ONNX file and ready arrays.

    python tools/benchmarks/inference.py --networks resnet50@224 resnet18@64 --batch-sizes 1 16 64
    python tools/benchmarks/inference.py --images FOLDER --batch-sizes 16     # from files, with decoding and resizing
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
ENGINES = ("eager", "paddle", "onnxruntime", "openvino")
BARE = ("paddle.jit.load", "bare onnxruntime", "bare openvino")


def network_and_input(options):
    import numpy as np
    import paddle

    import passl
    from passl.inference.card import evaluation_transform

    name, _, size = options.network.partition("@")
    paddle.seed(0)
    model = passl.get_model(name)
    model.card.transform = evaluation_transform(int(size))
    shape = [options.batch_size, 3, int(size), int(size)]
    return model, np.random.RandomState(0).normal(size=shape).astype("float32")


def ready(options):
    """What runs one batch of ready arrays."""
    import paddle

    model, images = network_and_input(options)
    if options.contender in ENGINES:
        from passl.inference.forward import Forward

        forward = Forward(model, lambda x: {"features": model.extract_feat(x)}, ["features"], options.contender,
                          images=10 ** 9)
        tensor = paddle.to_tensor(images)

        def run():
            with paddle.no_grad():
                return forward(tensor)["features"].numpy()

        run()
        if not str(forward).startswith(options.contender):
            raise SystemExit(f"{options.contender} fell back to {forward}")
        return run
    if options.contender == "paddle.jit.load":
        loaded = paddle.jit.load(str(options.folder / "program"))
        loaded.eval()

        def load():
            with paddle.no_grad():
                output = loaded(paddle.to_tensor(images))
                return (output[0] if isinstance(output, (list, tuple)) else output).numpy()

        return load
    if options.contender == "bare onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(options.folder / "program.onnx"), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: images})
    import openvino

    compiled = openvino.Core().compile_model(str(options.folder / "program.onnx"), "CPU",
                                             {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda: compiled(images)[0]


def contend(options) -> None:
    """A contender's process: measures whenever it gets a line, and answers with images a second."""
    from passl.engine import environment

    environment.prepare()
    if options.images:
        from passl.inference.engine import Engine
        from passl.inference.images import find_images

        model, _ = network_and_input(options)
        files = find_images(options.images)
        engine = Engine(model, options.batch_size, backend=options.contender)

        def measure():
            marks = [(time.perf_counter(), 0)]
            for batch in engine.stream(files):
                marks.append((time.perf_counter(), len(batch.indices)))
            # From the second batch on: the start of the engine and of the workers comes before.
            return sum(count for _, count in marks[2:]) / (marks[-1][0] - marks[1][0])
    else:
        run = ready(options)
        run()

        def measure():
            count, begin = 0, time.perf_counter()
            while not count or time.perf_counter() - begin < options.seconds:
                run()
                count += 1
            return count * options.batch_size / (time.perf_counter() - begin)

    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)


def compare(options, network: str, batch_size: int) -> None:
    from passl.inference import backends

    engines = [name for name in ENGINES if name not in backends.BACKENDS or not backends.BACKENDS[name].missing()]
    bare = [] if options.images else [name for name in BARE if name.rpartition(" ")[2] in [*engines, "paddle.jit.load"]]
    with tempfile.TemporaryDirectory() as folder:
        options.network, options.batch_size = network, batch_size
        if bare:
            model, images = network_and_input(options)
            backends.write_program(model, ["features"], images.shape, Path(folder))
            if "onnxruntime" in engines or "openvino" in engines:
                backends.write_onnx(Path(folder))
        processes = {}
        for name in [*engines, *bare]:
            command = [sys.executable, __file__, "--contender", name, "--network", network, "--batch-size",
                       str(batch_size), "--folder", folder, "--seconds", str(options.seconds),
                       *(["--images", options.images] if options.images else [])]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                       stderr=subprocess.DEVNULL)
            if answer(process, "ready") is None:
                print(f"# {name} does not run {network} here", flush=True)
            else:
                processes[name] = process
        rates = {name: [] for name in processes}
        for _ in range(options.rounds):
            for name, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                rates[name].append(float(answer(process)))
        for process in processes.values():
            process.stdin.close()
            process.wait()
    eager = statistics.median(rates["eager"])
    for name, found in rates.items():
        middle = statistics.median(found)
        ratio = statistics.median(one / other for one, other in zip(found, rates["eager"]))
        print(f"| {network} | {batch_size} | {name} | {middle:.1f} | {middle / eager:.2f} | {ratio:.2f} |", flush=True)


def answer(process, wanted=None):
    """The next line that a contender says, past what libraries print; None when it has ended."""
    for line in process.stdout:
        if line.strip() == wanted or wanted is None and line.strip().replace(".", "", 1).replace("e", "", 1).isdigit():
            return line.strip()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50@224", "resnet18@224", "resnet18@64"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--images", help="a folder of files: measure from there, not from ready arrays")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn on ready arrays, at least one batch")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        return contend(options)
    from passl.engine import environment

    threads = environment.prepare()
    print(f"# {threads} threads, load of the machine {os.getloadavg()[0]:.1f} at the start")
    print("| network | batch | contender | images/s, median | times eager | median of the turns' ratios |")
    print("|---" * 6 + "|", flush=True)
    for network in options.networks:
        for batch_size in options.batch_sizes:
            compare(options, network, batch_size)
    print(f"# load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
