"""Files made to do harm: each must end in an error that names the problem, before anything runs or grows."""
import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from passl.weights import CheckpointError, UnsafeCheckpoint, read
from passl.weights.formats.writers import write_torch
from tests.weights.checkpoints import legacy_stream, peak_memory, restarted_peak, torch_pickle

REFERENCE = b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def archive(path, records, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in records.items():
            file.writestr(name, content)
    return path


def tensor_pickle(key=b"0", count=1, offset=0, shape=(1,), strides=(1,), metadata=b""):
    """data.pkl of one float tensor with the claims given."""
    def integer(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def integers(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    return (b"\x80\x02" + REFERENCE + b"X" + struct.pack("<I", len(key)) + key + b"X\x03\x00\x00\x00cpu"
            + integer(count) + b"tQ" + integer(offset) + integers(shape) + integers(strides) + b"\x89}"
            + metadata + b"tRs.")


@pytest.mark.parametrize("payload", [
    Call(__import__("os").system, "touch {}"), Call(eval, "open('{}', 'w')"), Call(exec, "open('{}', 'w')"),
    Call(__import__("subprocess").Popen, ["touch", "{}"]), Call(open, "{}", "w"),
    Call(getattr, __import__("os"), "system"), Call(__import__, "os"), Call(pickle.loads, b"N.")],
    ids=["system", "eval", "exec", "popen", "open", "getattr", "import", "loads"])
@pytest.mark.parametrize("container", ["plain", "zip", "legacy"])
def test_calls_are_refused_by_name_and_never_made(tmp_path, payload, container):
    witness = tmp_path / "executed"
    function, arguments = payload.reduced
    if any(arguments and not isinstance(a, (str, bytes, list)) for a in arguments):
        arguments = ("os", "system")
    arguments = tuple(a.format(witness) if isinstance(a, str) else [x.format(witness) for x in a] if isinstance(a, list)
                      else a for a in arguments)
    body = pickle.dumps({"state_dict": Call(function, *arguments)}, 2)
    path = tmp_path / "evil.pth"
    if container == "plain":
        path.write_bytes(body)
    elif container == "zip":
        archive(path, {"a/data.pkl": body, "a/version": b"3\n"})
    else:
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(head + body + pickle.dumps([], 2))
    with pytest.raises(UnsafeCheckpoint, match=function.__name__):
        read(path)
    assert not witness.exists()


@pytest.mark.parametrize("body, message", [
    (b"\x80\x04\x95" + struct.pack("<Q", 2 ** 60) + b"N.", "frame longer"),
    (b"\x80\x04\x8e" + struct.pack("<Q", 2 ** 40) + b"x.", "claims 1099511627776 bytes"),
    (b"\x80\x02X" + struct.pack("<I", 2 ** 32 - 1) + b"x.", "claims 4294967295 bytes"),
    (b"\x80\x02\x8b" + struct.pack("<I", 1000) + b"\xff" * 1000 + b".", "integer of 1000 bytes"),
    (b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.", "other than bytes"),
    (b"\x80\x02]q\x00h\x00a.", "without end"),
    (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "without end"),
    (b"\x80\x02(" + b"N" * 10 + b".", "Mark|NoneType"),
    (b"\x80\x02}]Ns.", "a list as dictionary key"),
    (b"\x80\x02N", "without its STOP"),
    (b"\x80\x02h\x07.", "damaged pickle"),
    (b"\x80\x02tttt.", "without its mark"),
    (b"\x80\x02\x82\x01.", "0x82 is not one"),
    (b"\x80\x02i__builtin__\neval\n.", "0x69 is not one"),
    (b"\x80\x00N.", "protocol 0"),
    (b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", "dtype 'O'"),
    (b"\x80\x02cnumpy\nndarray\n)R.", "called directly"),
    (b"\x80\x02X\x01\x00\x00\x00xQ.", "persistent id"),
    (b"\x80\x02cc\nc\n" * 1, "not a plain value"),
    (b"\x80\x02}(" + b"X\x01\x00\x00\x00a" * 3 + b"u.", "key without its value"),
])
def test_malformed_pickles_end_in_an_error(tmp_path, body, message):
    (tmp_path / "bad.pdparams").write_bytes(body)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "bad.pdparams")


def test_array_of_another_size_than_claimed(tmp_path):
    body = pickle.dumps({"w": np.zeros(4, np.float32)}, 2).replace(b"K\x04\x85", b"K\x40\x85")
    (tmp_path / "bad.pdparams").write_bytes(body)
    with pytest.raises(CheckpointError, match=r"claims 256 +bytes, the file holds 16"):
        read(tmp_path / "bad.pdparams")


def test_doubling_references_do_not_expand(tmp_path):
    """Thirty lists, each holding the previous one twice: 2**30 leaves in a few hundred bytes."""
    body = b"\x80\x02]q\x00" + b"".join(b"]q" + bytes([i]) + b"(h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"e"
                                        for i in range(1, 31)) + b"."
    (tmp_path / "bomb.pdparams").write_bytes(body)
    started = time.process_time()
    with pytest.raises(UnsafeCheckpoint, match="exhaust memory"):
        read(tmp_path / "bomb.pdparams")
    assert time.process_time() - started < 10


def test_repeated_copies_of_a_list_are_charged(tmp_path):
    body = (b"\x80\x02](" + b"N" * 50_000 + b"eq\x00" + b"0](" + b"c__builtin__\ntuple\nh\x00\x85R" * 2000 + b"e.")
    (tmp_path / "bomb.pdparams").write_bytes(body)
    with pytest.raises(UnsafeCheckpoint, match="exhaust memory"):
        read(tmp_path / "bomb.pdparams")


@pytest.mark.parametrize("claims, message", [
    (dict(count=2 ** 40), "claims 4398046511104 bytes"),
    (dict(key=b"../../etc/passwd"), "not in the archive"),
    (dict(key=b"9"), "not in the archive"),
    (dict(offset=1), "reaches element 1 of a storage of 1"),
    (dict(offset=-1), "impossible shape"),
    (dict(shape=(2 ** 40,), strides=(0,)), "many times the bytes"),
    (dict(shape=(2,), strides=(2 ** 50,)), "reaches element"),
    (dict(shape=(2,), strides=(-1,)), "impossible shape"),
    (dict(shape=(2, 2), strides=(1,)), "different length"),
    (dict(shape=(2 ** 61, 2 ** 61), strides=(0, 0)), "many times the bytes"),
    (dict(shape=(1,) * 40, strides=(1,) * 40), "impossible shape"),
    (dict(shape=(0, 2 ** 61, 2 ** 61), strides=(0, 0, 0)), "impossible shape"),
    (dict(metadata=b"}X\x04\x00\x00\x00conj\x88s"), "conjugate or negative view"),
])
def test_tensors_cannot_leave_their_storage(tmp_path, claims, message):
    path = archive(tmp_path / "t.pth", {"a/data.pkl": tensor_pickle(**claims), "a/data/0": b"\0" * 4})
    with pytest.raises(CheckpointError, match=message):
        read(path)


@pytest.mark.parametrize("claims", [{}, dict(strides=(2 ** 61,)), dict(metadata=b"}"), dict(metadata=b"N")],
                         ids=["plain", "unused stride", "no flags", "no metadata"])
def test_the_same_tensor_with_true_claims_reads(tmp_path, claims):
    name = "2024-01-01T10:20:30"  # torch.save names the folder after the file
    path = archive(tmp_path / "t.pth", {f"{name}/data.pkl": tensor_pickle(**claims),
                                        f"{name}/data/0": struct.pack("<f", 1.5)})
    assert read(path).tensors["w"].tolist() == [1.5]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "..\\x", "C:\\x", "c:/x"])
def test_paths_out_of_the_archive(tmp_path, name):
    path = archive(tmp_path / "t.pth", {"a/data.pkl": b"\x80\x02}.", name: b"x"})
    with pytest.raises(UnsafeCheckpoint, match="leads outside"):
        read(path)


def test_zip_bomb(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.zeros(30_000_000, np.uint8))
    path = archive(tmp_path / "bomb.npz", {"w.npy": content.getvalue()}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeCheckpoint, match="would inflate"):
        read(path)


def test_zip_bomb_that_hides_its_size(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.zeros(3_000_000, np.uint8))
    path = archive(tmp_path / "bomb.npz", {"w.npy": content.getvalue()}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for position in (22, data.index(b"PK\x01\x02") + 24):
        data[position:position + 4] = struct.pack("<I", 1000)
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="has 1001 bytes, claims 1000"):
        read(path)


def test_object_arrays_and_torchscript_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", w=np.array([{}], object))
    with pytest.raises(UnsafeCheckpoint, match="object array"):
        read(tmp_path / "o.npz")
    path = archive(tmp_path / "s.pt", {"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"\x80\x02)."})
    with pytest.raises(UnsafeCheckpoint, match="TorchScript"):
        read(path)


@pytest.mark.parametrize("description", ["('<f4', (2,))", "'|V0'", "'|V4'", "[('a', '<f4')]", "'<U4'", "'<M8[s]'"])
def test_numpy_archives_hold_numbers_only(tmp_path, description):
    header = f"{{'descr': {description}, 'fortran_order': False, 'shape': (2,), }}\n".encode()
    archive(tmp_path / "x.npz", {"w.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 16})
    with pytest.raises(CheckpointError, match=r"x.npz: 'w.npy' has dtype .*; weights are numbers"):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("header, message", [
    (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "claims 8"),
    (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', "expected to start at 0"),
    (b'{"w":{"dtype":"F8","shape":[4],"data_offsets":[0,4]}}', "unsupported dtype"),
    (b'{"w":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}', "unsupported dtype"),
    (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4,9]}}', "3 offsets"),
    (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":4}}', "1 offsets"),
    (b'{"w":{"dtype":"F32","shape":[0,%d,%d],"data_offsets":[0,0]}}' % (2 ** 61, 2 ** 61), "impossible shape"),
    (b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{}}', "twice"),
    (b'{"w":' + b"[" * 100_000, "damaged"), (b'{"w":3}', "damaged"), (b"{}", "4 bytes after")])
def test_malformed_safetensors(tmp_path, header, message):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "x.safetensors")


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path):
    write_torch(str(tmp_path / "m.pth"), {"w": np.ones(1000, np.float32)})
    data = bytearray((tmp_path / "m.pth").read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 900) + 1500] ^= 16
    (tmp_path / "m.pth").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        read(tmp_path / "m.pth")
    assert read(tmp_path / "m.pth", check_sums=False).tensors["w"].shape == (1000,)


def test_truncated_legacy_stream_names_the_storage(tmp_path):
    stream = legacy_stream({"w": np.ones(1000, np.float32)})
    (tmp_path / "m.pth.tar").write_bytes(stream[:-100])
    with pytest.raises(CheckpointError, match="storage '0' claims 1000 elements"):
        read(tmp_path / "m.pth.tar")


PAYLOAD = 4 << 20
DTYPE = "cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00{}NNN" \
    "J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def shared_array(order="<"):
    """Opcodes that memoise (0) a payload of 4 MB and (1) a dtype, and those that make an array of both."""
    start = (b"\x80\x03B" + struct.pack("<I", PAYLOAD) + b"\0" * PAYLOAD + b"q\x000"
             + DTYPE.format(order).encode("latin-1") + b"q\x010")
    return start, (b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01J" + struct.pack("<i", PAYLOAD // 4) + b"\x85"
                   + text("C") + b"tR")


def repeated_payload():
    return (b"\x80\x03}(" + text("a") + b"](B" + struct.pack("<I", PAYLOAD) + b"\0" * PAYLOAD + b"q\x00"
            + b"h\x00" * 300 + b"eu.")


def repeated_big_endian_arrays():
    start, array = shared_array(">")
    return start + b"}(" + b"".join(text(f"k{i}") + array for i in range(300)) + b"u."


def repeated_views():
    start, array = shared_array()
    return start + array + b"q\x020}(" + b"".join(text(f"k{i}") + b"h\x02" for i in range(300)) + b"u."


def repeated_slices():
    start, array = shared_array()
    names = [text(f"w@@.{i}") for i in range(20)]
    return (start + array + b"q\x020}(" + b"".join(name + b"h\x02" for name in names) + text("UnpackBigParamInfor@@")
            + b"}(" + text("w") + b"}(" + text("OriginShape") + b"J" + struct.pack("<i", 20 * PAYLOAD // 4) + b"\x85"
            + text("slices") + b"(" + b"".join(names) + b"tuuu.")


def colliding_keys(count=100_000):
    modulus = (1 << 61) - 1
    return b"\x80\x04}(" + b"".join(b"\x8a\x0b" + (n * modulus).to_bytes(11, "little") + b"N"
                                    for n in range(count)) + b"u."


def tuple_keys():
    return b"\x80\x04}(" + b"".join(b"K\x00K\x01\x86N" for _ in range(10)) + b"u."


@pytest.mark.parametrize("make, message", [
    (lambda: b"\x80\x02" + b"}" * 2_000_000, "exhaust memory"),
    (lambda: b"\x80\x04](" + b"\x8f" * 2_000_000 + b"e.", "exhaust memory"),
    (lambda: b"\x80\x04N" + b"\x94" * 2_000_000 + b".", "exhaust memory"),
    (lambda: b"\x80\x02ccollections\nOrderedDict\nq\x00" + b"h\x00)R" * 500_000 + b".", "exhaust memory"),
    (repeated_payload, "exhaust memory"), (repeated_big_endian_arrays, "exhaust memory"),
    (repeated_views, "many times the bytes"), (repeated_slices, "exhaust memory"),
    (colliding_keys, "the number 2305843009213693951 as dictionary key"), (tuple_keys, "a tuple as dictionary key"),
    (lambda: b"\x80\x04\x8f(" + b"G" + struct.pack(">d", float("nan")) + b"\x90.", "the number nan"),
    (lambda: b"\x80\x04(K\x01K\x02\x86\x91.", "a tuple as dictionary key or set element"),
    (lambda: b"\x80\x02c__builtin__\nset\n](K\x01K\x02\x86e\x85R.", "a tuple as dictionary key or set element"),
    (lambda: b"\x80\x02}(" + text("state_dict") + b"}(" + text("a" * 100_000) + b"}(" + text("b")
     + b"".join(shared_array())[2:] + b"uuu.", "a name of 100000 characters"),
], ids=["dicts", "sets", "memo", "calls", "payload", "big-endian", "views", "slices", "colliding", "tuples", "nan",
        "frozenset", "set-call", "names"])
def test_small_files_cannot_exhaust_memory_or_time(tmp_path, make, message):
    (tmp_path / "x.pdparams").write_bytes(make())
    before, started = restarted_peak(), time.process_time()
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "x.pdparams")
    assert peak_memory() - before < 150e6
    assert time.process_time() - started < 10


def test_storage_described_in_two_ways(tmp_path):
    body, _ = torch_pickle({"a": np.ones(4, np.float32)})
    twice = body[:-1].replace(b"}(", b"](") + body[3:-1].replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x000")
    path = archive(tmp_path / "t.pth", {"a/data.pkl": twice + b"e.", "a/data/0": b"\0" * 16})
    with pytest.raises(CheckpointError):
        read(path)
