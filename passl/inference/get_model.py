"""Networks by name, by run or by weight file."""
from __future__ import annotations

import fnmatch
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import paddle

from passl.errors import UnknownComponent, UserError
from passl.inference.card import ModelCard, fill_from_run, run_config
from passl.models.backbones import ALIASES, ARCHITECTURES
from passl.models.classifier import FineTuneModel, LinearProbeModel
from passl.models.pretrain import PretrainModel
from passl.registry import BACKBONES, nearest
from passl.weights import (
    Checkpoint,
    CheckpointError,
    Found,
    LoadReport,
    load_into,
    read,
    recognise,
    to_passl_state,
    zoo,
)
from passl.weights.locate import find_weights

LOGGER = logging.getLogger("passl")
# The head of a published run of SwAV (appendix A.1), for architectures of which none is released.
PUBLISHED_HEAD = {"normalize": True, "hidden_mlp": 2048, "output_dim": 128, "nmb_prototypes": 3000}
PHASES = {"pretrain": PretrainModel, "linearprobe": LinearProbeModel, "finetune": FineTuneModel}
RELEASED = {"swav_resnet50_pretrain": "swav_resnet50", "swav_resnet50w2_pretrain": "swav_resnet50w2",
            "swav_resnet50w4_pretrain": "swav_resnet50w4", "swav_resnet50w5_pretrain": "swav_resnet50w5",
            "swav_resnet50_linearprobe": "passl_swav_resnet50_linearprobe",
            "swav_resnet50_finetune": "passl_swav_resnet50_finetune_10percent"}

PathLike = Union[str, "os.PathLike[str]"]


def list_models(pattern: Optional[str] = "*") -> List[str]:
    """Names that `get_model` takes and that match a shell pattern; `*` may stand anywhere ('*linearprobe', 'swav*w2*').
    A pattern without wildcards matches any part of a name; None gives all.

    Three kinds: trunks ('resnet50'), networks of a method and phase ('swav_resnet50_linearprobe'), and released
    weights ('swav_resnet50_400ep'; `passl list-models` prints their scores, and also those that only `passl-convert`
    reads).
    """
    pattern = "*" if pattern is None else pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    trunks = [name for name in BACKBONES.names() if name not in ALIASES]
    phases = [f"swav_{architecture}_{phase}" for architecture in ARCHITECTURES for phase in PHASES]
    released = [name for name in zoo.list_models() if not zoo.release(name).convert_only]
    return sorted(name for name in {*trunks, *phases, *released} if fnmatch.fnmatchcase(name, pattern))


def get_model(name: PathLike, pretrained: Union[None, bool, PathLike, Sequence[PathLike]] = None,
              **options: Any) -> paddle.nn.Layer:
    """A network in evaluation mode, with `extract_feat(images [B, 3, H, W]) -> [B, F]` and a `card`.

    name: one of `list_models()`; or something that holds weights, whose architecture is then read from it: a run's
        folder or checkpoint ('output/swav_resnet18_pretrain'), or a weight file of any library passl reads.
    pretrained: None or False: random weights. True: the released weights of that name, downloaded when needed. A path:
        weights for the named architecture; its heads are built as the file has them. Two paths: a file with the trunk,
        and one with a classifier that was saved without it (SwAV's eval_linear).
    options: constructor parameters that replace the defaults, the release's and the file's: those of the backbone
        (stem, base_channels, nmb_prototypes=300 for a new prototype layer on own data, ...), and for classifiers
        class_num, global_pooling, use_bn.
    Calling the network gives logits (probe, fine-tuned), (embedding, scores) (pretraining) or features (trunk).
    What became of the weights is logged, as a warning when a part of the network keeps its random values; the `card`
    then says so, and a trunk that does not match is an error.
    UnknownComponent names the nearest known name; CheckpointError says what is wrong with weights.
    """
    name, known = os.fspath(name), list_models()
    if name in known:
        _refuse_unknown(options)
        return _by_name(name, pretrained, options)
    if os.path.exists(name) or os.path.exists(f"{name}.pdparams"):
        if pretrained not in (None, False) or options:
            raise UserError(f"{name} is a file or run and brings its own weights and architecture; drop pretrained "
                            f"and {', '.join(options) or 'options'}")
        return _from_file(find_weights(name))
    if name in zoo.list_models():
        entry = zoo.release(name)
        raise UnknownComponent(f"'{name}' is released, but its network ({entry.architecture}) is not built here; get "
                               f"{entry.file} from {entry.page} and convert it: passl-convert {entry.file} OUT")
    where = "" if os.sep not in name else f" and no file or folder {os.path.abspath(name)} exists"
    raise UnknownComponent(f"no model is called '{name}'{nearest(name, known)}{where}; passl.list_models('*swav*') "
                           "lists names, wildcards anywhere")


def _by_name(name: str, pretrained: Union[None, bool, PathLike, Sequence[PathLike]],
             options: Dict[str, Any]) -> paddle.nn.Layer:
    entry = next((zoo.release(one) for one in (RELEASED.get(name), name) if one in zoo.list_models()), None)
    files = _files(name, entry, pretrained)
    if not files:
        return _finish(_named(name, entry, {}, None, options), ModelCard(name))
    checkpoint = read(files[0]) if len(files) == 1 else _joined([read(path) for path in files])
    canonical, found = recognise(checkpoint)
    if not found.architecture:
        raise CheckpointError(f"{checkpoint.path} holds a {found.kind} without a trunk: give the file of the trunk it "
                              f"was trained on as well, get_model('{name}', pretrained=[TRUNK, HEAD]) or --weights "
                              "TRUNK --weights HEAD")
    model = _named(name, entry, canonical, found, options)
    card = _card(name, model, _told(load_into(model, checkpoint)))
    fill_from_run(card, files[-1])
    return _finish(model, card)


def _files(name: str, entry: Optional[zoo.Release],
           pretrained: Union[None, bool, PathLike, Sequence[PathLike]]) -> List[Path]:
    """Weight files that `pretrained` stands for: none, one, or trunk and head."""
    if pretrained is None or pretrained is False:
        return []
    if pretrained is True:
        if entry is None:
            raise UserError(f"no weights are released for '{name}'; released are {', '.join(zoo.list_models('swav*'))}"
                            ", or give pretrained the path of a weight file")
        from passl.weights.download import weights_file

        entries = [zoo.release(entry.trunk), entry] if entry.trunk else [entry]
        return [find_weights(weights_file(one)) for one in entries]
    paths = [pretrained] if isinstance(pretrained, (str, os.PathLike)) else list(pretrained)
    if not paths:
        raise UserError(f"pretrained is an empty list; give '{name}' a path, two (trunk and classifier), or None")
    return [find_weights(os.fspath(path)) for path in paths]


def _joined(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """Several files as one: each adds its weights or replaces those of the files before it."""
    state: Dict[str, np.ndarray] = {}
    for checkpoint in checkpoints:
        state.update(to_passl_state(checkpoint, allow_unknown=True)[0])
    return Checkpoint(" + ".join(checkpoint.path for checkpoint in checkpoints), "paddle", state)


def _named(name: str, entry: Optional[zoo.Release], canonical: Mapping[str, np.ndarray], found: Optional[Found],
           options: Mapping[str, Any]) -> paddle.nn.Layer:
    """The network of a name. Its heads are those of `options`, else of the file, else of the release."""
    if name in zoo.list_models():
        architecture, phase = entry.architecture, entry.classifier
    else:
        stem, _, phase = name.rpartition("_")
        architecture, phase = (stem.replace("swav_", "", 1), phase) if phase in PHASES else (name, "")
    if phase in ("linearprobe", "finetune"):
        parameters = {**_classifier(canonical, found, phase), **options}
        own = {key: parameters.pop(key) for key in ("global_pooling", "use_bn")
               if key in parameters and phase == "linearprobe"}
        classes = parameters.pop("class_num", 1000)
        return PHASES[phase]({"type": architecture, **parameters}, classes, **own)
    head: Dict[str, Any] = {}
    if phase == "pretrain" or entry is not None:
        head = _head(entry) if entry is not None else dict(PUBLISHED_HEAD)
        if found is not None and found.embedding:
            count = head.get("nmb_prototypes", 0)
            head = _head(found)
            head["nmb_prototypes"] = head["nmb_prototypes"] or count
    backbone = {"type": architecture, **head, **options}
    return PretrainModel(backbone) if phase == "pretrain" else BACKBONES.build(backbone, key="type")


def _head(holder: Union[zoo.Release, Found]) -> Dict[str, Any]:
    """Constructor parameters of the projection head and the prototypes that a release or a file has."""
    if not holder.embedding:
        return {}
    counts = list(holder.prototypes)
    return {"normalize": True, "hidden_mlp": holder.hidden, "output_dim": holder.embedding,
            "head_batch_norm": holder.head_batch_norm or not holder.hidden,
            "nmb_prototypes": counts[0] if len(counts) == 1 else counts or 0}


def _classifier(canonical: Mapping[str, np.ndarray], found: Optional[Found], phase: str) -> Dict[str, Any]:
    """Constructor parameters of the classifier of one phase that a file has; none when it has none."""
    if phase == "linearprobe" and "linear.weight" in canonical:
        classes, inputs = canonical["linear.weight"].shape
        return {"class_num": classes, "global_pooling": inputs == found.features, "use_bn": "bn.weight" in canonical}
    if phase == "finetune" and found is not None and found.classes and "projection_head.weight" in canonical:
        return {"class_num": found.classes[0]}
    return {}


def _told(report: LoadReport) -> LoadReport:
    LOGGER.log(logging.WARNING if report.missing or report.wrong_shape else logging.INFO, str(report))
    return report


def _from_file(path: Path) -> paddle.nn.Layer:
    """The network that a weight file holds, built from the run's config beside it or from the file's own shapes."""
    checkpoint = read(path)
    canonical, found = recognise(checkpoint)
    model = _from_shapes(path, canonical, found, (run_config(path).get("Model") or {}).get("backbone") or {})
    card = _card(str(path), model, _told(load_into(model, checkpoint, strict="all")))
    fill_from_run(card, path)
    return _finish(model, card)


def _from_shapes(path: Path, canonical: Mapping[str, np.ndarray], found: Found,
                 trunk: Mapping[str, Any]) -> paddle.nn.Layer:
    """A network of the shapes in a file; `trunk` is Model.backbone of its run's config, when there is one."""
    backbone = {key: value for key, value in trunk.items() if key in ("type", "stem", "base_channels")}
    if not backbone:
        if not found.architecture:
            raise CheckpointError(f"{path} holds a {found.kind} without a trunk: name the network and give both files, "
                                  "for instance get_model('swav_resnet50_linearprobe', pretrained=[TRUNK, HEAD])")
        backbone = {"type": found.architecture}
        if found.block in ("basic", "bottleneck"):
            channels = canonical["conv1.weight"].shape[0]
            width = ARCHITECTURES[found.architecture][2] if found.architecture in ARCHITECTURES else 1
            backbone.update(base_channels=channels // width, stem="small" if found.stem_kernel == 3 else "imagenet")
    if backbone["type"] not in BACKBONES:
        raise CheckpointError(f"{path} holds a {backbone['type']}, which is not a network of this library; known: "
                              f"{', '.join(sorted(set(BACKBONES.names()) - set(ALIASES)))}")
    for phase in ("linearprobe", "finetune"):
        parameters = _classifier(canonical, found, phase)
        if parameters:
            return PHASES[phase](backbone, parameters.pop("class_num"), **parameters)
    backbone.update(_head(found))
    return PretrainModel(backbone) if found.prototypes else BACKBONES.build(backbone, key="type")


def _card(name: str, model: paddle.nn.Layer, report: LoadReport) -> ModelCard:
    """What of the model's heads came from the file. Prototypes are worth nothing behind a random projection head."""
    unloaded = {*report.missing, *(wrong for wrong, _, _ in report.wrong_shape)}

    def is_trained(part: str) -> bool:
        names = [key for key in model.state_dict() if part in key.split(".")]
        return bool(names) and not unloaded.intersection(names)

    classifier = {LinearProbeModel: "linear", FineTuneModel: "projection_head"}.get(type(model))
    has_embedding = classifier is None and is_trained("projection_head")
    return ModelCard(name, report.source, has_classifier=classifier is not None and is_trained(classifier),
                     has_prototypes=has_embedding and is_trained("prototypes"), has_embedding=has_embedding)


def _finish(model: paddle.nn.Layer, card: ModelCard) -> paddle.nn.Layer:
    trunk_and_heads = getattr(model, "res_model", model)
    if getattr(trunk_and_heads, "prototypes", None) is not None:
        trunk_and_heads.normalize_prototypes()  # a checkpoint holds them as the last step left them
    model.card = card
    model.eval()
    return model


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """ValueError for an option that no trunk and no classifier takes."""
    known = {"class_num", "global_pooling", "use_bn"}.union(*(BACKBONES.parameters(name) for name in BACKBONES.names()))
    for option in options:
        if option not in known:
            raise UserError(f"get_model has no option '{option}'{nearest(option, known)}; it takes: "
                            f"{', '.join(sorted(known))}")
