"""Released models of the family: where they are, what they hold, what they score. And `get_model`.

The weights belong to their authors. SwAV's are CC BY-NC 4.0: we load them, we never redistribute them, and a converted
file stays under their licence. Accuracies are ImageNet linear top-1 in per cent as published by the authors.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Union

_SWAV_PAGE = "https://github.com/facebookresearch/swav#model-zoo"
_SWAV_FILES = "https://dl.fbaipublicfiles.com/deepcluster/"
_SELA_PAGE = "https://github.com/yukimasano/self-label"
_SELA_FILES = "http://www.robots.ox.ac.uk/~vgg/research/self-label/asset/"
_PASSL_PAGE = "https://github.com/PaddlePaddle/PASSL/tree/main/tasks/ssl/swav"
_PASSL_FILES = "https://passl.bj.bcebos.com/models/swav/"
_NON_COMMERCIAL = "CC BY-NC 4.0 (no commercial use; load, do not redistribute)"
_MIT = "MIT (code; derives from DeepCluster, which is CC BY-NC 4.0: ask the authors for other uses)"
_APACHE = "Apache-2.0 (PASSL); trained weights derived from SwAV's are CC BY-NC 4.0"


@dataclass(frozen=True)
class Release:
    """One published file.

    keys: layout of its keys (a name of `passl.weights.keymaps.LAYOUTS`). prototypes: per head. accuracy: linear top-1
    (None: not published for this file). sha256: None where the authors publish none; then the sum of the first download
    is kept beside the file and compared from then on.
    """

    name: str
    method: str
    architecture: str
    file: str
    url: Optional[str]
    page: str
    keys: str
    hidden: int = 0
    embedding: int = 0
    prototypes: Tuple[int, ...] = ()
    head_batch_norm: bool = True
    classes: Tuple[int, ...] = ()
    epochs: int = 0
    crops: str = ""
    accuracy: Optional[float] = None
    licence: str = _NON_COMMERCIAL
    sha256: Optional[str] = None


def _swav(name: str, file: str, accuracy: float, epochs: int, *, method: str = "SwAV", width: int = 1,
          heads: int = 1, crops: str = "2x224+6x96", hidden: int = 2048, batch_norm: bool = True) -> Release:
    architecture = "resnet50" if width == 1 else f"resnet50w{width}"
    return Release(name, method, architecture, file + ".pth.tar", f"{_SWAV_FILES}{file}.pth.tar", _SWAV_PAGE, "swav",
                   hidden, 128, (3000,) * heads, batch_norm, (), epochs, crops, accuracy)


def _sela(name: str, architecture: str, file: str, keys: str, classes: Tuple[int, ...], accuracy: Optional[float],
          archive: Optional[str] = None) -> Release:
    url = _SELA_FILES + archive if archive else None
    return Release(name, "SeLa", architecture, file, url, _SELA_PAGE, keys, classes=classes, accuracy=accuracy,
                   licence=_MIT)


def _passl(name: str, file: str, **options: Any) -> Release:
    return Release(name, "SwAV", "resnet50", file, _PASSL_FILES + file, _PASSL_PAGE, "passl", licence=_APACHE,
                   **options)


RELEASES: Tuple[Release, ...] = (
    _swav("swav_resnet50", "swav_800ep_pretrain", 75.3, 800),
    _swav("swav_resnet50_400ep", "swav_400ep_pretrain", 74.6, 400),
    _swav("swav_resnet50_200ep", "swav_200ep_pretrain", 73.9, 200),
    _swav("swav_resnet50_100ep", "swav_100ep_pretrain", 72.1, 100),
    _swav("swav_resnet50_200ep_bs256", "swav_200ep_bs256_pretrain", 72.7, 200),
    _swav("swav_resnet50_400ep_bs256", "swav_400ep_bs256_pretrain", 74.3, 400),
    _swav("swav_resnet50_400ep_2x224", "swav_400ep_2x224_pretrain", 70.1, 400, crops="2x224"),
    _swav("swav_resnet50w2", "swav_RN50w2_400ep_pretrain", 77.3, 400, width=2, hidden=8192),
    _swav("swav_resnet50w4", "swav_RN50w4_400ep_pretrain", 77.9, 400, width=4, hidden=8192),
    _swav("swav_resnet50w5", "swav_RN50w5_400ep_pretrain", 78.5, 400, width=5, hidden=10240, batch_norm=False),
    _swav("deepclusterv2_resnet50", "deepclusterv2_800ep_pretrain", 75.2, 800, method="DeepCluster-v2", heads=3),
    _swav("deepclusterv2_resnet50_400ep", "deepclusterv2_400ep_pretrain", 74.3, 400, method="DeepCluster-v2", heads=3,
          crops="2x160+4x96"),
    _swav("deepclusterv2_resnet50_400ep_2x224", "deepclusterv2_400ep_2x224_pretrain", 70.2, 400,
          method="DeepCluster-v2", heads=3, crops="2x224"),
    _swav("selav2_resnet50", "selav2_400ep_pretrain", 71.8, 400, method="SeLa-v2", heads=3, crops="2x160+4x96"),
    _swav("selav2_resnet50_2x224", "selav2_400ep_2x224_pretrain", 67.2, 400, method="SeLa-v2", heads=3, crops="2x224"),
    Release("swav_resnet50_linear", "SwAV", "", "swav_800ep_eval_linear.pth.tar",
            _SWAV_FILES + "swav_800ep_eval_linear.pth.tar", _SWAV_PAGE, "swav", classes=(1000,), epochs=100,
            accuracy=75.3),
    _sela("sela_alexnet", "alexnet", "alexnet-10x3k-wRot.pth", "sela-alexnet", (3000,) * 10, None, "pretrained.zip"),
    _sela("sela_resnet50", "resnet50-preactivation", "resnet-10x3k.pth", "sela-resnetv2", (3000,) * 10, 61.5,
          "pretrained.zip"),
    _sela("sela_resnet18_1k", "resnet18", "resnet18-1k_pp.pth", "swav", (1000,), 53.3, "new_models/resnet18-1k_pp.pth"),
    _sela("sela_resnet50_1k", "resnet50", "resnet50-1k_pp.pth", "swav", (1000,), 63.5, "new_models/resnet50-1k_pp.pth"),
    _sela("sela_resnet50_10x3k", "resnet50", "resnet50-10x3k_pp.pth", "swav", (3000,), 68.8,
          "new_models/resnet50-10x3k_pp.pth"),
    _passl("passl_swav_resnet50", "swav_resnet50_in1k_800ep_bz4096_pretrained.pdparams", hidden=2048, embedding=128,
           prototypes=(3000,), epochs=800, accuracy=75.3),
    _passl("passl_swav_resnet50_linearprobe", "swav_resnet50_in1k_linearprobe.pdparams", classes=(1000,),
           accuracy=75.3),
    _passl("passl_swav_resnet50_finetune_1percent", "swav_resnet50_in1k_finetune_1percent.pdparams", classes=(1000,)),
    _passl("passl_swav_resnet50_finetune_10percent", "swav_resnet50_in1k_finetune_10percent.pdparams", classes=(1000,)),
)
_BY_NAME: Dict[str, Release] = {release.name: release for release in RELEASES}


def list_models(pattern: str = "*") -> List[str]:
    """Names of the released models, optionally those that match a shell pattern such as `swav_*`."""
    import fnmatch

    return [release.name for release in RELEASES if fnmatch.fnmatchcase(release.name, pattern)]


def release(name: str) -> Release:
    """The entry of a name; KeyError with the nearest name otherwise."""
    from passl.registry import nearest

    if name not in _BY_NAME:
        raise KeyError(f"no released model is called '{name}'{nearest(name, _BY_NAME)}; `passl list-models` shows all")
    return _BY_NAME[name]


def get_model(name: str, pretrained: Union[bool, str] = False, **options: Any):
    """The network of a released model or of a backbone name: trunk, projection head and prototypes.

    name: of `list_models()`, or a backbone name such as "resnet50w2".
    pretrained: False (random weights); True (the released file, from `weights_folder()` or downloaded into it); a path
        to any weight file `passl.weights` reads, converted in memory - the head is then built as the file has it.
    options: constructor parameters of the backbone that replace the release's, for instance nmb_prototypes=300 for a
        new prototype layer on own data, or output_dim=0, nmb_prototypes=0 for pooled features. A head of another size
        keeps its random weights; a trunk that does not match is an error.
    Returns a `passl.models.multi_crop.MultiCropNetwork` in training mode.
    """
    from passl.registry import BACKBONES, nearest

    entry = _BY_NAME.get(name)
    architecture = entry.architecture if entry else name
    if architecture not in BACKBONES:
        known = sorted(set(BACKBONES.names()) | set(_BY_NAME))
        what = f"'{name}' has no network here" if entry else f"no model is called '{name}'{nearest(name, known)}"
        raise KeyError(f"{what}; `passl list-models` shows the released ones, backbones are "
                       f"{', '.join(BACKBONES.names())}")
    parameters = _head(entry.hidden, entry.embedding, entry.prototypes, entry.head_batch_norm) if entry else {}
    if not pretrained:
        return BACKBONES.build({"type": architecture, **parameters, **options}, key="type")
    from passl.weights import load_into, read, recognise

    if pretrained is True and not entry:
        raise ValueError(f"'{name}' is an architecture; pretrained=True needs a released model (`passl list-models`) "
                         "or the path of a weight file")
    if pretrained is True:
        from passl.models.download import weights_file

        pretrained = weights_file(entry)
    checkpoint = read(pretrained)
    found = recognise(checkpoint)[1]
    parameters = _head(found.hidden, found.embedding, tuple(found.prototypes), found.head_batch_norm)
    network = BACKBONES.build({"type": architecture, **parameters, **options}, key="type")
    load_into(network, checkpoint)
    return network


def _head(hidden: int, embedding: int, prototypes: Tuple[int, ...], batch_norm: bool) -> Dict[str, Any]:
    if not embedding:
        return {}
    return {"normalize": True, "hidden_mlp": hidden, "output_dim": embedding,
            "head_batch_norm": batch_norm or not hidden,
            "nmb_prototypes": prototypes[0] if len(prototypes) == 1 else list(prototypes) or 0}


def table() -> str:
    """All releases, one line each, for people."""
    rows = [("name", "method", "network", "crops", "epochs", "top-1", "file")]
    for entry in RELEASES:
        rows.append((entry.name, entry.method, entry.architecture or "linear head", entry.crops,
                     str(entry.epochs or "-"), "-" if entry.accuracy is None else f"{entry.accuracy:.1f}", entry.file))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def weights_folder() -> str:
    """Where released files are looked for: $PASSL_HOME/weights, by default ~/.passl/weights."""
    home = os.environ.get("PASSL_HOME") or os.path.join(os.path.expanduser("~"), ".passl")
    return os.path.join(home, "weights")
