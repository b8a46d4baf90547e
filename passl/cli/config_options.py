"""The options every command shares, PASSL's: `-c config.yaml -o KEY=VALUE ... -p "batch_range=[10, 20]"`."""
from __future__ import annotations

import argparse
from typing import Optional

import passl
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


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--engine of the commands that only look at images."""
    parser.add_argument("--engine", default="auto", choices=("auto", "paddle", "onnxruntime", "openvino", "eager"),
                        help="what runs the network on a CPU: auto takes onnxruntime or OpenVINO where they are "
                        "installed (pip install 'passl[fast]'), else Paddle Inference, and eager for few images")


def profiler_options(text: Optional[str]) -> dict:
    """`"batch_range=[10, 20]; state=GPU"` to {"batch_range": "[10, 20]", "state": "GPU"}; raises ValueError."""
    options = {}
    for part in filter(str.strip, (text or "").split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"-p: expected KEY=VALUE pairs separated by ';', got '{part.strip()}'")
        options[key.strip()] = value.strip()
    return options
