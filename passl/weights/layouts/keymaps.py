"""The names that weights go by in each library, as tables.

Everything meets in one canonical form: PyTorch names and layouts (Linear [out, in], BatchNorm running_mean/running_var)
with a torchvision ResNet trunk and the heads of the SwAV releases:

    conv1.weight, bn1.*, layer{1-4}.{i}.*            trunk
    projection_head.{weight,bias}                    one Linear
    projection_head.{0,1,3}.* or .{0,2}.*            Linear, BatchNorm, ReLU, Linear; without BatchNorm
    prototypes.weight or prototypes.prototypes{h}.weight
    fc.*, linear.*                                   classifier of torchvision; linear probe
    top_layer{h}.*                                   cluster heads of SeLa
    features.*, classifier.*                         SeLa's AlexNet and pre-activation ResNet
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Pattern, Sequence, Tuple, Union

_NORM = r"(?:weight|bias|running_mean|running_var|num_batches_tracked|_mean|_variance)"
_BLOCK = rf"\d+\.(?:conv[123]\.weight|bn[123]\.{_NORM}|downsample\.(?:0\.weight|1\.{_NORM}))"
_TRUNK = rf"(conv1\.weight|bn1\.{_NORM}|layer[1-4]\.{_BLOCK})"
_ALEXNET_LAYERS = rf"((?:0|4|8|11|14)\.(?:weight|bias)|(?:1|5|9|12|15)\.{_NORM})"
_ALEXNET_CLASSIFIER = r"(classifier\.[14]\.(?:weight|bias))"
_PREACTIVATION_LAYERS = rf"(0\.weight|[2-5]\.\d+\.(?:bn[123]\.{_NORM}|conv[123]\.weight|shortcut\.0\.weight))"
_AFFINE = r"(weight|bias)"
_HEAD = rf"((?:[023]\.)?(?:weight|bias)|1\.{_NORM})"  # one Linear, or Linear, BatchNorm, ReLU, Linear
_PROTOTYPES = r"(prototypes\.(?:prototypes\d+\.)?(?:weight|bias))"  # lightly's have a bias
_MODEL = r"(?:model\.)?"  # lightly's linear evaluation keeps the pretrained network under this name
_SELA = r"features\.(?:module\.)?"  # SeLa wraps only the features for several GPUs

TRUNK = re.compile(rf"^(?:{_TRUNK}|{_ALEXNET_CLASSIFIER}|features\.(?:{_ALEXNET_LAYERS}|{_PREACTIVATION_LAYERS}))$")
STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}  # BatchNorm: PyTorch -> Paddle
COUNTER = "num_batches_tracked"

Replacement = Union[str, Callable[[re.Match], str]]


@dataclass(frozen=True)
class Layout:
    """How one library names the weights: (pattern of its key, canonical name) rules, and keys that may be left out.

    duplicates: rules of keys that name an array a second time; they count as known only when the two are equal.
    paddle: True when arrays are in Paddle's layout whatever their names; otherwise BatchNorm's names decide.
    single_head: a lone `prototypes.prototypes0` is plain `prototypes` here, the library always numbers its heads.
    small_stem: which of `passl.models.stems.STEMS` a 3x3 first convolution is in this library; "" when not known.
    online_classifier: beside a projection head, a classifier only watches the pretraining.
    """

    name: str
    rules: Tuple[Tuple[Pattern, Replacement], ...]
    ignored: Tuple[Pattern, ...] = ()
    duplicates: Tuple[Tuple[Pattern, Replacement], ...] = ()
    paddle: bool = False
    single_head: bool = False
    small_stem: str = ""
    online_classifier: bool = False

    def canonical(self, key: str) -> Optional[str]:
        """The canonical name of one of this library's keys, None when it is not one."""
        return _first(self.rules, key)

    def duplicate(self, key: str) -> Optional[str]:
        """The canonical name that `key` names a second time, None when it is no such key."""
        return _first(self.duplicates, key)

    def ignores(self, key: str) -> bool:
        """Whether the library keeps this key for training only, so that nothing is lost without it."""
        return any(pattern.match(key) for pattern in self.ignored)


def _first(rules: Sequence[Tuple[Pattern, Replacement]], key: str) -> Optional[str]:
    for pattern, replacement in rules:
        match = pattern.fullmatch(key)
        if match:
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


def _layout(name: str, rules: Sequence[Tuple[str, Replacement]], ignored: Sequence[str] = (),
            duplicates: Sequence[Tuple[str, Replacement]] = (), **options) -> Layout:
    compiled = [tuple((re.compile(pattern), replacement) for pattern, replacement in each)
                for each in (rules, duplicates)]
    return Layout(name, compiled[0], tuple(re.compile(pattern) for pattern in ignored), compiled[1], **options)


def _stage(offset: int) -> Callable[[re.Match], str]:
    return lambda match: f"layer{int(match[1]) - offset}.{match[2]}"


_CLUSTER_HEADS = [(rf"top_layer(\d+)\.{_AFFINE}", r"top_layer\1.\2"), (rf"top_layer\.0\.{_AFFINE}", r"top_layer0.\1"),
                  (rf"top_layer\.{_AFFINE}", r"top_layer0.\1")]

SWAV = _layout("SwAV / torchvision", [
    (_TRUNK, r"\1"), (rf"projection_head\.{_HEAD}", r"projection_head.\1"), (_PROTOTYPES, r"\1"),
    (rf"fc\.{_AFFINE}", r"fc.\1"), (rf"linear\.{_AFFINE}", r"linear.\1"), (rf"bn\.({_NORM})", r"bn.\1")])
PASSL = _layout("PASSL", [
    (rf"(?:res_model\.)?encoder\.{_TRUNK}", r"\1"), (rf"(?:res_model\.)?{_PROTOTYPES}", r"\1"),
    (rf"(?:res_model\.)?projection_head\.{_HEAD}", r"projection_head.\1"),
    (rf"linear\.linear\.{_AFFINE}", r"linear.\1"), (rf"linear\.bn\.({_NORM})", r"bn.\1"),
    (rf"(?:res_model\.)?encoder\.features\.{_ALEXNET_LAYERS}", r"features.\1"),
    (rf"(?:res_model\.)?encoder\.{_ALEXNET_CLASSIFIER}", r"\1"),
    (rf"(?:res_model\.)?encoder\.features\.{_PREACTIVATION_LAYERS}", r"features.\1"),
    (rf"(?:res_model\.)?top_layer(\d+)\.{_AFFINE}", r"top_layer\1.\2")], paddle=True)
MMPRETRAIN = _layout("mmpretrain / mmselfsup", [
    (rf"backbone\.{_TRUNK}", r"\1"), (rf"neck\.projection_neck\.{_HEAD}", r"projection_head.\1"),
    (rf"(?:neck|head|head\.loss|head\.loss_module)\.{_PROTOTYPES}", r"\1"), (rf"head\.fc\.{_AFFINE}", r"fc.\1")],
    # the neck registers its BatchNorm a second time: `bn` in mmselfsup 0.x, `norm` later
    duplicates=[(rf"neck\.(?:norm|bn)\.({_NORM})", r"projection_head.1.\1")],
    small_stem="small")  # its ResNet_CIFAR
VISSL = _layout("VISSL", [
    # base_model: of its linear evaluation, whose head is a batch norm and a Linear
    (rf"(?:trunk\.(?:base_model\.)?)?_feature_blocks\.{_TRUNK}", r"\1"),
    (rf"heads\.0\.channel_bn\.({_NORM})", r"bn.\1"), (rf"heads\.0\.clf\.clf\.0\.{_AFFINE}", r"linear.\1"),
    (rf"heads\.0\.projection_head\.{_HEAD}", r"projection_head.\1"),
    (r"heads\.0\.(prototypes\d+\.weight)", r"prototypes.\1"), (rf"heads\.0\.clf\.0\.{_AFFINE}", r"fc.\1")],
    single_head=True)
SOLO = _layout("solo-learn", [
    (rf"(?:backbone|encoder)\.{_TRUNK}", r"\1"), (rf"projector\.{_HEAD}", r"projection_head.\1"),
    (r"prototypes\.(weight|weight_g|weight_v)", r"prototypes.\1"), (rf"classifier\.{_AFFINE}", r"fc.\1"),
    (r"prototypes\.(\d+)\.weight", r"prototypes.prototypes\1.weight"),  # DeepCluster-v2
    (r"prototypes\.parametrizations\.weight\.original0", "prototypes.weight_g"),
    (r"prototypes\.parametrizations\.weight\.original1", "prototypes.weight_v")],
    ignored=[r"queue$", r"local_memory_"], single_head=True, online_classifier=True,
    small_stem="small_padded")  # of its CIFAR networks, solo/methods/base.py
_LIGHTLY_HEADS = [
    (rf"{_MODEL}projection_head\.layers\.{_HEAD}", r"projection_head.\1"),
    (rf"{_MODEL}prototypes\.heads\.(\d+)\.{_AFFINE}", r"prototypes.prototypes\1.\2"),
    (rf"{_MODEL}prototypes\.layers\.weight", "prototypes.weight"), (rf"classification_head\.{_AFFINE}", r"fc.\1")]
_LIGHTLY_IGNORED = [rf"{_MODEL}(?:online_classifier|queues?|criterion|memory_bank)\."]
LIGHTLY = _layout("lightly", [
    (rf"{_MODEL}backbone\.{_TRUNK}", r"\1"),  # a torchvision ResNet as it is, as in its ImageNet benchmarks
    (rf"{_MODEL}backbone\.0\.weight", "conv1.weight"),  # or its children in a Sequential, as in its examples
    (rf"{_MODEL}backbone\.1\.({_NORM})", r"bn1.\1"), (rf"{_MODEL}backbone\.([4-7])\.({_BLOCK})", _stage(3)),
    *_LIGHTLY_HEADS], ignored=_LIGHTLY_IGNORED, single_head=True)
LIGHTLY_CIFAR = _layout("lightly ResNetGenerator", [  # of its CIFAR-10 benchmarks: no max-pool among the children
    (rf"{_MODEL}backbone\.0\.weight", "conv1.weight"), (rf"{_MODEL}backbone\.1\.({_NORM})", r"bn1.\1"),
    (rf"{_MODEL}backbone\.([2-5])\.(\d+\.(?:conv[123]\.weight|bn[123]\.{_NORM}))", _stage(1)),
    (rf"{_MODEL}backbone\.([2-5])\.(\d+)\.shortcut\.(0\.weight|1\.{_NORM})",
     lambda m: f"layer{int(m[1]) - 1}.{m[2]}.downsample.{m[3]}"), *_LIGHTLY_HEADS],
    ignored=_LIGHTLY_IGNORED, single_head=True, small_stem="small")
SELA_ALEXNET = _layout("SeLa AlexNet", [
    (rf"{_SELA}{_ALEXNET_LAYERS}", r"features.\1"), (_ALEXNET_CLASSIFIER, r"\1"), *_CLUSTER_HEADS])
SELA_RESNET_V1 = _layout("SeLa resnetv1", [
    (rf"{_SELA}0\.weight", "conv1.weight"), (rf"{_SELA}1\.({_NORM})", r"bn1.\1"),
    (rf"{_SELA}([4-7])\.({_BLOCK})", _stage(3)), *_CLUSTER_HEADS])
SELA_RESNET_V2 = _layout("SeLa resnetv2 (pre-activation)",
                         [(rf"{_SELA}{_PREACTIVATION_LAYERS}", r"features.\1"), *_CLUSTER_HEADS])

_BRANCHES = {"2a": "1", "2b": "2", "2c": "3"}


def _from_paddledet(match: re.Match) -> str:
    stage, letter, number, layer, kind, leaf = match.groups()
    block = int(number) if number else ord(letter) - ord("a")
    if layer == "short":
        part = "downsample.0" if kind == "conv" else "downsample.1"
    else:
        part = f"{'conv' if kind == 'conv' else 'bn'}{_BRANCHES[layer[-2:]]}"
    return f"layer{int(stage) - 1}.{block}.{part}.{leaf}"


def _from_detectron2(match: re.Match) -> str:
    stage, block, part, leaf = match.groups()
    part = {"shortcut": "downsample.0", "shortcut.norm": "downsample.1"}.get(part, part)
    part = f"bn{part[4]}" if part.endswith(".norm") else part
    return f"layer{int(stage) - 1}.{block}.{part}.{leaf}"


PADDLEDET = _layout("PaddleDetection", [
    (r"(?:backbone\.)?conv1\.conv1\.conv\.weight", "conv1.weight"),
    (rf"(?:backbone\.)?conv1\.conv1\.norm\.({_NORM})", r"bn1.\1"),
    (rf"(?:backbone\.)?res\d\.res([2-5])([a-z])(\d*)\.(branch2[abc]|short)\.(conv|norm)\.({_NORM})", _from_paddledet)],
    paddle=True)
DETECTRON2 = _layout("detectron2", [
    (r"stem\.conv1\.weight", "conv1.weight"), (rf"stem\.conv1\.norm\.({_NORM})", r"bn1.\1"),
    (rf"res([2-5])\.(\d+)\.(conv[123](?:\.norm)?|shortcut(?:\.norm)?)\.({_NORM})", _from_detectron2),
    (rf"(?:stem\.fc|linear)\.{_AFFINE}", r"fc.\1")])
# blocks are numbered through all stages; `paddleclas_blocks` turns them into stages once the file is known
PADDLECLAS = _layout("PaddleClas", [
    (r"stem\.0\.conv\.weight", "conv1.weight"), (rf"stem\.0\.bn\.({_NORM})", r"bn1.\1"),
    (r"blocks\.(\d+)\.conv(\d)\.conv\.weight", lambda m: f"block.{m[1]}.conv{int(m[2]) + 1}.weight"),
    (rf"blocks\.(\d+)\.conv(\d)\.bn\.({_NORM})", lambda m: f"block.{m[1]}.bn{int(m[2]) + 1}.{m[3]}"),
    (r"blocks\.(\d+)\.short\.conv\.weight", r"block.\1.downsample.0.weight"),
    (rf"blocks\.(\d+)\.short\.bn\.({_NORM})", r"block.\1.downsample.1.\2"), (rf"fc\.{_AFFINE}", r"fc.\1")], paddle=True)

LAYOUTS: Dict[str, Layout] = {
    "swav": SWAV, "passl": PASSL, "mmpretrain": MMPRETRAIN, "vissl": VISSL, "solo": SOLO, "lightly": LIGHTLY,
    "lightly-cifar": LIGHTLY_CIFAR,
    "sela-alexnet": SELA_ALEXNET, "sela-resnetv1": SELA_RESNET_V1, "sela-resnetv2": SELA_RESNET_V2,
    "paddleclas": PADDLECLAS, "paddledet": PADDLEDET, "detectron2": DETECTRON2}


def paddleclas_stages(starts: List[int], block: int) -> str:
    """`layer{stage}.{i}` of a block numbered through all stages; `starts` are the first blocks of the stages."""
    stage = max(index for index, start in enumerate(starts) if start <= block)
    return f"layer{stage + 1}.{block - starts[stage]}"


def passl_name(canonical: str) -> str:
    """Canonical name -> PASSL's, with Paddle's BatchNorm names."""
    stem, _, leaf = canonical.rpartition(".")
    name = f"{stem}.{STATISTICS.get(leaf, leaf)}" if stem else leaf
    if TRUNK.match(canonical):
        return f"res_model.encoder.{name}"
    if canonical.startswith(("linear.", "fc.")):
        return f"linear.linear.{leaf}"
    if canonical.startswith("bn."):
        return f"linear.{name}"
    return f"res_model.{name}"


_BLOCK_KEY = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)")


def paddleclas_name(canonical: str, blocks: Sequence[int]) -> str:
    """Canonical trunk or fc name -> PaddleClas (`ppcls.arch` ResNet50 and deeper)."""
    match = _BLOCK_KEY.match(canonical)
    stem, _, leaf = canonical.rpartition(".")
    leaf = STATISTICS.get(leaf, leaf)
    if not match:
        return {"conv1": f"stem.0.conv.{leaf}", "bn1": f"stem.0.bn.{leaf}"}.get(stem, f"{stem}.{leaf}")
    stage, index, kind, number, _ = match.groups()
    block = sum(blocks[:int(stage) - 1]) + int(index)
    if kind == "downsample.":
        return f"blocks.{block}.short.{'conv' if number == '0' else 'bn'}.{leaf}"
    return f"blocks.{block}.conv{int(number) - 1}.{kind}.{leaf}"


def paddledet_name(canonical: str, blocks: Sequence[int]) -> str:
    """Canonical trunk name -> PaddleDetection's `ResNet` backbone (Faster R-CNN, Mask R-CNN, DETR)."""
    match = _BLOCK_KEY.match(canonical)
    stem, _, leaf = canonical.rpartition(".")
    leaf = STATISTICS.get(leaf, leaf)
    if not match:
        return f"conv1.conv1.{'conv' if stem == 'conv1' else 'norm'}.{leaf}"
    layer, index, kind, number, _ = match.groups()
    stage, index = int(layer) + 1, int(index)
    if blocks[int(layer) - 1] > 10 and stage == 4:  # ResNet-101 runs out of letters: 4a, 4b1, 4b2, ...
        block = f"res{stage}a" if index == 0 else f"res{stage}b{index}"
    else:
        block = f"res{stage}{chr(ord('a') + index)}"
    if kind == "downsample.":
        return f"res{stage}.{block}.short.{'conv' if number == '0' else 'norm'}.{leaf}"
    branch = "2" + "abc"[int(number) - 1]
    return f"res{stage}.{block}.branch{branch}.{'conv' if kind == 'conv' else 'norm'}.{leaf}"


def detectron2_name(canonical: str) -> str:
    """Canonical trunk name -> detectron2's ResNet."""
    match = _BLOCK_KEY.match(canonical)
    stem, _, leaf = canonical.rpartition(".")
    if not match:
        return f"stem.conv1.{'norm.' if stem == 'bn1' else ''}{leaf}"
    layer, index, kind, number, _ = match.groups()
    part = {"conv": f"conv{number}", "bn": f"conv{number}.norm",
            "downsample.": "shortcut" if number == "0" else "shortcut.norm"}[kind]
    return f"res{int(layer) + 1}.{index}.{part}.{leaf}"
