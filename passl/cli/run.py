"""What training and evaluation commands do before Paddle is imported, and how their failures reach the user."""
from __future__ import annotations

import argparse
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

from passl.cli.config_options import read_config, without_training
from passl.config import Config, ConfigError, ConfigWarning, check, load_config

PACKAGE = os.path.join(str(Path(__file__).resolve().parents[1]), "")


@contextmanager
def start(parser: argparse.ArgumentParser, arguments: argparse.Namespace, log_name: str,
          trains: bool = True) -> Iterator[Config]:
    """Check the launch, set threads, check the config, join the job, open the log; gives the checked config.

    The order matters: Paddle reads thread count and flags once, when it is imported, and the check of components
    imports it. The job is joined until the block ends, see `open_run`. A command that does not train needs no
    Global.epochs and does not log the configuration.
    """
    try:
        raw = load_config(arguments.config, arguments.override)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)  # the full check below says them
            # everything but the components, so that what is used before they are known has its type
            check(raw if trains else without_training(raw), {})
    except ConfigError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    prepare_process(raw)
    config = read_config(parser, arguments, trains=trains)
    with open_run(config, log_name, show_config=trains):
        yield config


def prepare_process(raw: Config) -> None:
    """Check the launch variables and set what Paddle reads once, from a configuration that is not checked yet."""
    from passl import distributed
    from passl.engine import environment

    distributed.check_launch_environment()
    settings = raw.get("Global") or {}
    environment.prepare(settings.get("num_threads"), settings.get("flags"), settings.get("device", "auto") != "gpu")
    environment.import_paddle()


@contextmanager
def open_run(config: Config, log_name: str, show_config: bool) -> Iterator[Path]:
    """Select the device, join the job, make the output folder and open the log; gives the folder.

    show_config: log the whole configuration. (The trainer saves it, once it knows that the run can start.)
    Until the block ends the ranks watch each other: one that is lost or fails ends the others with its name.
    """
    from passl import distributed
    from passl.distributed.watchdog import watchdog
    from passl.engine import environment, log

    device = environment.select_device(config.Global.device, config.Global.allow_tf32)
    distributed.initialize(device)
    with watchdog(config.Global.lost_rank_timeout, config.Global.collective_timeout):
        folder = Path(config.Global.output_dir) / config.Model.name
        if distributed.rank() == 0:
            prepare_folder(folder)
        distributed.barrier()
        logger = log.set_up(folder, log_name, distributed.rank())
        if distributed.rank() == 0 and show_config:
            logger.info("resolved configuration:\n" + config.to_yaml())
        yield folder


def prepare_folder(folder: Path) -> None:
    """Create the output folder and prove that files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"cannot write to {folder} ({error.strerror}): choose another folder with "
                              "-o Global.output_dir=...") from None


def run_guarded(program: str, action: Callable[[], None], after_interrupt: str = "") -> int:
    """Run a command; expected failures end it with their message and status 1 instead of a traceback.

    Ctrl-C ends it with status 130 and `after_interrupt`, which tells how to go on. PASSL_TRACEBACK=1 shows the
    traceback of all of these. Warnings of this library are printed as `PROGRAM: warning: ...`.
    """
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: (
        f"{program}: warning: {message}\n" if os.path.abspath(filename).startswith(PACKAGE)
        else plain(message, category, filename, lineno, line))
    for said in ("No ccache found", "When training, we now always track global mean"):  # Paddle's, of no use to anybody
        warnings.filterwarnings("ignore", message=said)
    try:
        action()
        return 0
    except KeyboardInterrupt:
        if os.environ.get("PASSL_TRACEBACK"):
            raise
        sys.stdout.flush()
        print(f"{program}: interrupted{after_interrupt and '; '}{after_interrupt}", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, RuntimeError, FloatingPointError) as error:
        if os.environ.get("PASSL_TRACEBACK") or type(error).__module__ == "builtins" and not isinstance(
                error, (ValueError, OSError, FloatingPointError)):
            raise
        sys.stdout.flush()
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = plain
