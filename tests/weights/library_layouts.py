"""The same small networks under the names of every layout: what the conversion tests read and expect."""
from collections import OrderedDict

from tests.weights.checkpoints import (
    alexnet_shapes,
    filled,
    preactivation_shapes,
    pretraining_shapes,
    renamed,
    resnet_shapes,
)

SINGLE = filled(pretraining_shapes())
TRUNK = filled(resnet_shapes())


def lightly(name):
    name = name.replace("projection_head.", "projection_head.layers.").replace("prototypes.weight",
                                                                               "prototypes.heads.0.weight")
    if name.startswith("layer"):
        return f"backbone.{int(name[5]) + 3}{name[6:]}"
    return {"conv1": "backbone.0", "bn1": "backbone.1"}.get(name.split(".")[0], name.split(".")[0]) + name[
        name.index("."):]


def swapped(*pairs, trunk=""):
    def rule(name):
        for before, after in pairs:
            if name.startswith(before):
                return after + name[len(before):]
        return trunk + name
    return rule


def sela_v1(name):
    if name.startswith("layer"):
        return f"features.{int(name[5]) + 3}{name[6:]}"
    return {"conv1": "features.0", "bn1": "features.1"}[name.split(".")[0]] + name[name.index("."):]


def no_bias(state):
    return OrderedDict((name, array) for name, array in state.items() if name != "projection_head.0.bias")


V1 = renamed(filled(resnet_shapes()), sela_v1)
V1.update(filled({"top_layer.0.weight": (7, 256), "top_layer.0.bias": (7,)}))
MM = renamed(SINGLE, swapped(("projection_head.", "neck.projection_neck."),
                             ("prototypes.", "head.loss_module.prototypes."), trunk="backbone."))
MM.update({f"neck.norm.{leaf}": SINGLE[f"projection_head.1.{leaf}"] for leaf in ("weight", "bias")})
VISSL_RULE = swapped(("projection_head.", "heads.0.projection_head."),
                     ("prototypes.weight", "heads.0.prototypes0.weight"), ("prototypes.", "heads.0."),
                     trunk="trunk._feature_blocks.")
SOLO_RULE = swapped(("projection_head.", "projector."), ("prototypes.", "prototypes."), trunk="backbone.")

TWO_HEADS, THREE_HEADS = filled(pretraining_shapes((5, 6))), filled(pretraining_shapes((5, 6, 7)))

# name: (state in canonical names, the same under the layout's names, layout found, description)
CASES = {
    "swav": (SINGLE, renamed(SINGLE, str, "module."), "swav", "SwAV pretraining"),
    "multi-head": (THREE_HEADS, renamed(THREE_HEADS, str, "module."), "swav",
                   "DeepCluster-v2 or SeLa-v2 pretraining (3 prototype heads)"),
    "w5-like": (filled(pretraining_shapes(batch_norm=False)), filled(pretraining_shapes(batch_norm=False)), "swav",
                "SwAV pretraining"),
    "single-linear": (filled(pretraining_shapes(hidden=0)), filled(pretraining_shapes(hidden=0)), "swav",
                      "SwAV pretraining"),
    "semi-supervised": ({**TRUNK, **filled({"projection_head.weight": (10, 256), "projection_head.bias": (10,)})}, None,
                        "swav", "classifier"),
    "linear-probe": (filled({"linear.weight": (10, 256), "linear.bias": (10,)}), None, "swav", "linear probe"),
    "torchvision": ({**TRUNK, **filled({"fc.weight": (10, 256), "fc.bias": (10,)})}, None, "swav", "classifier"),
    "resnet18": (filled(resnet_shapes((2, 2, 2, 2), 8, bottleneck=False)), None, "swav", "trunk"),
    "small-stem": (filled(pretraining_shapes(kernel=3)), None, "swav", "SwAV pretraining"),
    "mmpretrain": (SINGLE, MM, "mmpretrain", "SwAV pretraining"),
    "vissl": (SINGLE, renamed(SINGLE, VISSL_RULE), "vissl", "SwAV pretraining"),
    "vissl-multi": (TWO_HEADS, renamed(TWO_HEADS, VISSL_RULE), "vissl",
                    "DeepCluster-v2 or SeLa-v2 pretraining (2 prototype heads)"),
    "solo": (SINGLE, renamed(SINGLE, SOLO_RULE), "solo", "SwAV pretraining"),
    "lightly": (SINGLE, renamed(SINGLE, lightly), "lightly", "SwAV pretraining"),
    "sela-resnetv1": ({**TRUNK, **filled({"top_layer0.weight": (7, 256)})}, V1, "sela-resnetv1", "SeLa pretraining"),
    "sela-resnetv2": (filled(preactivation_shapes()), renamed(filled(preactivation_shapes()), str, "module."),
                      "sela-resnetv2", "SeLa pretraining"),
    "sela-alexnet": (filled(alexnet_shapes()), None, "sela-alexnet", "SeLa pretraining"),
}
