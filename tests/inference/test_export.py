"""Exported models compute what the live ones do, for every kind of model."""
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import paddle
import pytest

import passl
import passl.inference.export as export_module
from passl.inference.export import export
from passl.inference.exported import main as exported_main
from passl.inference.exported import run_exported

SHAPE = [None, 3, 16, 16]


@pytest.mark.parametrize("source, output", [
    ("pretrained", "features"), ("pretrained", "embedding"), ("trained_probe", "logits")])
def test_parity(request, tmp_path, source, output):
    model = passl.get_model(str(request.getfixturevalue(source)))
    files = export(model, tmp_path / "deep" / "net", SHAPE, output)
    assert len(files) == 2 and all(file.is_file() for file in files)
    images = np.random.RandomState(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
    tensor = paddle.to_tensor(images)
    live = {"features": model.extract_feat, "logits": model, "embedding": lambda x: model([x])[0]}[output](tensor)
    np.testing.assert_allclose(run_exported(tmp_path / "deep" / "net", images), live.numpy(), atol=1e-5)


@pytest.mark.parametrize("name, options", [
    ("resnet10", {}), ("swav_resnet10_finetune", {"class_num": 4}),
    ("swav_resnet10_linearprobe", {"class_num": 4, "global_pooling": False, "use_bn": True})])
def test_every_head(tmp_path, name, options):
    model = passl.get_model(name, stem="small", base_channels=4, **options)
    model.card.has_classifier = True
    export(model, tmp_path / "net", SHAPE)
    images = paddle.rand([2, 3, 16, 16])
    np.testing.assert_allclose(run_exported(tmp_path / "net", images.numpy()), model(images).numpy(), atol=1e-5)


def test_the_check_finds_a_difference(tmp_path, monkeypatch):
    model = passl.get_model("resnet10", stem="small", base_channels=4)
    real = export_module.run_exported
    monkeypatch.setattr(export_module, "run_exported", lambda prefix, images: real(prefix, images) * 1.0001)
    with pytest.raises(RuntimeError, match="differs from the live one by"):
        export(model, tmp_path / "net", SHAPE)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    trunk = passl.get_model("resnet10", stem="small", base_channels=4)
    with pytest.raises(ValueError, match="no projection head"):
        export(trunk, tmp_path / "net", SHAPE, "embedding")
    headed = passl.get_model("swav_resnet10_pretrain", base_channels=4)
    with pytest.raises(ValueError, match="projection head of swav_resnet10_pretrain is untrained"):
        export(headed, tmp_path / "net", SHAPE, "embedding")
    with pytest.raises(ValueError, match="no classifier"):
        export(trunk, tmp_path / "net", SHAPE, "logits")
    with pytest.raises(ValueError, match="would be random"):
        export(passl.get_model("swav_resnet10_linearprobe", stem="small", base_channels=4), tmp_path / "net", SHAPE)
    with pytest.raises(ValueError, match="batch, 3, height, width"):
        export(trunk, tmp_path / "net", [None, 224, 224])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"passl\[onnx\]"):
        export(trunk, tmp_path / "net", SHAPE, export_type="onnx")


def test_onnx_is_run_and_compared(tmp_path, monkeypatch):
    """With stand-ins for paddle2onnx and onnxruntime, which are optional."""
    model = passl.get_model("resnet10", stem="small", base_channels=4)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name == "paddle2onnx" or find_spec(name, *rest))
    monkeypatch.setattr(paddle.onnx, "export", lambda network, prefix, **_: Path(f"{prefix}.onnx").write_text(""))
    factor = [1.0]

    class Session:
        def __init__(self, path, providers):
            assert Path(path).is_file()

        def get_inputs(self):
            return [types.SimpleNamespace(name="images")]

        def run(self, outputs, feed):
            return [model(paddle.to_tensor(feed["images"])).numpy() * factor[0]]

    monkeypatch.setitem(sys.modules, "onnxruntime", types.SimpleNamespace(InferenceSession=Session))
    assert export(model, tmp_path / "net", SHAPE, export_type="onnx") == [tmp_path / "net.onnx"]
    for factor[0] in (1.001, np.nan):
        with pytest.raises(RuntimeError, match="net.onnx is not usable"):
            export(model, tmp_path / "net", SHAPE, export_type="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="not checked against the live network"):
        export(model, tmp_path / "net", SHAPE, export_type="onnx")


@pytest.mark.parametrize("arguments, message", [
    (["nowhere", "images.npy", "out.npy"], "no exported model at nowhere"),
    (["nowhere", "flat.npy", "out.npy"], "wanted are normalised floats"), (["a", "missing.npy", "b"], "missing.npy")])
def test_running_exported_files_says_what_is_wrong(tmp_path, monkeypatch, arguments, message):
    from passl.inference.exported import main

    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros([1, 3, 8, 8], np.float32))
    np.save("flat.npy", np.zeros([8, 8, 3], np.uint8))
    assert message in main(arguments)


THREADS = """
import sys, numpy, os
from pathlib import Path
import paddle
from passl.inference import exported

before = exported.process_threads()
given = []
real = paddle.inference.Config.set_cpu_math_library_num_threads
paddle.inference.Config.set_cpu_math_library_num_threads = lambda self, n: (given.append(n), real(self, n))
images = numpy.zeros([1, 3, 16, 16], "float32")
prefix = Path(sys.argv[1])
exported.run_exported(prefix, images)
after = exported.process_threads()
exported.run_exported(prefix, images, threads=3)
print(before, after, exported.process_threads(), *given)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_predictor_runs_on_the_threads_of_the_process_and_leaves_them(tmp_path, threads):
    export(passl.get_model("resnet10", stem="small", base_channels=4), tmp_path / "net", SHAPE)
    done = subprocess.run([sys.executable, "-c", THREADS, str(tmp_path / "net")], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": threads}, check=True)
    assert done.stdout.split()[-5:] == [threads, threads, threads, threads, "3"]


def test_exporting_leaves_the_threads_of_the_process(tmp_path):
    from paddle.base import core

    from passl.inference.exported import process_threads

    before = process_threads()
    try:
        core.set_num_threads(2)
        export(passl.get_model("resnet10", stem="small", base_channels=4), tmp_path / "net", SHAPE)
        assert process_threads() == 2
    finally:
        core.set_num_threads(before)


def test_the_module_takes_threads(tmp_path):
    export(passl.get_model("resnet10", stem="small", base_channels=4), tmp_path / "net", SHAPE)
    np.save(tmp_path / "in.npy", np.zeros([2, 3, 16, 16], np.float32))
    call = [str(tmp_path / "net"), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    assert exported_main([*call, "--threads", "2"]) == "" and np.load(tmp_path / "out.npy").shape == (2, 32)
    for wrong in ([], [*call, "--threads", "0"]):
        with pytest.raises(SystemExit):
            exported_main(wrong)
    assert "wanted" in exported_main([str(tmp_path / "none"), *call[1:]])


def test_the_module_takes_a_folder_and_tells_the_rate(tmp_path, pictures, capsys):
    """As passl.embed prepares them, with a last batch that is filled up."""
    from passl.inference.card import evaluation_transform

    model = passl.get_model("resnet10", stem="small", base_channels=4)
    export(model, tmp_path / "net", SHAPE)
    call = [str(tmp_path / "net"), str(pictures / "val"), str(tmp_path / "out.npy"), "--size", "16"]
    assert exported_main([*call, "--batch-size", "4"]) == ""
    found = np.load(tmp_path / "out.npy")
    assert capsys.readouterr().out.startswith(f"{len(found)} images in ")
    model.card.transform = evaluation_transform(16)
    expected = passl.embed(model, sorted(map(str, (pictures / "val").rglob("*.png"))))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    (tmp_path / "empty").mkdir()
    assert "no images below" in exported_main([call[0], str(tmp_path / "empty"), call[2]])
