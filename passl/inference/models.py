"""Networks by name, by run or by weight file."""
from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

import paddle

from passl.inference.card import ModelCard, fill_from_run, run_config
from passl.models import zoo
from passl.models.backbones import ALIASES, ARCHITECTURES
from passl.models.classifier import FineTuneModel, LinearProbeModel
from passl.models.pretrain import PretrainModel
from passl.models.pretrained import find_weights
from passl.registry import UnknownComponent, nearest
from passl.weights import CheckpointError, load_into, read, recognise

# The head that every published SwAV run has (SwAV appendix A.1).
PUBLISHED_HEAD = {"normalize": True, "hidden_mlp": 2048, "output_dim": 128, "nmb_prototypes": 3000}
PHASES = {"pretrain": PretrainModel, "linearprobe": LinearProbeModel, "finetune": FineTuneModel}
RELEASED = {"swav_resnet50_pretrain": "swav_resnet50", "swav_resnet50w2_pretrain": "swav_resnet50w2",
            "swav_resnet50w4_pretrain": "swav_resnet50w4", "swav_resnet50w5_pretrain": "swav_resnet50w5",
            "swav_resnet50_linearprobe": "passl_swav_resnet50_linearprobe",
            "swav_resnet50_finetune": "passl_swav_resnet50_finetune_10percent"}


def list_models(pattern: Optional[str] = "*") -> List[str]:
    """Names that `get_model` takes and that match a shell pattern; `*` may stand anywhere ('*linearprobe', 'swav*w2*').
    A pattern without wildcards matches any part of a name; None gives all.

    Three kinds: trunks ('resnet50'), networks of a method and phase ('swav_resnet50_linearprobe'), and released
    weights ('swav_resnet50_400ep'; `passl list-models` prints their scores).
    """
    from passl.registry import BACKBONES

    pattern = "*" if pattern is None else pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    trunks = [name for name in BACKBONES.names() if name not in ALIASES]
    phases = [f"swav_{architecture}_{phase}" for architecture in ARCHITECTURES for phase in PHASES]
    return sorted(name for name in {*trunks, *phases, *zoo.list_models()} if fnmatch.fnmatchcase(name, pattern))


def get_model(name: Union[str, "os.PathLike[str]"], pretrained: Union[None, bool, str] = None,
              **options: Any) -> paddle.nn.Layer:
    """A network in evaluation mode, with `extract_feat(images [B, 3, H, W]) -> [B, F]` and a `card`.

    name: one of `list_models()`; or something that holds weights, whose architecture is then read from it: a run's
        folder or checkpoint ('output/swav_resnet18_pretrain'), or a weight file of any library passl reads.
    pretrained: None or False: random weights. True: the released weights of that name, downloaded when needed. A path:
        weights for the named architecture.
    options: constructor parameters that replace the defaults: those of the backbone (stem, base_channels,
        nmb_prototypes, ...), and for classifiers class_num, global_pooling, use_bn.
    Calling the network gives logits (probe, fine-tuned), (embedding, scores) (pretraining) or features (trunk).
    UnknownComponent names the nearest known name; CheckpointError says what is wrong with weights.
    """
    name, known = os.fspath(name), list_models()
    if name in known:
        _refuse_unknown(options)
        return _by_name(name, pretrained, options)
    if os.path.exists(name) or os.path.exists(f"{name}.pdparams"):
        if pretrained not in (None, False) or options:
            raise ValueError(f"{name} is a file or run and brings its own weights and architecture; drop pretrained "
                             f"and {', '.join(options) or 'options'}")
        return _from_file(find_weights(name))
    where = "" if os.sep not in name else f" and no file or folder {os.path.abspath(name)} exists"
    raise UnknownComponent(f"no model is called '{name}'{nearest(name, known)}{where}; passl.list_models('*swav*') "
                           "lists names, wildcards anywhere")


def _by_name(name: str, pretrained: Union[None, bool, str], options: Dict[str, Any]) -> paddle.nn.Layer:
    entry = zoo.release(RELEASED.get(name, name)) if RELEASED.get(name, name) in zoo.list_models() else None
    if pretrained is True:
        if entry is None:
            raise ValueError(f"no weights are released for '{name}'; released are {', '.join(zoo.list_models('swav*'))}"
                             ", or give pretrained the path of a weight file")
        from passl.models.download import weights_file

        pretrained = weights_file(entry)
    method, _, phase = name.rpartition("_")
    if phase in PHASES and name not in zoo.list_models():
        model = _phase(method.replace("swav_", "", 1), phase, options)
    elif entry is not None and pretrained and entry.classes and entry.keys == "passl":
        return _from_file(Path(pretrained), name)
    else:
        model = zoo.get_model(name, **options)
    card = ModelCard(name)
    if pretrained:
        path = find_weights(str(pretrained))
        report = load_into(model, path)
        unloaded = {*report.missing, *(wrong for wrong, _, _ in report.wrong_shape)}
        card = _card(name, path, model, unloaded)
    return _finish(model, card)


def _phase(architecture: str, phase: str, options: Dict[str, Any]) -> paddle.nn.Layer:
    """The network of one phase; options go to the classifier or to the backbone, as they are named."""
    if phase == "pretrain":
        return PretrainModel({"type": architecture, **PUBLISHED_HEAD, **options})
    own = {key: options.pop(key) for key in ("global_pooling", "use_bn") if key in options and phase == "linearprobe"}
    classes = options.pop("class_num", 1000)
    return PHASES[phase]({"type": architecture, **options}, classes, **own)


def _from_file(path: Path, name: Optional[str] = None) -> paddle.nn.Layer:
    """The network that a weight file holds, built from the run's config beside it or from the file's own shapes."""
    checkpoint = read(path)
    canonical, found = recognise(checkpoint)
    model = _from_shapes(path, canonical, found, (run_config(path).get("Model") or {}).get("backbone") or {})
    load_into(model, checkpoint, strict="all")
    return _finish(model, _card(name or str(path), path, model, set()))


def _from_shapes(path: Path, canonical, found, trunk: Mapping[str, Any]) -> paddle.nn.Layer:
    """A network of the shapes in a file; `trunk` is Model.backbone of its run's config, when there is one."""
    backbone = {key: value for key, value in trunk.items() if key in ("type", "stem", "base_channels")}
    if not backbone:
        if not found.architecture:
            raise CheckpointError(f"{path} holds {found.kind} weights without a trunk: convert and join them, or give "
                                  "the file that has the trunk")
        backbone = {"type": found.architecture}
        if found.block in ("basic", "bottleneck"):
            channels = canonical["conv1.weight"].shape[0]
            width = ARCHITECTURES[found.architecture][2] if found.architecture in ARCHITECTURES else 1
            backbone.update(base_channels=channels // width, stem="small" if found.stem_kernel == 3 else "imagenet")
    from passl.registry import BACKBONES

    if backbone["type"] not in BACKBONES:
        raise CheckpointError(f"{path} holds a {backbone['type']}, which is not a network of this library; known: "
                              f"{', '.join(sorted(set(BACKBONES.names()) - set(ALIASES)))}")
    if "linear.weight" in canonical:
        classes, inputs = canonical["linear.weight"].shape
        return LinearProbeModel(backbone, classes, inputs == found.features, "bn.weight" in canonical)
    if found.classes and "projection_head.weight" in canonical:
        return FineTuneModel(backbone, found.classes[0])
    head = {}
    if found.embedding:
        prototypes = found.prototypes[0] if len(found.prototypes) == 1 else found.prototypes or 0
        head = {"normalize": True, "hidden_mlp": found.hidden, "output_dim": found.embedding,
                "head_batch_norm": found.head_batch_norm or not found.hidden, "nmb_prototypes": prototypes}
    if found.prototypes:
        return PretrainModel({**backbone, **head})
    return BACKBONES.build({**backbone, **head}, key="type")


def _card(name: str, path: Path, model: paddle.nn.Layer, unloaded) -> ModelCard:
    """What of the model's heads came from the file, and how the file's run prepares images."""

    def is_trained(part: str) -> bool:
        names = [key for key in model.state_dict() if part in key.split(".")]
        return bool(names) and not set(names) & set(unloaded)

    classifier = {LinearProbeModel: "linear", FineTuneModel: "projection_head"}.get(type(model))
    card = ModelCard(name, str(path), has_classifier=classifier is not None and is_trained(classifier),
                     has_prototypes=is_trained("prototypes"))
    fill_from_run(card, path)
    return card


def _finish(model: paddle.nn.Layer, card: ModelCard) -> paddle.nn.Layer:
    trunk_and_heads = getattr(model, "res_model", model)
    if getattr(trunk_and_heads, "prototypes", None) is not None:
        trunk_and_heads.normalize_prototypes()  # a checkpoint holds them as the last step left them
    model.card = card
    model.eval()
    return model


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """ValueError for an option that no trunk and no classifier takes."""
    from passl.registry import BACKBONES

    known = {"class_num", "global_pooling", "use_bn"}.union(*(BACKBONES.parameters(name) for name in BACKBONES.names()))
    for option in options:
        if option not in known:
            raise ValueError(f"get_model has no option '{option}'{nearest(option, known)}; it takes: "
                             f"{', '.join(sorted(known))}")
