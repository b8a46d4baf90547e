"""The way from a configuration to a running job, once: for `passl.train` and for every command that takes `-c`."""
from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

from passl import distributed
from passl.config import Config, ConfigWarning, check, load_config
from passl.config.schema import GLOBAL
from passl.config.typecheck import Mismatch, convert
from passl.engine import environment, log
from passl.errors import UserError
from passl.files import PathLike, writable_folder


def train(config: PathLike, overrides: Sequence[str] = (), **settings: Any) -> Path:
    """Train what a YAML file describes, as `passl-train` does, and return the run's folder, which `get_model` takes.

    overrides: KEY=VALUE texts as after -o; `settings` the same as keywords, e.g. **{"Global.epochs": 100}. Call it
    before anything else imports Paddle: thread count and flags are read once, at that import. ConfigError lists
    everything that is wrong with the configuration; other UserErrors say why a run cannot start or go on.

    Example:
        >>> import pathlib, numpy, passl, PIL.Image
        >>> pathlib.Path("images/all").mkdir(parents=True)
        >>> for number, pixels in enumerate(numpy.random.default_rng(0).integers(0, 256, [8, 16, 16, 3], "uint8")):
        ...     PIL.Image.fromarray(pixels).save(f"images/all/{number}.png")
        >>> count = pathlib.Path("run.yaml").write_text('''
        ... Global: {epochs: 2, device: cpu}
        ... Model:
        ...   name: SwAV
        ...   backbone: {type: resnet10, base_channels: 4, normalize: True, output_dim: 8, nmb_prototypes: 4}
        ... Optimizer: {name: Momentum, lr: 0.05}
        ... DataLoader:
        ...   Train:
        ...     dataset: {name: SwAVMultiCropDataset, root: images, size_crops: [16], num_crops: [2],
        ...               min_scale_crops: [0.3], max_scale_crops: [1.0]}
        ...     sampler: {batch_size: 4, drop_last: True}
        ...     loader: {num_workers: 0}
        ... ''')
        >>> folder = passl.train("run.yaml", ["Global.epochs=1"])
        [...] passl INFO: ...
        >>> (folder / "latest.pdparams").exists()
        True
    """
    with start(config, [*overrides, *(f"{key}={value}" for key, value in settings.items())]) as checked:
        from passl.engine.trainer import Trainer

        run = Trainer(checked)
        run.run()
    return run.folder


@contextmanager
def start(path: PathLike, overrides: Sequence[str] = (), log_name: str = "train",
          trains: bool = True) -> Iterator[Config]:
    """`read` and `join` for a block of code, which is given the checked configuration."""
    config = read(path, overrides, trains)
    with join(config, log_name, show_config=trains):
        yield config


def read(path: PathLike, overrides: Sequence[str] = (), trains: bool = True) -> Config:
    """The checked configuration, and this process made ready for it; ConfigError lists all that is wrong with it.

    Launch variables are checked first, and LaunchError says which is wrong. Keys without effect are named by
    ConfigWarning, in the first process of a job. trains: whether the length of training must be given.
    """
    distributed.check_launch_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if distributed.rank() else "always", ConfigWarning)
        config = load_config(str(path), overrides)
        if not trains and isinstance(config.setdefault("Global", {}), dict):
            config.Global.setdefault("epochs", 1)
        prepare(config)
        return check(config)


def prepare(config: Config) -> None:
    """Set threads and flags, which Paddle reads once, when it is imported; then import it.

    The check of a configuration imports Paddle, so it comes afterwards. What is wrong with one of the three keys that
    are looked at here is left to it.
    """
    settings = config.get("Global")
    found = {}
    for name in ("num_threads", "flags", "device"):
        key = GLOBAL.keys[name]
        try:
            value = convert(settings.get(name, key.default), key.type) if isinstance(settings, dict) else key.default
            found[name] = key.convert(value) if key.convert else value
        except (Mismatch, UserError):
            found[name] = key.default
    environment.prepare(found["num_threads"], found["flags"], found["device"] != "gpu")
    environment.import_paddle()


@contextmanager
def join(config: Config, log_name: str, show_config: bool) -> Iterator[Path]:
    """Select the device, join the job, make the output folder and open the log; gives the folder.

    show_config: log the whole configuration. (The trainer saves it, once it knows that the run can start.)
    Until the block ends the ranks watch each other: one that is lost or fails ends the others with its name.
    """
    from passl.distributed.watchdog import watchdog

    device = environment.select_device(config.Global.device, config.Global.allow_tf32)
    distributed.initialize(device)
    with watchdog(config.Global.lost_rank_timeout, config.Global.collective_timeout):
        folder = Path(config.Global.output_dir) / config.Model.name
        if distributed.rank() == 0:
            writable_folder(folder, "choose another folder with -o Global.output_dir=...")
        distributed.barrier()
        logger = log.set_up(folder, log_name, distributed.rank())
        if distributed.rank() == 0 and show_config:
            logger.info("resolved configuration:\n" + config.to_yaml())
        yield folder
