import pickle
import subprocess
import sys
import textwrap
from collections import Counter, OrderedDict

import numpy as np
import pytest

from passl.weights import CheckpointError, Inert, UnsafeCheckpoint, read, read_tree, widen
from passl.weights.formats.writers import write_paddle, write_safetensors, write_torch
from tests.weights.checkpoints import filled, legacy_stream, resnet_shapes

ARRAYS = OrderedDict(
    half=np.arange(6, dtype=np.float16).reshape(2, 3), brain=np.array([0x3FC0, 0xC000], np.uint16),
    single=np.linspace(-1, 1, 5, dtype=np.float32), double=np.array([1e300, np.pi]), long=np.array([2 ** 62, -1]),
    integer=np.array([[7]], np.int32), short=np.array([-3], np.int16), char=np.array([-128], np.int8),
    byte=np.array([255], np.uint8), flag=np.array([True, False]), scalar=np.array(2.5, np.float32),
    empty=np.zeros((0, 3), np.float32))


def write(path, kind, tree):
    if kind == "torch-legacy":
        path.write_bytes(legacy_stream(tree))
    else:
        {"torch-zip": write_torch, "paddle": write_paddle, "safetensors": write_safetensors}[kind](str(path), tree)


@pytest.mark.parametrize("kind", ["torch-zip", "torch-legacy", "paddle", "safetensors"])
def test_every_dtype_comes_back_bit_for_bit(tmp_path, kind):
    path = tmp_path / "weights"
    write(path, kind, ARRAYS)
    checkpoint = read(path)
    assert checkpoint.format == kind
    assert set(checkpoint.tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        read_back = checkpoint.tensors[name]
        assert (read_back.dtype, read_back.shape) == (array.dtype, array.shape), name
        assert read_back.tobytes() == array.tobytes(), name


def test_bfloat16_widens_to_its_values():
    assert widen(ARRAYS["brain"]).tolist() == [1.5, -2.0]


def test_npz_stored_and_compressed(tmp_path):
    arrays = {name: array for name, array in ARRAYS.items()}
    for writer in (np.savez, np.savez_compressed):
        writer(tmp_path / "weights.npz", **arrays)
        checkpoint = read(tmp_path / "weights.npz")
        assert checkpoint.format == "npz"
        for name, array in arrays.items():
            np.testing.assert_array_equal(checkpoint.tensors[name], array)


@pytest.mark.parametrize("kind", ["torch-zip", "torch-legacy", "paddle"])
def test_wrapped_checkpoint_splits_into_weights_and_the_rest(tmp_path, kind):
    state = {"module.a.weight": np.ones((2, 2), np.float32)}
    optimizer = {"state": {0: {"momentum_buffer": np.full(3, 2, np.float32)}},
                 "param_groups": [{"lr": 0.3, "params": [0]}]}
    write(tmp_path / "c", kind, {"epoch": 12, "state_dict": state, "optimizer": optimizer, "best_acc": (53.9, 78.5),
                                 "big": 2 ** 40, "negative": -5, "none": None, "yes": True})
    checkpoint = read(tmp_path / "c")
    assert checkpoint.wrapper == "state_dict" and list(checkpoint.tensors) == ["module.a.weight"]
    assert checkpoint.meta["epoch"] == 12 and checkpoint.meta["best_acc"] == (53.9, 78.5)
    assert (checkpoint.meta["big"], checkpoint.meta["negative"], checkpoint.meta["none"]) == (2 ** 40, -5, None)
    assert checkpoint.meta["yes"] is True and checkpoint.meta["optimizer"]["param_groups"][0]["lr"] == 0.3
    assert checkpoint.meta["optimizer"]["state"][0]["momentum_buffer"].tolist() == [2, 2, 2]


def test_nested_vissl_dictionaries_join_by_dots(tmp_path):
    inner = {"trunk": {"_feature_blocks.conv1.weight": np.ones(1, np.float32)},
             "heads": {"0.x": np.zeros(2, np.float32)}}
    write_torch(str(tmp_path / "v.torch"), {"classy_state_dict": {"base_model": {"model": inner, "meta": {}}}})
    assert sorted(read(tmp_path / "v.torch").tensors) == ["heads.0.x", "trunk._feature_blocks.conv1.weight"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_pickles_of_every_protocol(tmp_path, protocol):
    """paddle.save pickles numpy arrays; numpy 1 and 2 name their constructors differently."""
    tree = {"w": np.arange(700, dtype=np.float32).reshape(7, 100), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big_endian": np.array([1, 2], ">i4"), "scalar": np.float64(1.5), "n": np.int64(3),
            "set": {1, 2}, "frozen": frozenset({"a"}), "ordered": OrderedDict(x=1), "counts": Counter("aab"),
            "pair": ("name", np.ones(2)), "bytes": b"abc", "complex": 1 + 2j}
    data = pickle.dumps(tree, protocol)
    for old, new in ((b"numpy._core.multiarray", b"numpy.core.multiarray"),
                     (b"numpy.core.multiarray", b"numpy._core.multiarray")):
        swapped = data if old not in data or protocol >= 4 else data.replace(old, new)
        (tmp_path / "x.pdparams").write_bytes(swapped)
        tree_read = read_tree(tmp_path / "x.pdparams")
        for name in ("w", "f", "big_endian"):
            np.testing.assert_array_equal(tree_read[name], tree[name])
        assert tree_read["pair"].tolist() == [1, 1]  # Paddle's (name, tensor)
        assert (tree_read["scalar"], tree_read["n"], tree_read["complex"]) == (1.5, 3, 1 + 2j)
        assert tree_read["set"] == {1, 2} and tree_read["counts"] == {"a": 2, "b": 1} and tree_read["bytes"] == b"abc"


def test_arrays_that_paddle_cut_into_slices_are_joined(tmp_path):
    whole = np.arange(10, dtype=np.float32).reshape(2, 5)
    tree = {"w@@.0": whole.ravel()[:6], "w@@.1": whole.ravel()[6:], "b": np.ones(1, np.float32),
            "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 5), "slices": ["w@@.0", "w@@.1"]}}}
    (tmp_path / "big.pdparams").write_bytes(pickle.dumps(tree, 2))
    tensors = read(tmp_path / "big.pdparams").tensors
    assert sorted(tensors) == ["b", "w"]
    np.testing.assert_array_equal(tensors["w"], whole)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_files_of_paddle_itself(tmp_path, protocol):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.BatchNorm1D(4))
    optimizer = paddle.optimizer.Momentum(paddle.optimizer.lr.StepDecay(0.1, 5), parameters=layer.parameters())
    layer(paddle.ones([2, 3])).sum().backward()
    optimizer.step()
    paddle.save(layer.state_dict(), str(tmp_path / "m.pdparams"), protocol=protocol)
    paddle.save(optimizer.state_dict(), str(tmp_path / "m.pdopt"), protocol=protocol)
    tensors = read(tmp_path / "m.pdparams").tensors
    assert set(tensors) == set(layer.state_dict())
    for name, tensor in layer.state_dict().items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())
    assert read(tmp_path / "m.pdopt").meta["LR_Scheduler"]["last_lr"] == 0.1


def test_our_paddle_file_loads_in_paddle(tmp_path):
    paddle = pytest.importorskip("paddle")
    write_paddle(str(tmp_path / "m.pdparams"), {"w": ARRAYS["half"], "t": ARRAYS["single"][::2], "n": {"epoch": 3}})
    loaded = paddle.load(str(tmp_path / "m.pdparams"))
    np.testing.assert_array_equal(np.asarray(loaded["w"]), ARRAYS["half"])
    np.testing.assert_array_equal(np.asarray(loaded["t"]), ARRAYS["single"][::2])
    assert loaded["n"] == {"epoch": 3}


def test_real_safetensors_package_agrees(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {name: ARRAYS[name] for name in ("half", "single", "double", "long", "flag")}
    safetensors.save_file(arrays, str(tmp_path / "theirs.safetensors"), {"epoch": "3"})
    theirs = read(tmp_path / "theirs.safetensors")
    assert theirs.meta == {"epoch": "3"}
    write_safetensors(str(tmp_path / "ours.safetensors"), arrays)
    for tensors in (theirs.tensors, safetensors.load_file(str(tmp_path / "ours.safetensors"))):
        for name, array in arrays.items():
            np.testing.assert_array_equal(tensors[name], array)


def test_real_torch_agrees(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install torch to check against the files it writes")
    base = torch.arange(24.0).reshape(4, 6)
    tree = {"state_dict": {"rows": base[1:3, ::2], "turned": base.t(), "whole": base, "half": base.half(),
                           "brain": base.to(torch.bfloat16), "parameter": torch.nn.Parameter(base[0]),
                           "expanded": torch.ones(1).expand(5)}, "size": torch.Size([1, 2])}
    for modern, protocol in ((True, 2), (True, 5), (False, 2), (False, 3), (False, 4), (False, 5)):
        torch.save(tree, tmp_path / "t.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
        checkpoint = read(tmp_path / "t.pth")
        assert checkpoint.meta["size"] == (1, 2)
        for name, tensor in tree["state_dict"].items():
            expected = tensor.detach().float().numpy()
            np.testing.assert_array_equal(widen(checkpoint.tensors[name]).astype(np.float32), expected, err_msg=name)
    torch.save({"a": torch.tensor([1 + 2j]).conj()}, tmp_path / "lazy.pth")
    with pytest.raises(CheckpointError, match="conjugate or negative view"):
        read(tmp_path / "lazy.pth")
    write_torch(str(tmp_path / "ours.pth"), ARRAYS)
    for name, tensor in torch.load(tmp_path / "ours.pth", weights_only=True).items():
        array = tensor.view(torch.int16).numpy().view(np.uint16) if name == "brain" else tensor.numpy()
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_inert_classes_are_records_only_when_listed(tmp_path):
    (tmp_path / "c.pdparams").write_bytes(
        b"\x80\x02}(X\x06\x00\x00\x00configcmine\nConfig\n)\x81}X\x01\x00\x00\x00aK\x01sb"
        b"X\x05\x00\x00\x00statecmine\nState\n)Rq\x00(h\x00h\x00u"    # an ordered dictionary that holds itself
        b"X\x05\x00\x00\x00itemscmine\nItems\n)R(h\x00eu.")              # a list of it
    with pytest.raises(UnsafeCheckpoint, match="'mine.Config', 'mine.State', 'mine.Items'"):
        read(tmp_path / "c.pdparams")
    with pytest.raises(UnsafeCheckpoint, match="asks for 'mine.State', 'mine.Items'"):
        read(tmp_path / "c.pdparams", inert=["mine.Config"])
    meta = read(tmp_path / "c.pdparams", inert=["mine.Config", "mine.State", "mine.Items"]).meta
    assert [(type(record), record.name) for record in meta.values()] == [
        (Inert, "mine.Config"), (Inert, "mine.State"), (Inert, "mine.Items")]


def test_configurations_of_omegaconf_and_argparse_are_inert_without_asking(tmp_path):
    """What pickle writes for a DictConfig: its nodes point at their parent, and the metadata names types."""
    body = (b"\x80\x02}(X\x06\x00\x00\x00configcomegaconf.dictconfig\nDictConfig\nq\x00)\x81q\x01}("
            b"X\x07\x00\x00\x00_parenth\x01X\x04\x00\x00\x00typectyping\nAny\n"
            b"X\x04\x00\x00\x00kindc__builtin__\nlong\nub"
            b"X\x05\x00\x00\x00queueccollections\ndeque\n)K\x05\x86R(K\x01K\x02e"
            b"X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81}X\x02\x00\x00\x00lrK\x01sbu.")
    (tmp_path / "c.pdparams").write_bytes(body)
    meta = read(tmp_path / "c.pdparams").meta
    assert (meta["config"].name, meta["args"].name) == ("omegaconf.dictconfig.DictConfig", "argparse.Namespace")
    assert meta["queue"] == [1, 2]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_streams_of_every_pickle_protocol(tmp_path, protocol):
    (tmp_path / "m.pth").write_bytes(legacy_stream({"w": ARRAYS["single"]}, protocol))
    checkpoint = read(tmp_path / "m.pth")
    assert checkpoint.format == "torch-legacy"
    np.testing.assert_array_equal(checkpoint.tensors["w"], ARRAYS["single"])


@pytest.mark.parametrize("content, message", [
    (b"", "is empty"), (b"hello world, I am a text", "not a weight file"),
    (b"PK\x03\x04" + b"\0" * 40, "damaged zip"), (b"\x80\x02K\x01.", "holds a int")])
def test_other_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path / "x.pth")
    assert "x.pth" in str(error.value)


def test_tensors_are_views_of_the_file_not_copies(tmp_path):
    """Peak memory of reading is that of the pages touched: 40 MB of weights cost far less than 40 MB of heap."""
    state = filled({"a.weight": (2000, 2500), "b.weight": (2000, 2500)})
    write_torch(str(tmp_path / "m.pth"), state)
    script = textwrap.dedent("""
        import sys, tracemalloc
        import passl.weights
        tracemalloc.start()
        checkpoint = passl.weights.read(sys.argv[1])
        print(tracemalloc.get_traced_memory()[1], checkpoint.tensors["a.weight"].nbytes)
    """)
    peak, size = map(int, subprocess.check_output([sys.executable, "-c", script, str(tmp_path / "m.pth")]).split())
    assert size == 20_000_000 and peak < 1_000_000


@pytest.mark.dist
@pytest.mark.parametrize("legacy", [True, False], ids=["stream", "zip"])
def test_converting_a_checkpoint_takes_the_memory_of_its_weights_alone(tmp_path, legacy):
    """The bound of 1.2 times the weights that are kept, with an optimizer twice their size in the same file."""
    shapes = resnet_shapes((1, 1, 1, 1), 96, bottleneck=False)
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items() if "tracked" not in name}
    size = sum(array.nbytes for array in weights.values())
    tree = {"state_dict": weights, "optimizer": [np.ones(size // 4, np.float32) for _ in range(2)]}
    source = tmp_path / "m.pth.tar"
    source.write_bytes(legacy_stream(tree)) if legacy else write_torch(str(source), tree)
    script = textwrap.dedent("""
        import sys
        import passl.weights
        def kilobytes():
            return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
        before = kilobytes()
        passl.weights.convert_file(sys.argv[1], sys.argv[2])
        print(kilobytes() - before)
    """)
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out.pdparams")]
    assert int(subprocess.check_output(command)) * 1024 < 1.2 * size


def test_unneeded_storage_of_an_optimizer_is_tolerated(tmp_path):
    state = filled(resnet_shapes())
    momentum = {number: {"momentum_buffer": array} for number, array in enumerate(state.values())}
    tree = {"state_dict": state, "optimizer": {"state": momentum}}
    (tmp_path / "c.pth.tar").write_bytes(legacy_stream(tree))
    assert len(read(tmp_path / "c.pth.tar").tensors) == len(state)
