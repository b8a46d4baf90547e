"""The options every command shares, PASSL's: `-c config.yaml -o KEY=VALUE ... -p "batch_range=[10, 20]"`."""
from __future__ import annotations

import argparse
import os
import sys
import warnings
from typing import Optional, Sequence

import passl
from passl.config import Config, ConfigError, ConfigWarning, check, load_config
from passl.errors import UserError


def make_parser(prog: str, description: str, trains: bool = True) -> argparse.ArgumentParser:
    """A parser with -c, -o, --version, and -p for commands that train; the command adds its own options."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-c", "--config", required=True, metavar="FILE",
                        help="YAML configuration; paths inside it are relative to the current folder, except _base_")
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change one key, for instance -o Global.epochs=100 DataLoader.Train.sampler.batch_size=32;"
                             " whole numbers in the key index lists; may be repeated, the last one wins")
    if trains:
        parser.add_argument("-p", "--profiler_options", default=None, metavar="KEY=VALUE;...",
                            help='profile some steps, for instance -p "batch_range=[10, 20]; profile_path=./profile"')
    parser.add_argument("--version", action="version", version=f"passl {passl.__version__}")
    return parser


def read_config(parser: argparse.ArgumentParser, arguments: argparse.Namespace,
                extra_overrides: Sequence[str] = (), trains: bool = True) -> Config:
    """The checked configuration of a command line; a ConfigError ends the program with its message and status 2.
    Accepted keys without effect are named on stderr.

    extra_overrides: what the command's own options mean, as KEY=VALUE; applied before -o.
    trains: whether the length of training must be given.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConfigWarning)
        try:
            config = load_config(arguments.config, [*extra_overrides, *arguments.override])
            return check(config if trains else without_training(config))
        except ConfigError as error:
            parser.exit(2, f"{parser.prog}: {error}\n")
        finally:
            _print_warnings(parser.prog, caught)


def without_training(config: Config) -> Config:
    """`config` itself, with a length of training where it has none: commands that do not train pass the same check."""
    if isinstance(config.setdefault("Global", {}), dict):
        config.Global.setdefault("epochs", 1)
    return config


def _print_warnings(prog: str, caught: Sequence[warnings.WarningMessage]) -> None:
    """Our own as one line each, from the first process of a job only; those of other packages as they are."""
    for warning in caught:
        if not issubclass(warning.category, ConfigWarning):
            sys.stderr.write(warnings.formatwarning(warning.message, warning.category, warning.filename,
                                                    warning.lineno))
        elif os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
            sys.stderr.write(f"{prog}: warning: {warning.message}\n")


def profiler_options(text: Optional[str]) -> dict:
    """`"batch_range=[10, 20]; state=GPU"` to {"batch_range": "[10, 20]", "state": "GPU"}; raises ValueError."""
    options = {}
    for part in filter(str.strip, (text or "").split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"-p: expected KEY=VALUE pairs separated by ';', got '{part.strip()}'")
        options[key.strip()] = value.strip()
    return options
