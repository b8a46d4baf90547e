"""`python -m tests.machines [WORDS]`: the numeric tests as other machines would compute them (cells with those WORDS).

A bound that only one processor keeps is not a bound. Each cell of the grid runs the tests with the mark `numeric`, one
after the other: under the instruction sets that MKL (in Paddle), OpenBLAS (in numpy), OpenCV and oneDNN can be told to
use, with one thread and with two, and with results that are rounded otherwise (`rounding.py`). At the end a table of
passes, and the comparisons that use most of their bound in any cell. Long tests are left out; `-mnumeric` has them too.
For the other Paddle, run it with the other environment's python.
"""
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {
    "SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OPENBLAS_CORETYPE": "Nehalem", "ONEDNN_MAX_CPU_ISA": "SSE41",
               "OPENCV_CPU_DISABLE": "AVX,FP16,FMA3,AVX2,AVX512_SKX"},
    "AVX2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2",
             "OPENCV_CPU_DISABLE": "AVX512_SKX"},
    "AVX-512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "OPENBLAS_CORETYPE": "SkylakeX",
                "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}
NEEDS = {"SSE4.2": "sse4_2", "AVX2": "avx2", "AVX-512": "avx512f"}
ROUNDINGS = (1, 2)
TIGHT = 0.25  # a comparison that uses more of its bound is named


def cells():
    """{name: environment} of the grid, without what this processor lacks."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    grid = {f"{name}, {threads} thread{'s'[:threads - 1]}": {**variables, "OMP_NUM_THREADS": str(threads)}
            for name, variables in INSTRUCTIONS.items() if re.search(rf"\b{NEEDS[name]}\b", flags)
            for threads in (1, 2)}
    grid.update({f"rounding {seed}": {"OMP_NUM_THREADS": "1", "PASSL_ROUNDING": str(seed)} for seed in ROUNDINGS})
    return grid


def run(variables, margins, options):
    """(counts as pytest tells them, names of tests that failed) of one cell."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "tests.machines.margins", "-m",
               "numeric and not slow", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True,
                          env={**os.environ, **variables, "PASSL_MARGINS": str(margins)})
    lines = done.stdout.strip().splitlines() or [""]
    if done.returncode not in (0, 1):
        return f"did not end well (exit code {done.returncode})", done.stderr.strip().splitlines()[-1:] or ["no word"]
    return lines[-1], [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]


def main(words):
    import paddle

    options = [word for word in words if word.startswith(("tests/", "-"))]
    words = [word for word in words if word not in options]
    print(f"Paddle {paddle.__version__}, {platform.processor() or platform.machine()}", flush=True)
    largest, failures, rows = {}, {}, []
    for name, variables in cells().items():
        if not all(word in name for word in words):
            continue
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            margins = Path(folder) / "margins.jsonl"
            counts, failed = run(variables, margins, options or ["tests"])
            for line in margins.read_text().splitlines() if margins.exists() else ():
                entry = json.loads(line)
                key = entry["place"]
                largest[key] = max(largest.get(key, (0.0, "", "")), (entry["used"], name, entry["test"]))
        rows.append(f"{name:18} {counts}")
        print(rows[-1] + f" ({time.time() - start:.0f} s in all)", *failed, sep="\n    ", flush=True)
        failures.update({test: name for test in failed})
    print("\nComparisons that use most of their bound, over all cells:")
    for place, (used, name, test) in sorted(largest.items(), key=lambda item: -item[1][0]):
        if used > TIGHT:
            print(f"  {used:6.2f}  {place:50} {name:18} {test.split('::')[-1]}")
    print("\n" + "\n".join(rows))
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
