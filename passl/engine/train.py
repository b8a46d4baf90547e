"""`passl.train`: what `passl-train` does, from Python."""
from __future__ import annotations

from pathlib import Path
from typing import Sequence


def train(config: str, overrides: Sequence[str] = ()) -> Path:
    """Train what a YAML file describes and return the run's folder, which `passl.get_model` takes.

    overrides: KEY=VALUE texts as after -o. Call it before anything else imports Paddle: thread count and flags are
    read once, at that import. ConfigError lists everything that is wrong with the configuration.
    """
    from passl.cli.run import open_run, prepare_process
    from passl.config import check, load_config

    raw = load_config(config, overrides)
    prepare_process(raw)
    checked = check(raw)
    with open_run(checked, "train", show_config=True) as folder:
        from passl.engine.trainer import Trainer

        Trainer(checked).run()
    return folder
