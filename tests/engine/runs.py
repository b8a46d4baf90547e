"""Tiny real runs for tests of the engine: a few small images, a network of a few thousand weights, seconds each."""
from pathlib import Path

import numpy as np

from passl.config import check, load_config

IMAGES, BATCH = 22, 4  # five whole batches and a remainder


def write_images(folder: Path, count=IMAGES, size=20, classes=2) -> Path:
    """A class tree of small PNG photographs-in-spirit (smooth colour gradients with some noise)."""
    from PIL import Image

    generator = np.random.RandomState(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    for number in range(count):
        slopes = generator.uniform(-120, 120, (2, 3))
        picture = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
        picture = np.clip(picture + generator.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)
        path = folder / f"class_{number % classes}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


# The network with the fewest batch norms: over gloo each costs two collectives a pass.
CONFIG = """
Global: {{epochs: 3, output_dir: {output}, device: cpu, print_batch_step: 2, progress: lines,
         max_num_latest_checkpoint: 2}}
Model:
  name: SwAV
  backbone: {{type: resnet10, normalize: True, hidden_mlp: 8, output_dim: 8, nmb_prototypes: 6,
             stem: small, base_channels: 4}}
  queue_length: 8
  epoch_queue_starts: 1
  freeze_prototypes_niters: 3
Optimizer: {{name: MomentumLARC, weight_decay: 1e-6, lr: {{name: TimmCosine, learning_rate: 0.3}}}}
DataLoader:
  Train:
    dataset: {{name: SwAVMultiCropDataset, root: {images}, size_crops: [16, 12], num_crops: [2, 1],
              min_scale_crops: [0.4, 0.2], max_scale_crops: [1.0, 0.5]}}
    sampler: {{name: DistributedBatchSampler, batch_size: {batch}, shuffle: True, drop_last: True}}
    loader: {{num_workers: 0}}
"""


def write_config(folder: Path, images: Path, output="output") -> Path:
    path = folder / "run.yaml"
    path.write_text(CONFIG.format(images=images, output=folder / output, batch=BATCH))
    return path


def trainer(config_path: Path, *overrides):
    """A Trainer with its device selected and its output folder made, as the command does before building it."""
    from passl.engine import environment
    from passl.engine.trainer import Trainer

    config = check(load_config(str(config_path), list(overrides)))
    environment.select_device(config.Global.device)
    (Path(config.Global.output_dir) / config.Model.name).mkdir(parents=True, exist_ok=True)
    return Trainer(config)


def state_of(run) -> dict:
    """Everything that must be equal for two runs to be the same run: weights, optimizer, queue, position."""
    state = {name: tensor.numpy() for name, tensor in run.method.model.state_dict().items()}
    for name, accumulators in run.optimizer.state_dict().items():
        state.update({f"optimizer/{name}/{key}": value for key, value in accumulators.items()})
    if run.method.queue is not None:
        state["queue"] = run.method.queue.entries.numpy()
        state["queue filled"] = np.asarray(run.method.queue.filled)
    state["position"] = np.asarray(list(run.progress.state_dict().values())[:4])
    return state


def assert_same_state(first: dict, second: dict):
    """Bit for bit."""
    assert sorted(first) == sorted(second)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
