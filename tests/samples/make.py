"""Makes the sample files of this folder, with the code of the commit before the restructuring.

    git worktree add /tmp/before c357fc4        # "Convolution: kernels of one with padding; a figure timed by hand ..."
    PYTHONPATH=/tmp/before python tests/samples/make.py              # from the repository's root
    PYTHONPATH=/tmp/before python tests/samples/make.py --measure    # how far losses move between processors

They stand for what users have on their disks: later code must read and continue them, which test_read_samples.py
checks. So they are made once and stay; a change of format on purpose adds samples beside them and keeps these. The
first command refuses to run with other code than that commit's.

runs/<sample>/<Model.name>/ is a run stopped in the middle of an epoch, as it was left; images/ is not stored but
written anew by `write_images` wherever a sample is used, and every path in a config is relative to their parent.
continued.json has the losses of the steps from there to the end, by the same code.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMIT = "c357fc4"
IMAGES, CLASSES, SIZE = 16, 2, 32


def write_images(folder: Path) -> Path:
    """16 images of 32 pixels in two class folders, of whole numbers only: the same on every machine."""
    import numpy as np
    from PIL import Image

    rows, columns, colours = np.mgrid[0:SIZE, 0:SIZE, 0:3]
    for number in range(IMAGES):
        label = number % CLASSES
        across, down = 2 + number % 5, 1 + number % 3
        waves = (rows * down + columns * across + colours * (11 + 7 * number)) % 64
        squares = (rows // (3 + number % 4) + columns // (4 + label * 3)) % 2
        pixels = 30 + waves * 2 + squares * 40 + (colours == label) * 50
        path = folder / f"class_{label}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


# ---------------------------------------------------------------------------------------------------------- recipes
# Two base channels: what is to be read is the format, and a hundred arrays of it. Small rates: networks as small as
# these multiply rounding errors in every step, and the losses should tell the same story on every processor. For that
# no jitter of colours either: without AVX2 OpenCV rounds one pixel in seven of it otherwise, which moved losses by
# 1.6 %. Of the other operations it was 3 pixels of 115,200 by 1 of 255, and none between OpenCV 4.11 and 5.0.
TRUNK = "type: resnet10, stem: small, base_channels: 2"
HEAD = f"{TRUNK}, normalize: True, hidden_mlp: 6, output_dim: 6"
PRETRAINING = """
Global: {{epochs: 3, output_dir: runs/{sample}, device: cpu, progress: lines, print_batch_step: 1, seed: 5,
         max_num_latest_checkpoint: {keep}, max_train_step: {stop}{more}}}
Model: {model}
Optimizer: {{name: MomentumLARC, weight_decay: 1e-6, lr: {{name: TimmCosine, learning_rate: 0.05}}}}
DataLoader:
  Train:
    dataset: {{name: SwAVMultiCropDataset, root: images, size_crops: [16, 12], num_crops: [2, 2],
              min_scale_crops: [0.4, 0.2], max_scale_crops: [1.0, 0.5], jitter_probability: 0.0}}
    sampler: {{name: DistributedBatchSampler, batch_size: {batch}, shuffle: True, drop_last: True}}
    loader: {{num_workers: 0}}
{rest}"""
QUERIES = """  Eval:
    dataset: {name: ImageFolder, root: images, transform: [Resize: {size: 16}, Normalize: {mean: 0.5, std: 0.25}]}
    sampler: {name: DistributedBatchSampler, batch_size: 4}
    loader: {num_workers: 0}
"""
CLASSIFICATION = """
Global: {{epochs: 3, output_dir: runs/{sample}, device: cpu, progress: lines, print_batch_step: 1, seed: 5,
         train_loop: ClassificationTrainingEpochLoop, validate_loop: ClassificationEvaluationLoop,
         max_num_latest_checkpoint: {keep}, max_train_step: {stop}, eval_during_train: True,
         pretrained_model: runs/swav/SwAV/latest{more}}}
Model: {model}
Loss: {{Train: [{{CELoss: {{weight: 1.0}}}}], Eval: [{{CELoss: {{weight: 1.0}}}}]}}
Optimizer: {rest}
DataLoader:
  Train:
    dataset: {{name: ImageFolder, root: images,
              transform: [RandomHorizontalFlip, Normalize: {{mean: 0.5, std: 0.25}}]}}
    sampler: {{name: DistributedBatchSampler, batch_size: {batch}, shuffle: True}}
    loader: {{num_workers: 0}}
""" + QUERIES.replace("{", "{{").replace("}", "}}") + """
Metric: {{Train: [{{TopkAcc: {{topk: [1]}}}}], Eval: [{{TopkAcc: {{topk: [1]}}}}]}}
"""
SWAV = f"{{name: SwAV, queue_length: 8, epoch_queue_starts: 1, freeze_prototypes_niters: 2, " \
       f"backbone: {{{HEAD}, nmb_prototypes: 5}}}}"
CLUSTERS = f"{{name: DeepClusterV2, backbone: {{{HEAD}, nmb_prototypes: [3, 4]}}}}"

# sample: (template, what is filled in); 4 steps an epoch, so that step 6 is in the middle of the second.
RECIPES = {
    # With a best checkpoint, an epoch's, and the online probe's weights.
    "swav": (PRETRAINING, {"model": SWAV, "more": ", online_probe: True", "keep": 1, "rest": QUERIES}),
    "swav_queue": (PRETRAINING, {"model": SWAV, "more": ", accum_steps: 2"}),
    "deepcluster_v2": (PRETRAINING, {"model": CLUSTERS}),
    "sela_v2": (PRETRAINING, {"model": f"{{name: selav2_resnet10_pretrain, backbone: {{{HEAD}, "
                                       "nmb_prototypes: [3, 4]}}"}),
    "sela": (PRETRAINING, {"model": f"{{name: SeLa, label_optimizations: 6, exponent: 10.0, backbone: {{{TRUNK}, "
                                    "nmb_prototypes: [3, 4]}}"}),
    "unmix_swav": (PRETRAINING, {"model": SWAV.replace("SwAV", "unmix_swav_resnet10_pretrain")}),
    "linear_probe": (CLASSIFICATION, {
        "model": f"{{name: swav_resnet10_linearprobe, backbone: {{{TRUNK}, output_dim: 0, eval_mode: True}}, "
                 "class_num: 2}",
        "rest": "{name: Momentum, momentum: 0.9, weight_decay: 1e-6, lr_decay_unit: epoch, "
                "lr: {name: TimmCosine, learning_rate: 0.05}}"}),
    "finetune": (CLASSIFICATION, {
        "model": f"{{name: swav_resnet10_finetune, backbone: {{{TRUNK}, output_dim: 2}}}}",
        "rest": "{name: Momentum, weight_decay: 0.0, lr_decay_unit: epoch, lr: {name: MultiStepDecay, learning_rate: "
                "0.005, milestones: [1, 2], gamma: 0.2}, param_groups: [{name: res_model.projection_head, lr: {name: "
                "MultiStepDecay, learning_rate: 0.05, milestones: [1, 2], gamma: 0.2}}]}"}),
    # Each rank with running statistics of its own, which are then in its file.
    "swav_two_ranks": (PRETRAINING, {"model": SWAV, "batch": 2,
                                     "rest": "DistributedStrategy: {sync_batch_norm: none}"}),
    "deepcluster_v2_two_ranks": (PRETRAINING, {"model": CLUSTERS, "batch": 2}),
}
STOP = 6
RANKS = {sample: 2 if sample.endswith("two_ranks") else 1 for sample in RECIPES}


def recipe(sample: str) -> str:
    template, values = RECIPES[sample]
    return template.format(**{"sample": sample, "keep": 0, "stop": STOP, "more": "", "batch": 4, "rest": "", **values})


# ---------------------------------------------------------------------------------------------------------- running
def train(folder: Path, sample: str, config: str, *overrides: str, **variables: str) -> None:
    """`passl-train` in `folder`, on as many ranks as the sample has."""
    from tests.distributed.launched import LAUNCH, launch_environment

    tool = folder / "bin"
    tool.mkdir(exist_ok=True)
    environment = {**launch_environment(tool), **variables}
    command = [sys.executable, str(tool / "passl-train"), "-c", config, *(["-o", *overrides] if overrides else [])]
    if RANKS[sample] > 1:
        command = [*LAUNCH, "--nproc_per_node=2", f"--log_dir={folder / 'logs'}", *command[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if done.returncode:
        raise SystemExit(f"{sample}: {done.stdout[-4000:]}")


def run_folder(root: Path, sample: str) -> Path:
    """The one folder of runs/<sample>, which has the name of the model."""
    return next(path for path in (root / "runs" / sample).iterdir() if path.is_dir())


def continued(folder: Path, sample: str, **variables: str):
    """Resume a copy of the sample in `folder` to its end; the loss and learning rates of each step made."""
    for part in dict.fromkeys([sample, "swav"]):  # the classifiers' configs name the trunk they began with
        shutil.copytree(HERE / "runs" / part, folder / "runs" / part, symlinks=True)
    write_images(folder / "images")
    run = run_folder(folder, sample)
    train(folder, sample, str(run.relative_to(folder) / "config.yaml"), "Global.checkpoint=auto",
          "Global.max_train_step=None", **variables)
    return losses(run / "metrics.jsonl")


def losses(path: Path):
    """[{step, loss, lr}] of the steps after the stop."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in record.items() if name in ("step", "loss") or name.startswith("lr")}
            for record in records if "loss" in record and record["step"] >= STOP]


# ---------------------------------------------------------------------------------------------------------- making
def make_runs(folder: Path) -> None:
    write_images(folder / "images")
    for sample in RECIPES:
        (folder / "run.yaml").write_text(recipe(sample))
        train(folder, sample, "run.yaml")
        target = HERE / "runs" / sample
        shutil.rmtree(target, ignore_errors=True)
        # The log names this machine, the picture is large.
        shutil.copytree(folder / "runs" / sample, target, symlinks=True,
                        ignore=shutil.ignore_patterns("*.log", "*.log.*", "first_batch.png"))


def make_embeddings(folder: Path) -> None:
    """`passl-embed` that is interrupted after two of four batches, having saved each."""
    from passl.cli.embed import main
    from passl.inference import embedding_folder

    embedding_folder.SAVE_SECONDS = -1.0
    stream = embedding_folder.stream

    def interrupted(*arguments):
        for number, batch in enumerate(stream(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    embedding_folder.stream = interrupted
    write_images(folder / "images")
    shutil.copytree(HERE / "runs" / "swav", folder / "runs" / "swav", symlinks=True)
    os.chdir(folder)
    assert main([*EMBED, "--output", "embeddings"]) == 130
    target = HERE / "embeddings"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "embeddings", target, ignore=shutil.ignore_patterns(".lock"))


EMBED = ["runs/swav/SwAV", "images", "--batch-size", "4", "--workers", "0", "--device", "cpu"]


def make_converted() -> None:
    """Files in the layouts of two libraries, and what `passl-convert` makes of them."""
    from passl.weights.writers import write_torch

    from passl.cli.convert import main
    from tests.weights.checkpoints import filled, legacy_stream, pretraining_shapes, renamed
    from tests.weights.layouts import VISSL_RULE

    target = HERE / "converted"
    target.mkdir(exist_ok=True)
    single = filled(pretraining_shapes((3,), hidden=4, channels=1))
    heads = filled(pretraining_shapes((3, 4), hidden=4, channels=1))
    (target / "swav.pth.tar").write_bytes(legacy_stream({"epoch": 7, "state_dict": renamed(single, str, "module.")}))
    write_torch(str(target / "vissl.pth"), renamed(heads, VISSL_RULE))
    for name in ("swav.pth.tar", "vissl.pth"):
        assert main([str(target / name), str(target / name.split(".")[0]) + ".pdparams", "--verify"]) == 0


# MKL takes other kernels, threads split sums elsewhere, OpenCV resizes without vector instructions: what another
# processor would do.
PROCESSORS = [{"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OMP_NUM_THREADS": "2"},
              {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "OMP_NUM_THREADS": "2"},
              {"OMP_NUM_THREADS": "2"}, {"OPENCV_CPU_DISABLE": "AVX2,AVX512_SKX,FP16"}, {}]


def measure() -> None:
    expected = json.loads((HERE / "continued.json").read_text())
    for sample in RECIPES:
        worst = []
        for variables in PROCESSORS:
            with tempfile.TemporaryDirectory() as folder:
                found = continued(Path(folder), sample, **variables)
            assert [record["step"] for record in found] == [record["step"] for record in expected[sample]]
            worst.append(max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(found, expected[sample])))
        print(f"{sample:26}", " ".join(f"{value:.1e}" for value in worst), flush=True)


def main() -> None:
    import passl

    code = Path(passl.__file__).resolve().parents[1]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=code, capture_output=True, text=True).stdout
    if not head.startswith(COMMIT):
        raise SystemExit(f"{code} is not commit {COMMIT}: see the first lines of this file")
    if "--measure" in sys.argv:
        return measure()
    with tempfile.TemporaryDirectory() as folder:
        make_runs(Path(folder))
    results = {}
    for sample in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            results[sample] = continued(Path(folder), sample)
    (HERE / "continued.json").write_text(json.dumps(results, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        make_embeddings(Path(folder))
        os.chdir(HERE)
    make_converted()


if __name__ == "__main__":
    main()
