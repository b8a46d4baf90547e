"""`passl-convert IN OUT`: weight files of other libraries to Paddle and back; neither needs PyTorch nor runs them."""
from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional, Sequence

import passl
from passl.cli.model_options import add_geometry

TARGETS = {
    "paddle": "PASSL names, Paddle layout: what the configs' Global.pretrained_model takes (.pdparams)",
    "torch": "names of the SwAV releases (.pth); a file converted from PyTorch gets its former keys back bit for bit",
    "torchvision": "a plain ResNet, heads left out, classifiers as fc (.pth)",
    "paddleclas": "PaddleClas ResNet (.pdparams)",
    "paddledet": "PaddleDetection backbone for Faster R-CNN, Mask R-CNN, DETR (.pdparams)",
    "detectron2": "detectron2 backbone (.pkl)",
    "safetensors": "names of the SwAV releases, PyTorch layout (.safetensors)",
}
SUFFIXES = {".pdparams": "paddle", ".pth": "torch", ".pt": "torch", ".tar": "torch", ".safetensors": "safetensors",
            ".pkl": "detectron2"}
LAYOUTS = ("auto", "swav", "passl", "mmpretrain", "vissl", "solo", "lightly", "lightly-cifar", "sela-alexnet",
           "sela-resnetv1", "sela-resnetv2", "paddleclas", "paddledet", "detectron2")
TOLERANCE = 1e-4  # relative to the largest output; float32 against float64 leaves about 1e-6


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="passl-convert", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="targets:\n" + "\n".join(f"  {name:<12} {text}" for name, text in TARGETS.items())
        + "\n\nexample:\n  passl-convert swav_800ep_pretrain.pth.tar swav_800ep.pdparams --verify")
    parser.add_argument("source", type=os.path.expanduser, metavar="IN",
                        help=".pth, .pth.tar, .pt, .pdparams, .safetensors, .npz or .pkl")
    parser.add_argument("target", type=os.path.expanduser, metavar="OUT", nargs="?",
                        help="file to write; without it only tell what IN holds")
    parser.add_argument("--to", choices=list(TARGETS), default=None,
                        help="what to write; default: by OUT's suffix (.pdparams: paddle, .pth/.pt/.tar: torch, "
                             ".safetensors, .pkl: detectron2)")
    parser.add_argument("--from", dest="layout", choices=LAYOUTS, default="auto",
                        help="whose keys IN has; auto takes the library that explains most of them")
    parser.add_argument("--part", choices=("all", "trunk"), default="all", help="trunk leaves every head out")
    parser.add_argument("--allow-unknown", action="store_true", help="leave out keys nobody knows instead of stopping")
    parser.add_argument("--inert", action="append", default=[], metavar="NAME",
                        help="a class in the pickle that may be read as an empty record (never imported), for instance "
                             "pathlib.PosixPath; may be repeated (omegaconf and argparse need no asking)")
    add_geometry(parser)
    parser.add_argument("--table", action="store_true",
                        help="print every key: from, to (PASSL's names without OUT), shape, dtype, change")
    parser.add_argument("--verify", action="store_true",
                        help="run OUT's network in Paddle on a fixed input against a numpy forward of IN's weights")
    parser.add_argument("--version", action="version", version=f"passl {passl.__version__}")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit status 0 (converted), 1 (refused or the outputs differ), 2 (wrong usage)."""
    parser = make_parser()
    options = parser.parse_args(argv)
    if options.target is None and (options.to or options.verify):
        parser.error("--to and --verify need OUT")
    if options.target is not None and os.path.isdir(options.target):
        parser.error(f"{options.target} is a folder; give the name of the file to write")
    from passl.errors import UserError

    status = 1
    try:
        status = _run(parser, options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has seen enough; the interpreter would complain when it flushes again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    except (UserError, OSError, TypeError) as error:
        print(f"passl-convert: {error}", file=sys.stderr)
        return 1


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from passl.weights import convert, convert_file, recognise

    layout = None if options.layout == "auto" else options.layout
    if options.target is None:
        checkpoint = _source(options)
        print(recognise(checkpoint, layout)[1].describe())
        if options.table or options.part != "all":
            part = convert(checkpoint, "paddle", part=options.part, layout=layout, allow_unknown=True)
            print(part.table() if options.table else f"{options.part:<16}{len(part.state)} arrays")
        return 0
    to = options.to or SUFFIXES.get(os.path.splitext(options.target)[1])
    if to is None:
        parser.error(f"the suffix of {options.target} does not tell a target; add --to {{{','.join(TARGETS)}}}")
    if options.verify:
        from passl.inference.verify import check_verifiable

        check_verifiable(*recognise(_source(options), layout))
    result = convert_file(options.source, options.target, to, part=options.part, layout=layout,
                          allow_unknown=options.allow_unknown, inert=options.inert, stem=options.stem,
                          size=options.size, prefix=options.prefix)
    print(result.found.describe())
    if options.table:
        print(result.table())
    if result.left_out:
        print(f"{to} has no place for {len(result.left_out)} keys: {_shortened(result.left_out)}")
    if result.found.unknown:
        print(f"left out as unknown: {_shortened(result.found.unknown)}")
    print(f"wrote {options.target} ({len(result.state)} arrays, {os.path.getsize(options.target) / 1e6:.1f} MB, {to})")
    return _verify(options, layout) if options.verify else 0


def _source(options: argparse.Namespace):
    """IN with what the user says of it."""
    from passl.weights import read
    from passl.weights.layouts.description import told
    from passl.weights.layouts.recognise import under_prefix

    checkpoint = told(read(options.source, inert=options.inert), options.stem, options.size)
    return checkpoint if options.prefix is None else under_prefix(checkpoint, options.prefix)


def _shortened(keys: List[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def _verify(options: argparse.Namespace, layout: Optional[str]) -> int:
    from passl.inference.verify import fixed_input, largest_differences, numpy_forward, paddle_forward, paddle_network
    from passl.weights import read, recognise, to_passl_state
    from passl.weights.layouts.description import told

    images = fixed_input()
    source = _source(options)
    canonical, origin = recognise(source, layout)
    reference = numpy_forward(canonical, origin, images)
    state, found = to_passl_state(told(read(options.target), origin.stem))  # of the targets only paddle says it itself
    differences = largest_differences(paddle_forward(paddle_network(state, found), images), reference)
    for name, difference in differences.items():
        print(f"verify {name:<10} largest difference {difference:.2e} of the largest value")
    if not all(difference <= TOLERANCE for difference in differences.values()):  # also when one is not a number
        print(f"passl-convert: the converted model differs by more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0
