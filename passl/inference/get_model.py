"""Networks by name, by run or by weight file."""
from __future__ import annotations

import fnmatch
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Container, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from passl.errors import CheckpointError, UnknownComponent, UserError
from passl.inference.card import ModelCard, prepare_as_trained, run_config
from passl.models.base import Network
from passl.models.build import build_network
from passl.models.heads import HeadOptions
from passl.models.stems import STEMS
from passl.registry import BACKBONES, nearest
from passl.weights import Checkpoint, Found, LoadReport, load_into, read, recognise, to_passl_state, zoo
from passl.weights.layouts.description import DESCRIPTION, read_description, resized, told
from passl.weights.layouts.recognise import under_prefix
from passl.weights.layouts.trunk import refuse_misfits
from passl.weights.load import is_own
from passl.weights.locate import find_weights

LOGGER = logging.getLogger("passl")
# The head of a published run of SwAV (appendix A.1), for architectures of which none is released.
PUBLISHED_HEAD = {"normalize": True, "hidden_mlp": 2048, "output_dim": 128, "nmb_prototypes": 3000}
CLASSIFIER_KEYS = {"linearprobe": ("class_num", "global_pooling", "use_bn"), "finetune": ("class_num",)}
PHASES = ("pretrain", *CLASSIFIER_KEYS)
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

    Example:
        >>> import passl
        >>> passl.list_models("swav_resnet50_*probe")
        ['swav_resnet50_linearprobe']
    """
    pattern = "*" if pattern is None else pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    trunks = BACKBONES.names(aliases=False)
    phases = [f"swav_{trunk}_{phase}" for trunk in trunks for phase in PHASES]
    released = [name for name in zoo.list_models() if not zoo.release(name).convert_only]
    return sorted(name for name in {*trunks, *phases, *released} if fnmatch.fnmatchcase(name, pattern))


def get_model(name: PathLike, pretrained: Union[None, bool, PathLike, Sequence[PathLike]] = None,
              *, size: Optional[int] = None, prefix: Optional[str] = None, **options: Any) -> Network:
    """A network in evaluation mode, with `extract_feat(images [B, 3, H, W]) -> [B, F]` and a `card`.

    name: one of `list_models()`; or something that holds weights, whose architecture is then read from it: a run's
        folder or checkpoint ('output/swav_resnet18_pretrain'), or a weight file of any library passl reads.
    pretrained: None or False: random weights. True: the released weights of that name, downloaded when needed. A path:
        weights for the named architecture; its heads are built as the file has them. Two paths: a file with the trunk,
        and one with a classifier that was saved without it (SwAV's eval_linear).
    size: pixels of the images it is shown, for a file that does not say it; the default is what the file or its run
        says, else what is customary, with a warning.
    prefix: of a file that holds several networks, the one to take ("encoder_q."); without it a known trunk is found.
    options: constructor parameters that replace the defaults, the release's and the file's: those of the backbone
        (stem, base_channels, nmb_prototypes=300 for a new prototype layer on own data, ...), and for classifiers
        class_num, global_pooling, use_bn. A file takes `stem` alone, for weights that do not tell it.
    Calling the network gives logits (probe, fine-tuned), (embedding, scores) (pretraining) or features (trunk).
    What became of the weights is logged, as a warning when a part of the network keeps its random values; the `card`
    then says so, and a trunk that does not match is an error.
    UnknownComponent names the nearest known name; CheckpointError says what is wrong with weights.

    Example:
        >>> import paddle, passl
        >>> model = passl.get_model("swav_resnet10_pretrain", nmb_prototypes=6, base_channels=4, stem="small")
        >>> embedding, scores = model(paddle.zeros([2, 3, 32, 32]))
        >>> list(embedding.shape), list(scores.shape)
        ([2, 128], [2, 6])
    """
    name, known = os.path.expanduser(name), list_models()
    if name in known:
        _refuse_unknown(options)
        return _by_name(name, pretrained, options, size, prefix)
    if os.path.exists(name) or os.path.exists(f"{name}.pdparams"):
        others = [option for option in options if option != "stem"]
        if pretrained not in (None, False) or others:
            raise UserError(f"{name} is a file or run and brings its own weights and architecture; drop pretrained "
                            f"and {', '.join(others) or 'options'}")
        return _from_file(find_weights(name), options.get("stem"), size, prefix)
    if name in zoo.list_models():
        entry = zoo.release(name)
        raise UnknownComponent(f"'{name}' is released, but its network ({entry.architecture}) is not built here; get "
                               f"{entry.file} from {entry.page} and convert it: passl-convert {entry.file} OUT")
    where = "" if os.sep not in name else f" and no file or folder {os.path.abspath(name)} exists"
    raise UnknownComponent(f"no model is called '{name}'{nearest(name, known)}{where}; passl.list_models('*swav*') "
                           "lists names, wildcards anywhere")


def _by_name(name: str, pretrained: Union[None, bool, PathLike, Sequence[PathLike]],
             options: Dict[str, Any], size: Optional[int], prefix: Optional[str]) -> Network:
    entry = next((zoo.release(one) for one in (RELEASED.get(name), name) if one in zoo.list_models()), None)
    files = _files(name, entry, pretrained)
    if not files:
        card = ModelCard(name)
        card.transform = resized(card.transform, size) if size else card.transform
        return finish(_named(name, entry, {}, None, options), card)
    opened = [_opened(path, options.get("stem"), prefix if path == files[0] else None) for path in files]
    checkpoint = opened[0] if len(files) == 1 else _joined(opened)
    canonical, found = _look(checkpoint)
    if not found.has_trunk:
        raise CheckpointError(f"{checkpoint.path} holds a {found.kind} without a trunk: give the file of the trunk it "
                              f"was trained on as well, get_model('{name}', pretrained=[TRUNK, HEAD]) or --weights "
                              "TRUNK --weights HEAD")
    if len(files) > 1:  # joined, they have lost whose they were
        first = _look(opened[0])[1]
        found.origin, found.stem, found.stem_known = first.origin, first.stem, first.stem_known
    if found.stem_kernel == 3:
        options = {"stem": found.stem, **options}
    model = _named(name, entry, canonical, found, options)
    card = card_of_loaded(name, model, _told(load_into(model, checkpoint)))
    if pretrained is True and size is None:
        size = 224  # of every release
    prepare_as_trained(card, checkpoint, found, files[-1], size)
    return finish(model, card)


def _opened(path: Path, stem: Optional[str], prefix: Optional[str]) -> Checkpoint:
    """A weight file with a description that says its stem, where the user, the file or its run does."""
    checkpoint = read(path) if prefix is None else under_prefix(read(path), prefix)
    if stem is None and read_description(checkpoint.meta).stem is None:
        run = ((run_config(path).get("Model") or {}).get("backbone") or {}).get("stem")
        stem = run if run in STEMS else None
    return told(checkpoint, stem)


def _look(checkpoint: Checkpoint) -> Tuple[Dict[str, np.ndarray], Found]:
    """`recognise`, which knows nothing of an own file that holds a trunk of no other library and no head."""
    try:
        return recognise(checkpoint)
    except CheckpointError:
        if not is_own(checkpoint):
            raise
        return {}, Found("passl", checkpoint.format, unknown=list(checkpoint.tensors))


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
        state.update(checkpoint.tensors if is_own(checkpoint) else to_passl_state(checkpoint, allow_unknown=True)[0])
    meta = {key: checkpoints[0].meta[key] for key in (DESCRIPTION,) if key in checkpoints[0].meta}
    return Checkpoint(" + ".join(checkpoint.path for checkpoint in checkpoints), "paddle", state, meta)


def _named(name: str, entry: Optional[zoo.Release], canonical: Mapping[str, np.ndarray], found: Optional[Found],
           options: Mapping[str, Any]) -> Network:
    """The network of a name; without a file, its head is the release's or that of a published run."""
    if entry is not None and name in zoo.list_models():
        architecture, phase = entry.architecture, entry.classifier
    else:
        stem, _, phase = name.rpartition("_")
        architecture, phase = (stem.replace("swav_", "", 1), phase) if phase in PHASES else (name, "")
    defaults: Dict[str, Any] = {}
    if phase in CLASSIFIER_KEYS:
        defaults = {"class_num": 1000}
    elif phase or entry is not None:
        defaults = _head(entry) if entry is not None else PUBLISHED_HEAD
    else:
        found = None  # a trunk asked for by its name stays one
    return _build({"type": architecture, **defaults}, phase or "trunk", canonical, found, options)


def _build(backbone: Dict[str, Any], phase: str, canonical: Mapping[str, np.ndarray], found: Optional[Found],
           options: Mapping[str, Any]) -> Network:
    """The network of a phase. Its heads are those of `options`, else of the file, else of `backbone`."""
    keys = {**backbone, **(_in_file(phase, canonical, found) if found is not None else {}), **options}
    own = {key: keys.pop(key) for key in CLASSIFIER_KEYS.get(phase, ()) if key in keys}
    network = build_network(keys, phase, **own)
    network.section = keys
    return network


def _in_file(phase: str, canonical: Mapping[str, np.ndarray], found: Found) -> Dict[str, Any]:
    """Keys of Model and Model.backbone for the heads of one phase that a file has; none when it has none."""
    # torchvision's classifier, which our names call linear too; beside prototypes it only watched the pretraining
    fits = ({"fc.weight", "fc.bias"} <= set(canonical) and not found.prototypes
            and canonical["fc.weight"].shape[1:] == (found.features,))
    layer = "linear" if "linear.weight" in canonical else "fc" if fits else ""
    if phase == "linearprobe" and f"{layer}.weight" in canonical:
        classes, inputs = canonical[f"{layer}.weight"].shape
        pooled = {"global_pooling": inputs == found.features} if found.features else {}
        return {"class_num": classes, "use_bn": "bn.weight" in canonical, **pooled}
    if phase == "finetune" and found.classes and "projection_head.weight" in canonical:
        return {"class_num": found.classes[0]}
    if phase == "cluster heads" and "top_layer0.weight" in canonical:
        return {"nmb_prototypes": found.classes}
    return _head(found, canonical) if phase in ("pretrain", "trunk") else {}


def _head(holder: Union[zoo.Release, Found], canonical: Container[str] = ()) -> Dict[str, Any]:
    """Keys of Model.backbone for the projection head and the prototypes that a release or a file has."""
    if not holder.embedding:
        return {}
    counts = list(holder.prototypes)
    is_numbered = len(counts) > 1 or "prototypes.prototypes0.weight" in canonical
    return {"normalize": True, "hidden_mlp": holder.hidden, "output_dim": holder.embedding,
            "head_batch_norm": holder.head_batch_norm or not holder.hidden,
            **({"nmb_prototypes": counts if is_numbered else counts[0]} if counts else {}),
            **({"prototype_bias": True} if getattr(holder, "prototype_bias", False) else {})}


def _told(report: LoadReport) -> LoadReport:
    LOGGER.log(logging.WARNING if report.missing or report.wrong_shape else logging.INFO, str(report))
    return report


def _from_file(path: Path, stem: Optional[str], size: Optional[int], prefix: Optional[str]) -> Network:
    """The network that a weight file holds: built from what it says of itself, from the run's config beside it, or from
    the shapes of its weights."""
    checkpoint = _opened(path, stem, prefix)
    canonical, found = _look(checkpoint)
    said, config = read_description(checkpoint.meta), run_config(path).get("Model") or {}
    section = said.model if "type" in said.backbone else {**config, "backbone": {**(config.get("backbone") or {}),
                                                                                 **said.backbone}}
    model = _of_file(checkpoint, canonical, found, section)
    card = card_of_loaded(str(path), model, _told(load_into(model, checkpoint, strict="all")))
    prepare_as_trained(card, checkpoint, found, path, size)
    card.model = section if "type" in section["backbone"] else {"backbone": model.section}
    return finish(model, card)


def _of_file(checkpoint: Checkpoint, canonical: Mapping[str, np.ndarray], found: Found, section: Mapping[str, Any]
             ) -> Network:
    """The network of a file, its weights still random. `section`: Model of its run's config, as far as it is known.

    The trunk is the section's; its heads are those that the file has.
    """
    given = section.get("backbone") or {}
    heads = {field.name for field in fields(HeadOptions)}
    backbone = {key: value for key, value in given.items() if key not in heads}
    if "type" not in backbone:
        if not found.has_trunk:
            raise CheckpointError(f"{checkpoint.path} holds a {found.kind} without a trunk: name the network and give "
                                  "both files, for instance get_model('swav_resnet50_linearprobe', pretrained=[TRUNK, "
                                  "HEAD])")
        if not found.architecture:
            raise CheckpointError(f"{checkpoint.path} does not tell which trunk its weights are of, and no config.yaml "
                                  f"is beside it: name it, get_model('NAME', pretrained='{checkpoint.path}')")
        refuse_misfits(checkpoint.path, f"a {found.architecture}", found.misfits)
        backbone = {"type": found.architecture}
        if found.block in ("basic", "bottleneck"):
            backbone = {"type": found.architecture.partition("w")[0], "base_channels": len(canonical["conv1.weight"]),
                        "stem": found.stem}
    if backbone["type"] not in BACKBONES:
        raise CheckpointError(f"{checkpoint.path} holds a {backbone['type']}, which is not a network of this library; "
                              f"known: {', '.join(BACKBONES.names(aliases=False))}")
    phases = [phase for phase in (*CLASSIFIER_KEYS, *(["cluster heads"] if is_own(checkpoint) else []))
              if _in_file(phase, canonical, found)]
    phase = phases[0] if phases else "pretrain" if found.prototypes else "trunk"
    if phase == "linearprobe":  # shapes do not tell it of a trunk that is not recognised
        backbone["global_pooling"] = section.get("global_pooling", True)
    options = {"normalize": given.get("normalize", True)} if found.embedding else {}
    return _build(backbone, phase, canonical, found, options)


def card_of_loaded(name: str, model: Network, report: LoadReport) -> ModelCard:
    """What of the model's heads came from the file. Prototypes are worth nothing behind a random projection head."""
    parts = {part for key in (*report.missing, *(wrong for wrong, _, _ in report.wrong_shape))
             for part in key.split(".")}

    def is_trained(output: str) -> bool:
        return output in model.output_heads and parts.isdisjoint(model.output_heads[output])

    return ModelCard(name, report.source, has_classifier=is_trained("logits"), has_prototypes=is_trained("scores"),
                     has_embedding=is_trained("embedding"))


def finish(model: Network, card: ModelCard) -> Network:
    """The loaded network, ready to be used."""
    model.normalize_prototypes()  # a checkpoint holds them as the last step left them
    model.card = card
    model.eval()
    return model


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    """ValueError for an option that no trunk and no classifier takes."""
    known = {*CLASSIFIER_KEYS["linearprobe"]}.union(*(BACKBONES.parameters(name) for name in BACKBONES.names()))
    for option in options:
        if option not in known:
            raise UserError(f"get_model has no option '{option}'{nearest(option, known)}; it takes: "
                            f"{', '.join(sorted(known))}")
