"""Thousands of damaged files: every one must read or end in a CheckpointError, quickly, and run nothing."""
import os
import random
import signal
import struct

import numpy as np
import pytest

from passl.weights import CheckpointError, read, recognise
from passl.weights.formats.writers import write_paddle, write_safetensors, write_torch
from tests.weights.checkpoints import filled, legacy_stream, peak_memory, pretraining_shapes, restarted_peak

SECONDS_PER_FILE = 10
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, ord("."), ord("("), ord("R"), ord("c"), ord("b"), ord("Q"), ord("t"), 0x93, 0x8E]
SNIPPETS = [b"cos\nsystem\nX\x05\x00\x00\x00touch\x85R", b"c__builtin__\neval\n", b"\x8e" + b"\xff" * 8,
            b"r" + b"\xff" * 4, b"PK\x01\x02", b"PK\x05\x06", b"cnumpy\nndarray\n", b"]q\x00h\x00a", b"}}u",
            b"ctorch\nFloatStorage\n"]


def seeds():
    shapes = pretraining_shapes(channels=1, hidden=2, embedding=2, blocks=(1, 1, 1, 1))
    state = filled({name: shape for name, shape in shapes.items() if "layer4" not in name and "layer3" not in name})
    optimizer = {"state": {0: {"b": np.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 3, "state_dict": state, "optimizer": optimizer}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder, tree = tmp_path_factory.mktemp("originals"), seeds()
    write_torch(str(folder / "zip"), tree)
    write_paddle(str(folder / "paddle"), tree)
    write_safetensors(str(folder / "safetensors"), tree["state_dict"])
    np.savez_compressed(folder / "npz.npz", **tree["state_dict"])
    (folder / "legacy").write_bytes(legacy_stream(tree))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mutate(data, generator):
    data = bytearray(data)
    # structure lies at the beginning of pickles and at the end of archives; weights in between are plain numbers
    zone = generator.choice([(0, len(data)), (0, min(len(data), 3000)), (max(0, len(data) - 3000), len(data))])
    for _ in range(generator.choice([1, 1, 1, 2, 4, 16])):
        if len(data) < 2:
            break
        at = generator.randrange(zone[0], zone[1]) % len(data)
        kind = generator.randrange(8)
        if kind == 0:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at] = generator.choice(INTERESTING)
        elif kind == 2:
            del data[at:at + generator.choice([1, 2, 8, 100])]
        elif kind == 3:
            data[at:at] = data[at:at + generator.choice([1, 4, 64])]
        elif kind == 4:
            data[at:at + 4] = struct.pack("<I", generator.choice([0, 1, 2 ** 16, 2 ** 31 - 1, 2 ** 32 - 1]))
        elif kind == 5:
            data[at:at] = generator.choice(SNIPPETS)
        elif kind == 6:
            data[at:at + 8] = struct.pack("<q", generator.choice([-1, 0, 2 ** 40, 2 ** 62, -2 ** 63]))
        else:
            del data[at:]
    return bytes(data)


def hammer(originals, tmp_path, count, seed, monkeypatch):
    calls = []
    for name in ("system", "popen", "execv"):
        monkeypatch.setattr(os, name, lambda *arguments, called=name: calls.append(called))

    def too_slow(*_):
        raise TimeoutError

    generator, path = random.Random(seed), tmp_path / "mutant"
    outcomes = {"read": 0, "refused": 0}
    before = restarted_peak()
    previous = signal.signal(signal.SIGALRM, too_slow)
    try:
        for number in range(count):
            name = generator.choice(sorted(originals))
            path.unlink(missing_ok=True)  # a map of the former file may still be alive
            path.write_bytes(mutate(originals[name], generator))
            signal.alarm(SECONDS_PER_FILE)
            try:
                recognise(read(path))
                outcomes["read"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"mutant {number} of '{name}' (seed {seed}): {error!r}") from error
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not calls
    assert peak_memory() - before < 300e6
    return outcomes


def test_mutated_files(originals, tmp_path, monkeypatch):
    outcomes = hammer(originals, tmp_path, 1000, 0, monkeypatch)
    assert outcomes["refused"] > 200 and outcomes["read"] > 30  # the mutations neither spare nor ruin every file


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_mutated_files(originals, tmp_path, monkeypatch, seed):
    hammer(originals, tmp_path, 5000, seed, monkeypatch)


@pytest.mark.slow
def test_hypothesis_pickles(tmp_path):
    """Sequences of opcodes and arguments that no writer makes."""
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    piece = strategies.one_of(
        strategies.sampled_from([bytes([code]) for code in b")]}(N.0123aebsuRtQ\x81\x85\x86\x87\x88\x89\x8f"
                                 b"\x90\x91\x92\x93\x94"]),
        strategies.sampled_from(SNIPPETS), strategies.binary(max_size=6),
        strategies.integers(0, 255).map(lambda n: b"h" + bytes([n % 4])),
        strategies.integers(0, 255).map(lambda n: b"q" + bytes([n % 4])),
        strategies.integers(0, 255).map(lambda n: b"K" + bytes([n])),
        strategies.sampled_from([b"X\x01\x00\x00\x00w", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
                                 b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"c__builtin__\ntuple\n"]))

    @hypothesis.settings(max_examples=5000, deadline=2000, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(strategies.lists(piece, max_size=60))
    def check(pieces):
        path = tmp_path / "x.pdparams"
        path.unlink(missing_ok=True)
        path.write_bytes(b"\x80\x02" + b"".join(pieces) + b".")
        try:
            read(path)
        except CheckpointError:
            pass

    check()
