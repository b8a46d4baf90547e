"""Tiny probe and fine-tuning runs: coloured squares that a random trunk can tell apart, seconds each."""
from pathlib import Path

import numpy as np
from PIL import Image

from passl.config import check, load_config

BACKBONE = "type: resnet10, stem: small, base_channels: 4"

CONFIG = """
Global:
  epochs: {epochs}
  output_dir: {output}
  device: cpu
  progress: lines
  print_batch_step: 1
  eval_during_train: True
Model: {model}
Loss: {{Train: [{{CELoss: {{weight: 1.0}}}}], Eval: [{{CELoss: {{weight: 1.0}}}}]}}
Optimizer: {optimizer}
DataLoader:
  Train:
    dataset:
      name: ImageFolder
      root: {images}/train
      transform: [RandomHorizontalFlip, Normalize: {{mean: 0.5, std: 0.25}}]
    sampler: {{name: DistributedBatchSampler, batch_size: 4, shuffle: True}}
    loader: {{num_workers: 0}}
  Eval:
    dataset: {{name: ImageFolder, root: {images}/val, transform: [Normalize: {{mean: 0.5, std: 0.25}}]}}
    sampler: {{name: DistributedBatchSampler, batch_size: 4}}
    loader: {{num_workers: 0}}
Metric: {{Train: [{{TopkAcc: {{topk: [1, 2]}}}}], Eval: [{{TopkAcc: {{topk: [1, 2]}}}}]}}
"""
PROBE = (f"{{name: swav_resnet10_linearprobe, backbone: {{{BACKBONE}, output_dim: 0, eval_mode: True}}, class_num: 3, "
         "allow_untrained_trunk: True}")
FINE_TUNE = f"{{name: swav_resnet10_finetune, backbone: {{{BACKBONE}, output_dim: 3}}}}"
PROBE_OPTIMIZER = ("{name: Momentum, momentum: 0.9, weight_decay: 1e-6, lr_decay_unit: epoch, "
                   "lr: {name: TimmCosine, learning_rate: 0.3}}")
FINE_TUNE_OPTIMIZER = """
  name: Momentum
  weight_decay: 0.0
  lr_decay_unit: epoch
  lr: {name: MultiStepDecay, learning_rate: 0.02, milestones: [1, 2], gamma: 0.2}
  param_groups:
    - name: res_model.projection_head
      lr: {name: MultiStepDecay, learning_rate: 0.5, milestones: [1, 2], gamma: 0.2}
"""


def write_squares(root: Path, train=11, val=7, classes=3) -> Path:
    """train/ and val/ with `classes` folders of noisy 12-pixel images; a class is a colour."""
    generator = np.random.RandomState(0)
    colours = np.eye(3)[:classes] * 160 + 40
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            label = number % classes
            folder = root / split / f"colour_{label}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(colours[label] + generator.normal(0, 30, (12, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root


def write_config(folder: Path, images: Path, model=PROBE, optimizer=PROBE_OPTIMIZER, epochs=3) -> Path:
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(epochs=epochs, output=folder / "output", model=model, optimizer=optimizer,
                                  images=images))
    return path


def trainer(path: Path, *overrides):
    from passl.engine.trainer import Trainer

    config = check(load_config(str(path), list(overrides)))
    (Path(config.Global.output_dir) / config.Model.name).mkdir(parents=True, exist_ok=True)
    return Trainer(config)


def lines(run, key):
    """The records of metrics.jsonl that have `key`."""
    import json

    records = map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if key in record]
