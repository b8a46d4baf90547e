"""Released models of the family: where they are, what they hold, what they score.

The weights belong to their authors. SwAV's are CC BY-NC 4.0: we load them, we never redistribute them, and a converted
file stays under their licence. Accuracies are ImageNet top-1 in per cent as published by the authors. `passl.get_model`
builds the networks.
"""
from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

_SWAV_PAGE = "https://github.com/facebookresearch/swav#model-zoo"
_SWAV_FILES = "https://dl.fbaipublicfiles.com/deepcluster/"
_SELA_PAGE = "https://github.com/yukimasano/self-label"
_SELA_FILES = "http://www.robots.ox.ac.uk/~vgg/research/self-label/asset/"
_PASSL_PAGE = "https://github.com/PaddlePaddle/PASSL/tree/main/tasks/ssl/swav"
_PASSL_FILES = "https://passl.bj.bcebos.com/models/swav/"
_SELA_FOLDER = "self-label_models/"  # inside pretrained.zip
_NON_COMMERCIAL = "CC BY-NC 4.0 (no commercial use; load, do not redistribute)"
_MIT = "MIT (code; derives from DeepCluster, which is CC BY-NC 4.0: ask the authors for other uses)"
_APACHE = "Apache-2.0 (PASSL); trained weights derived from SwAV's are CC BY-NC 4.0"
_NOT_BUILT = ("alexnet", "resnet50-preactivation")  # networks that only passl-convert knows


@dataclass(frozen=True)
class Release:
    """One published file.

    file: its name. url: of the file, or of the archive that has it as `member`. page: where its authors describe it.
    keys: layout of its keys (a name of `passl.weights.layouts.keymaps.LAYOUTS`). prefix: what stands before each key
    of trunk and heads.
    hidden, embedding, prototypes (per head), head_batch_norm: its projection head; 0 and () without one.
    classes: outputs of a classifier, or of each of SeLa's cluster heads. classifier: "linearprobe" or "finetune" when
    that classifier is one for ImageNet's classes. trunk: for a classifier published without its trunk, the release
    that has it. accuracy: top-1 of a linear probe, or of the network itself when it is a fine-tuned one (None: not
    published for this file). sha256: None where the authors publish none; then the file is read before it is accepted,
    its sum is kept beside it and compared from then on.
    """

    name: str
    method: str
    architecture: str
    file: str
    url: Optional[str]
    page: str
    keys: str
    prefix: str = ""
    hidden: int = 0
    embedding: int = 0
    prototypes: Tuple[int, ...] = ()
    head_batch_norm: bool = True
    classes: Tuple[int, ...] = ()
    classifier: str = ""
    trunk: str = ""
    epochs: int = 0
    crops: str = ""
    accuracy: Optional[float] = None
    licence: str = _NON_COMMERCIAL
    sha256: Optional[str] = None
    member: str = ""

    @property
    def convert_only(self) -> bool:
        """Whether `passl-convert` reads the file but no network of this library takes it."""
        return self.architecture in _NOT_BUILT

    def head_keys(self) -> List[str]:
        """Layers of the heads, under the names of the file."""
        heads: List[str] = []
        if self.embedding:
            linear = (0, 1, 3) if self.head_batch_norm else (0, 2)
            heads = [f"projection_head.{position}" for position in linear]
            heads += ["prototypes"] if len(self.prototypes) == 1 else [
                f"prototypes.prototypes{head}" for head in range(len(self.prototypes))]
        elif self.classifier == "finetune":
            heads = ["projection_head"]
        elif self.classifier == "linearprobe":
            return ["linear.linear"] if self.keys == "passl" else [f"{self.prefix}linear"]
        elif self.classes:
            heads = [f"top_layer{head}" for head in range(len(self.classes))] if len(self.classes) > 1 else ["fc"]
        return [self.prefix + head for head in heads]


def _swav(name: str, file: str, accuracy: float, epochs: int, *, method: str = "SwAV", width: int = 1,
          heads: int = 1, crops: str = "2x224+6x96", hidden: int = 2048, batch_norm: bool = True) -> Release:
    architecture = "resnet50" if width == 1 else f"resnet50w{width}"
    return Release(name, method, architecture, file + ".pth.tar", f"{_SWAV_FILES}{file}.pth.tar", _SWAV_PAGE, "swav",
                   "module.", hidden, 128, (3000,) * heads, batch_norm, epochs=epochs, crops=crops, accuracy=accuracy)


def _sela(name: str, architecture: str, file: str, keys: str, classes: Tuple[int, ...], accuracy: Optional[float],
          archive: str = "") -> Release:
    url = _SELA_FILES + (archive or f"new_models/{file}")
    return Release(name, "SeLa", architecture, file, url, _SELA_PAGE, keys, classes=classes, accuracy=accuracy,
                   licence=_MIT, member=_SELA_FOLDER + file if archive else "")


def _passl(name: str, file: str, **options: Any) -> Release:
    return Release(name, "SwAV", "resnet50", file, _PASSL_FILES + file, _PASSL_PAGE, "passl", "res_model.",
                   licence=_APACHE, **options)


RELEASES: Tuple[Release, ...] = (
    _swav("swav_resnet50", "swav_800ep_pretrain", 75.3, 800),
    _swav("swav_resnet50_400ep", "swav_400ep_pretrain", 74.6, 400),
    _swav("swav_resnet50_200ep", "swav_200ep_pretrain", 73.9, 200),
    _swav("swav_resnet50_100ep", "swav_100ep_pretrain", 72.1, 100),
    _swav("swav_resnet50_200ep_bs256", "swav_200ep_bs256_pretrain", 72.7, 200),
    _swav("swav_resnet50_400ep_bs256", "swav_400ep_bs256_pretrain", 74.3, 400),
    _swav("swav_resnet50_400ep_2x224", "swav_400ep_2x224_pretrain", 70.1, 400, crops="2x224"),
    _swav("swav_resnet50w2", "swav_RN50w2_400ep_pretrain", 77.3, 400, width=2, hidden=8192, crops="2x224+4x96"),
    _swav("swav_resnet50w4", "swav_RN50w4_400ep_pretrain", 77.9, 400, width=4, hidden=8192, crops="2x224+4x96"),
    _swav("swav_resnet50w5", "swav_RN50w5_400ep_pretrain", 78.5, 400, width=5, hidden=10240, batch_norm=False,
          crops="2x224+4x96"),
    _swav("deepclusterv2_resnet50", "deepclusterv2_800ep_pretrain", 75.2, 800, method="DeepCluster-v2", heads=3),
    _swav("deepclusterv2_resnet50_400ep", "deepclusterv2_400ep_pretrain", 74.3, 400, method="DeepCluster-v2", heads=3,
          crops="2x160+4x96"),
    _swav("deepclusterv2_resnet50_400ep_2x224", "deepclusterv2_400ep_2x224_pretrain", 70.2, 400,
          method="DeepCluster-v2", heads=3, crops="2x224"),
    _swav("selav2_resnet50", "selav2_400ep_pretrain", 71.8, 400, method="SeLa-v2", heads=3, crops="2x160+4x96"),
    _swav("selav2_resnet50_2x224", "selav2_400ep_2x224_pretrain", 67.2, 400, method="SeLa-v2", heads=3, crops="2x224"),
    Release("swav_resnet50_linear", "SwAV", "resnet50", "swav_800ep_eval_linear.pth.tar",
            _SWAV_FILES + "swav_800ep_eval_linear.pth.tar", _SWAV_PAGE, "swav", "module.", classes=(1000,),
            classifier="linearprobe", trunk="swav_resnet50", epochs=100, accuracy=75.3),
    _sela("sela_alexnet", "alexnet", "alexnet-10x3k-wRot.pth", "sela-alexnet", (3000,) * 10, None, "pretrained.zip"),
    _sela("sela_resnet50", "resnet50-preactivation", "resnet-10x3k.pth", "sela-resnetv2", (3000,) * 10, 61.5,
          "pretrained.zip"),
    _sela("sela_resnet18_1k", "resnet18", "resnet18-1k_pp.pth", "swav", (1000,), 53.3),
    _sela("sela_resnet50_1k", "resnet50", "resnet50-1k_pp.pth", "swav", (1000,), 63.5),
    _sela("sela_resnet50_10x3k", "resnet50", "resnet50-10x3k_pp.pth", "swav", (3000,), 68.8),
    _passl("passl_swav_resnet50", "swav_resnet50_in1k_800ep_bz4096_pretrained.pdparams", hidden=2048, embedding=128,
           prototypes=(3000,), epochs=800, accuracy=75.3),
    _passl("passl_swav_resnet50_linearprobe", "swav_resnet50_in1k_linearprobe.pdparams", classes=(1000,),
           classifier="linearprobe", epochs=100, accuracy=75.3),
    _passl("passl_swav_resnet50_finetune_1percent", "swav_resnet50_in1k_finetune_1percent.pdparams", classes=(1000,),
           classifier="finetune", epochs=20, accuracy=55.0),
    _passl("passl_swav_resnet50_finetune_10percent", "swav_resnet50_in1k_finetune_10percent.pdparams", classes=(1000,),
           classifier="finetune", epochs=20, accuracy=69.0),
)
_BY_NAME: Dict[str, Release] = {release.name: release for release in RELEASES}


def list_models(pattern: str = "*") -> List[str]:
    """Names of the released models, optionally those that match a shell pattern such as `swav_*`."""
    return [release.name for release in RELEASES if fnmatch.fnmatchcase(release.name, pattern)]


def release(name: str) -> Release:
    """The entry of a name; KeyError with the nearest name otherwise."""
    from passl.errors import UnknownComponent
    from passl.registry import nearest

    if name not in _BY_NAME:
        raise UnknownComponent(f"no released model is called '{name}'{nearest(name, _BY_NAME)}; `passl list-models` "
                               "shows all")
    return _BY_NAME[name]


def home() -> str:
    """Where this library keeps files between runs: $PASSL_HOME, by default ~/.passl."""
    return os.environ.get("PASSL_HOME") or os.path.join(os.path.expanduser("~"), ".passl")


def weights_folder() -> str:
    """Where released files are looked for: $PASSL_HOME/weights, by default ~/.passl/weights."""
    return os.path.join(home(), "weights")
