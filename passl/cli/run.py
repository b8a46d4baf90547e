"""What commands share: the options of those that take -c, and how failures and warnings reach the user."""
from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Callable, Optional

import passl
from passl.errors import ConfigError, UserError

PACKAGE = os.path.join(str(Path(__file__).resolve().parents[1]), "")


def run_guarded(program: str, action: Callable[[], None], after_interrupt: str = "") -> int:
    """Run a command; what its user can put right ends it with a message instead of a traceback.

    Status 2 and all problems for a configuration, 1 for the rest; Ctrl-C ends it with status 130 and
    `after_interrupt`, which tells how to go on. PASSL_TRACEBACK=1 shows the traceback of all of these. Warnings of this
    library are printed as `PROGRAM: warning: ...`.
    """
    plain = warnings.showwarning
    warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: (
        print(f"{program}: warning: {message}", file=sys.stderr) if os.path.abspath(filename).startswith(PACKAGE)
        else plain(message, category, filename, lineno, file, line))
    for said in ("No ccache found", "When training, we now always track global mean"):  # Paddle's, of no use to anybody
        warnings.filterwarnings("ignore", message=said)
    codecs.register_error("passl-names", _any_name)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="passl-names")
    try:
        action()
        return 0
    except (KeyboardInterrupt, UserError, OSError) as error:
        if os.environ.get("PASSL_TRACEBACK"):
            raise
        sys.stdout.flush()
        if isinstance(error, KeyboardInterrupt):
            print(f"{program}: interrupted{after_interrupt and '; '}{after_interrupt}", file=sys.stderr)
            return 130
        is_config = isinstance(error, ConfigError)
        print(f"{program}: {'' if is_config else 'error: '}{error}", file=sys.stderr)
        return 2 if is_config else 1
    finally:
        warnings.showwarning = plain


def _any_name(error: UnicodeError):
    """Bytes of file names that are no text are printed as they are; what the terminal has no letter for, as \\u6f22."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def make_parser(prog: str, description: str, trains: bool = True) -> argparse.ArgumentParser:
    """A parser with -c, -o, --version, and -p for commands that train; the command adds its own options."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-c", "--config", required=True, type=os.path.expanduser, metavar="FILE",
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
