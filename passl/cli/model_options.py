"""The options of commands that use a trained model, and how they open it."""
from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

import passl
from passl.cli.run import add_engine
from passl.errors import UserError
from passl.files import writable_folder, write_text
from passl.models.stems import STEMS

if TYPE_CHECKING:
    import paddle

MODEL_HELP = ("a run's folder or checkpoint (output/swav_resnet50_pretrain), a weight file of any library passl reads, "
              "or a name of passl.list_models()")


def make_model_parser(prog: str, description: str, batch_size: int = 64, size: bool = True) -> argparse.ArgumentParser:
    """A parser with MODEL, --weights, --stem, --device, --batch-size, --workers, --threads; the command adds its own.

    size: add --size too.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("model", type=os.path.expanduser, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--weights", metavar="FILE", action="append", type=os.path.expanduser,
                        help="weights for a model given by name; "
                        "'released' takes the published ones, from the local folder or the network; twice: the file of "
                        "the trunk and that of a linear classifier saved without it")
    add_geometry(parser, size)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu", "xpu", "npu"))
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="N", help="images per forward pass")
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes that decode; 0 decodes in "
                        "the main process; default: one a core, at most 8, and none for few images")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="CPU threads of the network; default: "
                        "all cores")
    parser.add_argument("--version", action="version", version=f"passl {passl.__version__}")
    return parser


def add_geometry(parser: argparse.ArgumentParser, size: bool = True) -> None:
    """--prefix, --stem and --size: what a weight file may not tell of its network."""
    parser.add_argument("--stem", choices=tuple(STEMS), default=None, help="for a weight file that does not tell how "
                        "its network begins: small pads a 3x3 convolution by 1, small_padded by 2, small_pooled keeps "
                        "the max-pool")
    parser.add_argument("--prefix", default=None, metavar="TEXT", help="what stands before the keys of the network to "
                        "take, for a file of several (encoder_q.); default: where a known trunk lies")
    if size:
        parser.add_argument("--size", type=int, default=None, metavar="PIXELS", help="side of the images; default: "
                            "what the weight file or its run says, else 224, or 32 for a 3x3 first convolution")


def geometry(options: argparse.Namespace) -> Dict[str, Any]:
    """What a command line says of stem and size, as arguments of get_model."""
    return {name: value for name in ("stem", "size", "prefix") if (value := getattr(options, name)) is not None}


def add_images(parser: argparse.ArgumentParser, skipping: str) -> None:
    """IMAGES and --skip-unreadable, which does `skipping`."""
    parser.add_argument("images", nargs="+", type=os.path.expanduser, metavar="IMAGES",
                        help="image files, folders, or list files of paths")
    parser.add_argument("--skip-unreadable", action="store_true", help=skipping)


def add_forward_pass(parser: argparse.ArgumentParser) -> None:
    """--engine and --scaled-decoding: how fast images are looked at."""
    add_engine(parser)
    parser.add_argument("--scaled-decoding", action="store_true", help="decode large JPEG photographs at a fraction of "
                        "their size: faster, and pixels differ by about one grey level")


def make_features_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A model parser with --train, --test, --cache and --output."""
    parser = make_model_parser(prog, description)
    add_forward_pass(parser)
    parser.add_argument("--train", required=True, type=os.path.expanduser, metavar="FOLDER",
                        help="labelled images to learn from: a class tree or a list file")
    parser.add_argument("--test", required=True, type=os.path.expanduser, metavar="FOLDER",
                        help="labelled images to classify")
    parser.add_argument("--cache", type=os.path.expanduser, metavar="FOLDER",
                        help="keep the features here, in train/ and test/; another call "
                        "with the same weights, images and transforms takes them from there")
    parser.add_argument("--output", type=os.path.expanduser, metavar="FILE", help="write the results as JSON")
    return parser


def join_and_open(options: argparse.Namespace) -> paddle.nn.Layer:
    """Join the job, if the command was launched on several processes, and build the model of a features parser."""
    from passl import distributed
    from passl.engine import environment

    distributed.check_launch_environment()
    environment.prepare(options.threads, cpu=options.device != "gpu")
    distributed.initialize(environment.select_device(options.device, key="--device", remedy="--device cpu"))
    model = open_model(options)
    require_weights(model)
    from passl.inference.accuracy import require_labelled

    require_labelled({"--train": options.train, "--test": options.test})
    return model


def write_features_result(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write what was asked and found as JSON, when --output says so."""
    if options.output:
        write_text(options.output, json.dumps({"model": options.model, "train": options.train, "test": options.test,
                                               **result}, indent=1))


def prepare_models(options: argparse.Namespace) -> None:
    """Check the numbers that every command with models takes, prepare the process and select the device."""
    from passl.engine import environment

    if options.batch_size < 1 or (options.workers or 0) < 0 or (options.threads or 1) < 1:
        raise UserError(f"--batch-size {options.batch_size} must be at least 1, --workers {options.workers} at least "
                        f"0{'' if options.threads is None else f', --threads {options.threads} at least 1'}")
    environment.prepare(options.threads, cpu=options.device != "gpu")
    environment.select_device(options.device, key="--device", remedy="--device cpu")
    from passl.inference.backends import require_choice

    require_choice(getattr(options, "engine", "auto"))
    show_pace()


def open_model(options: argparse.Namespace) -> paddle.nn.Layer:
    """Prepare the process, select the device and build the model of a command line."""
    prepare_models(options)
    model = passl.get_model(options.model, pretrained=True if options.weights == ["released"] else options.weights,
                            **geometry(options))
    if getattr(options, "scaled_decoding", False):
        model.card.transform = [{"DecodeImage": {"scaled": True}}, *model.card.transform]
    return model


def show_pace() -> None:
    """Let the forward loop say on the terminal which engine it takes and how fast it is."""
    logger = logging.getLogger("passl.inference")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO)


def require_weights(model: paddle.nn.Layer) -> None:
    """ValueError for a network of random weights: its features would look like results."""
    if model.card.source is None:
        raise UserError(f"{model.card.name} has random weights: add --weights FILE, --weights released, or name a "
                        "run's folder")


def check_output(parser: argparse.ArgumentParser, output: Optional[str], option: str = "--output") -> None:
    """End the command before its work when the file to write has no folder or is one."""
    folder = os.path.dirname(output or "") or "."
    if output and not os.path.isdir(folder):
        parser.error(f"{option} {output}: the folder {folder} does not exist")
    if output and os.path.isdir(output):
        parser.error(f"{option} {output} is a folder: name a file")
    if output and (os.path.isfile(output) or not os.path.exists(output)):
        try:
            writable_folder(Path(folder), f"{option} {output} would be lost")
        except PermissionError as error:
            parser.error(str(error))


def require_one_process(parser: argparse.ArgumentParser) -> None:
    """End a command that does not share its work when a launcher has started several of it: all would do everything."""
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)
    if processes > 1:
        parser.error(f"a launcher has started {processes} processes and this command works in one: call it without the "
                     "launcher, with more --workers, or once for each part of the images")
