"""Programs that run a network in place of the live one: the same outputs, and a way back when they fail."""
import importlib.util
import logging
import stat
import sys

import numpy as np
import paddle
import pytest

import passl
from passl.data.sources import ImageFiles
from passl.errors import NotFinite
from passl.inference import backends, forward, trial
from passl.inference.engine import Engine
from passl.models.build import build_network
from passl.registry import BACKBONES

SMALL = {"type": "resnet10", "base_channels": 4, "stem": "small"}
NETWORKS = {
    "trunk": (SMALL, "trunk", {}),
    "imagenet stem": ({**SMALL, "stem": "imagenet"}, "trunk", {}),
    "bottleneck": ({**SMALL, "type": "resnet50"}, "trunk", {}),
    "projection head without prototypes": ({**SMALL, "hidden_mlp": 16, "output_dim": 8}, "trunk", {}),
    "prototypes": ({**SMALL, "normalize": True, "hidden_mlp": 16, "output_dim": 8, "nmb_prototypes": 5}, "pretrain",
                   {}),
    "several prototype heads": ({**SMALL, "normalize": True, "hidden_mlp": 16, "output_dim": 8,
                                 "nmb_prototypes": [5, 3]}, "pretrain", {}),
    "head without batch norm": ({**SMALL, "hidden_mlp": 16, "output_dim": 8, "nmb_prototypes": 5,
                                 "head_batch_norm": False}, "pretrain", {}),
    "head of one layer": ({**SMALL, "output_dim": 8, "nmb_prototypes": 5}, "pretrain", {}),
    "SeLa's heads": ({**SMALL, "nmb_prototypes": [6, 6, 4]}, "cluster heads", {}),
    "linear probe": (SMALL, "linearprobe", {"class_num": 7}),
    "linear probe on four positions, batch norm": ({**SMALL, "global_pooling": False}, "linearprobe",
                                                   {"class_num": 7, "global_pooling": False, "use_bn": True}),
    "fine-tuned": (SMALL, "finetune", {"class_num": 7}),
}


def randomised(backbone, kind="trunk", **options):
    """A network whose batch norms do something, as after training."""
    paddle.seed(3)
    network = build_network(backbone, kind, **options)
    random = np.random.RandomState(3)
    for layer in network.sublayers():
        if isinstance(layer, (paddle.nn.BatchNorm1D, paddle.nn.BatchNorm2D)):
            for tensor, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -0.3, 0.3), (layer._mean, -0.3, 0.3),
                                      (layer._variance, 0.5, 1.5)):
                tensor.set_value(random.uniform(low, high, tensor.shape).astype("float32"))
    return network


def pictures_of(count, height=33, width=47):
    return np.random.RandomState(0).normal(size=[count, 3, height, width]).astype("float32")


@pytest.fixture
def no_trials(monkeypatch):
    """As if every back end had been tried before: a child process takes seconds."""
    monkeypatch.setattr(forward, "recall", lambda: dict.fromkeys([trial_key], ""))
    monkeypatch.setattr(forward, "network_key", lambda *arguments: trial_key)


trial_key = "tried"


def require(backend):
    missing = backends.BACKENDS[backend].missing()
    if missing:
        pytest.skip(f"{' and '.join(missing)} wanted: pip install 'passl[fast]'")


def assert_same_outputs(network, images, backend, batch_size):
    names = list(network.output_heads)
    engine = Engine(network, batch_size, backend=backend)
    found = engine.run(images, names)
    assert engine.used.startswith(backend)
    expected = Engine(network, batch_size, backend="eager").run(images, names)
    assert list(found) == names
    for name in names:
        assert forward.difference_of({name: found[name]}, {name: expected[name]}) <= forward.TOLERANCE, name
    return found


@pytest.mark.parametrize("backend", ["paddle", pytest.param("onnxruntime", marks=pytest.mark.slow),
                                     pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", NETWORKS)
def test_every_head_gives_what_the_live_network_gives(case, backend, no_trials):
    """At an odd size, with a last batch that is filled up."""
    require(backend)
    backbone, kind, options = NETWORKS[case]
    network = randomised({key: value for key, value in backbone.items() if key != "global_pooling"}, kind, **options)
    size = (24, 24) if "four positions" in case else (33, 47)
    assert_same_outputs(network, pictures_of(8, *size), backend, batch_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["paddle", "onnxruntime", "openvino"])
@pytest.mark.parametrize("trunk", BACKBONES.names(aliases=False))
def test_every_trunk_gives_what_the_live_network_gives(trunk, backend, no_trials):
    require(backend)
    narrow = {"base_channels": 4} if "base_channels" in BACKBONES.parameters(trunk) else {}
    assert_same_outputs(randomised({"type": trunk, **narrow}), pictures_of(5, 65, 71), backend, batch_size=4)


@pytest.mark.parametrize("batch_size, count", [(1, 3), (2, 2), (5, 7), (16, 3)])
def test_batches_of_any_shape(batch_size, count, no_trials):
    network = randomised(SMALL)
    found = assert_same_outputs(network, pictures_of(count, 16, 16), "paddle", batch_size)
    assert found["features"].shape == (count, network.num_features)


def test_a_batch_of_another_size_is_the_live_network_s(no_trials):
    network = randomised(SMALL)
    pictures = [*pictures_of(4, 16, 16), *pictures_of(2, 20, 24)]
    found = Engine(network, 2, backend="paddle").run(pictures)["features"]
    expected = Engine(network, 2, backend="eager").run(pictures)["features"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_network_is_left_as_it_was(no_trials):
    network = randomised(*NETWORKS["prototypes"][:2])
    network.train()
    before = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    Engine(network, 2, backend="paddle").run(pictures_of(6, 16, 16), ("features", "scores"))
    assert all(layer.training for layer in network.sublayers())
    for name, tensor in network.state_dict().items():
        assert np.array_equal(tensor.numpy(), before[name]), name
    network(paddle.to_tensor(pictures_of(2, 16, 16)))[1].sum().backward()  # still a network that can be trained
    assert network.trunk.conv1.weight.grad is not None


# ------------------------------------------------------------------------------------------------- the choice
def test_few_images_start_no_program(monkeypatch, caplog):
    def refuse(*arguments):
        raise AssertionError("a program was built")

    monkeypatch.setattr(forward, "write_program", refuse)
    caplog.set_level(logging.INFO)
    engine = Engine(randomised(SMALL), 2)
    engine.run(pictures_of(6, 16, 16))
    assert engine.used == "eager" and "engine: eager; the 4 images left take about 0 s" in caplog.text


def test_many_images_start_one_and_a_line_names_it(monkeypatch, caplog, no_trials):
    monkeypatch.setattr(forward, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(forward, "BACKENDS", {"paddle": backends.PaddleInference})
    caplog.set_level(logging.INFO)
    engine = Engine(randomised(SMALL), 2)
    engine.run(pictures_of(6, 16, 16))
    assert engine.used == f"paddle (Paddle {paddle.__version__})"
    lines = [record.message for record in caplog.records if record.message.startswith("engine:")]
    assert len(lines) == 1 and engine.used in lines[0] and "batches of 2" in lines[0]


def test_mixed_precision_and_functions_are_the_live_network_s():
    engine = Engine(randomised(SMALL), 2, backend="paddle")
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        if not forward.autocast_is_on():
            pytest.skip("this processor has no bfloat16")
        list(engine.stream(pictures_of(4, 16, 16)))
    assert engine.used == "eager"


def test_unknown_and_missing_engines_are_refused(monkeypatch):
    network = randomised(SMALL)
    with pytest.raises(ValueError, match="no engine 'tensorrt'; choose auto, paddle, onnxruntime, openvino, eager"):
        Engine(network, backend="tensorrt")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ValueError, match=r"onnxruntime needs onnxruntime.*pip install 'passl\[fast\]'"):
        Engine(network, backend="onnxruntime")
    Engine(network, backend="auto")


# ------------------------------------------------------------------------------------------------- faults
def fake(monkeypatch, change):
    """Back end 'paddle' whose outputs pass through change(call number, outputs)."""
    class Fake(backends.PaddleInference):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            return change(self.calls, super().__call__(images))

    monkeypatch.setitem(backends.BACKENDS, "paddle", Fake)


def test_wrong_outputs_are_noticed_on_the_first_batch(monkeypatch, no_trials):
    fake(monkeypatch, lambda call, outputs: [output * 1.001 for output in outputs])
    network, images = randomised(SMALL), pictures_of(6, 16, 16)
    with pytest.warns(UserWarning, match=rf"engine paddle \(Paddle {paddle.__version__}\) is not used: its features "
                                         "differ from the live network's by 1e-03 of the largest value"):
        found = Engine(network, 2, backend="paddle").run(images)["features"]
    assert np.array_equal(found, Engine(network, 2, backend="eager").run(images)["features"])


def raising(call, outputs):
    if call == 3:
        raise RuntimeError("the library\ngave up")
    return outputs


@pytest.mark.parametrize("change, said", [
    (lambda call, outputs: [output * (np.nan if call == 3 else 1) for output in outputs], "gives NaN or infinity"),
    (raising, "failed after the first batches: gave up")])
def test_a_later_fault_leaves_the_rest_to_the_live_network(monkeypatch, no_trials, change, said):
    fake(monkeypatch, change)
    network, images = randomised(SMALL), pictures_of(10, 16, 16)
    engine = Engine(network, 2, backend="paddle")
    with pytest.warns(UserWarning, match=said):
        found = engine.run(images)["features"]
    assert engine.used == "eager"
    expected = Engine(network, 2, backend="eager").run(images)["features"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_nan_from_the_first_batch_is_never_the_same(monkeypatch, no_trials):
    fake(monkeypatch, lambda call, outputs: [output * np.nan for output in outputs])
    with pytest.warns(UserWarning, match="differ from the live network's by nan"):
        assert np.isfinite(Engine(randomised(SMALL), 2, backend="paddle").run(pictures_of(4, 16, 16))["features"]).all()


def test_a_network_of_nan_is_reported_and_not_the_engine(no_trials, recwarn):
    network = randomised(*NETWORKS["fine-tuned"][:2], class_num=7)
    head = network.heads()["projection_head"]
    head.weight.set_value(np.full(head.weight.shape, np.nan, "float32"))
    with pytest.raises(NotFinite, match="gives NaN or infinity"):
        Engine(network, 2, backend="paddle").run(pictures_of(4, 16, 16), ("logits",))
    assert not [one for one in recwarn if "engine" in str(one.message)]


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("PASSL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_crash_takes_only_the_child_and_is_remembered(monkeypatch, home, tmp_path):
    child_of(monkeypatch, tmp_path, f"echo called >> {tmp_path / 'calls'}\nkill -SEGV $$")
    network, images = randomised(SMALL), pictures_of(4, 16, 16)
    expected = Engine(network, 2, backend="eager").run(images)["features"]
    for said in ("is not used: ended by SIGSEGV", "is not used: it ended by SIGSEGV with this network before; remove "
                 f"{home / 'engines.json'} to try again"):
        with pytest.warns(UserWarning, match=said):
            assert np.array_equal(Engine(network, 2, backend="paddle").run(images)["features"], expected)
    assert (tmp_path / "calls").read_text().split() == ["called"]
    monkeypatch.setattr(paddle, "__version__", "another")  # and its answer may be another
    with pytest.warns(UserWarning, match="another.*is not used: ended by SIGSEGV"):
        Engine(network, 2, backend="paddle").run(images)


def test_what_worked_is_tried_in_a_child_once(monkeypatch, home):
    tried = []
    run = forward.run_trial
    monkeypatch.setattr(forward, "run_trial", lambda *arguments: (tried.append(arguments[0].name), run(*arguments)))
    network = randomised(*NETWORKS["several prototype heads"][:2])
    for _ in range(2):
        engine = Engine(network, 2, backend="paddle")
        engine.run(pictures_of(4, 16, 16), ("features", "scores"))
        assert engine.used.startswith("paddle")
    assert tried == ["paddle"] and list(trial.recall().values()) == [""]


def child_of(monkeypatch, tmp_path, script):
    """A child process that does what a shell script says."""
    path = tmp_path / "child"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(trial.sys, "executable", str(path))


def test_a_child_that_raises_hangs_or_is_interrupted_says_so(monkeypatch, tmp_path):
    python = sys.executable  # a shell could not take a signal that whoever started the tests has set to be ignored
    child_of(monkeypatch, tmp_path, "echo Traceback; echo 'ImportError: of another version'; echo; exit 1")
    with pytest.raises(trial.TrialFailed, match="^ImportError: of another version$"):
        trial.run_trial(backends.PaddleInference, tmp_path, 1)
    child_of(monkeypatch, tmp_path, f"exec {python} -c 'import os, signal; signal.signal(signal.SIGINT, "
             "signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)'")
    with pytest.raises(KeyboardInterrupt):
        trial.run_trial(backends.PaddleInference, tmp_path, 1)
    monkeypatch.setattr(trial, "SECONDS", 0.05)
    child_of(monkeypatch, tmp_path, "exec sleep 5")
    with pytest.raises(trial.TrialFailed, match="did not answer within 0 s"):
        trial.run_trial(backends.PaddleInference, tmp_path, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"key": 1}'])
def test_a_damaged_memory_is_no_memory(home, content):
    home.mkdir()
    (home / "engines.json").write_text(content)
    trial.remember("other", "ended by SIGSEGV")
    assert trial.recall()["other"] == "ended by SIGSEGV"


def test_a_memory_that_cannot_be_written_is_tried_again(home):
    home.write_text("a file, and no folder")
    trial.remember("key", "")
    assert trial.recall() == {}


def test_passl_embed_names_the_engine_and_goes_on_with_another(tmp_path, pictures, monkeypatch, caplog, no_trials):
    network = randomised(SMALL)
    network.card = passl.get_model("resnet10", base_channels=4, stem="small").card
    caplog.set_level(logging.INFO)
    from passl.inference import embed

    monkeypatch.setattr(embed, "SAVE_SECONDS", 0.0)
    batches = iter(range(2))
    run = forward.Forward.__call__

    def interrupted(self, images):
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return run(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(forward.Forward, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            passl.embed_folder(network, pictures / "train", tmp_path / "out", batch_size=3, engine="eager")
    result = passl.embed_folder(network, pictures / "train", tmp_path / "out", batch_size=3, engine="paddle")
    assert result.continued_from == 6 and "the first 6 rows were made by eager, the others by paddle" in caplog.text
    expected = passl.embed(network, pictures / "train", engine="eager")
    found = np.load(tmp_path / "out" / "features.npy")
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_memory_stays_flat(tmp_path, picture, no_trials):
    """Over 20,000 files: what a pass holds does not grow with the images that it has seen."""
    psutil = pytest.importorskip("psutil", reason="psutil wanted: pip install psutil")
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "one.png")
    network = randomised(SMALL)
    network.card = passl.get_model("resnet10", base_channels=4, stem="small").card
    network.card.transform = [{"Resize": {"size": [16, 16]}}, {"Normalize": {"mean": 0.5, "std": 0.25}}]
    files = ImageFiles([str(tmp_path / "one.png")] * 20000)
    held = []
    for batch in Engine(network, 50, workers=1, backend="paddle").stream(files):
        if batch.start % 4000 == 0:
            held.append(psutil.Process().memory_info().rss / 2 ** 20)
    assert held[-1] - held[1] < 20, held  # MiB; the images alone are 15 of each 4000
