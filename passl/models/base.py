"""What a trunk and a network are to the rest of the library: everything else asks for no more than this."""
from __future__ import annotations

from typing import Dict, List, Protocol, Sequence, Tuple

import paddle
from paddle import nn

from passl.errors import UserError


class Trunk(Protocol):
    """Any layer that turns images into features is a trunk, when it has these (docs/add_a_backbone.md).

    num_features: F, the channels of its output.
    stages: names of the sub-layers that follow each other, for recomputing activations and for probes of one layer.
    """

    num_features: int
    stages: Sequence[str]

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> feature map [B, F, h, w], or a vector [B, F]."""


def pool(features: paddle.Tensor) -> paddle.Tensor:
    """What a trunk gives -> [B, F]: a map [B, F, h, w] is averaged over its positions, a vector [B, F] stays."""
    if features.ndim == 2:
        return features
    if features.ndim != 4:
        raise UserError(f"the trunk gives an output of shape {list(features.shape)}; expected is a feature map "
                        "[B, F, h, w] or a vector [B, F]")
    if not paddle.in_dynamic_mode():
        return nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)  # oneDNN's mean takes ten times as long
    return features.mean(axis=[2, 3])


class Network(nn.Layer):
    """A trunk with heads; the base of everything `build_network` builds (passl/models/networks.py).

    Called, a network gives what its training wants. `outputs` gives the same things under the same names for all.
    """

    head_output = "logits"  # what the heads give together

    @property
    def trunk(self) -> nn.Layer:
        """The `Trunk`."""
        raise NotImplementedError

    def heads(self) -> Dict[str, nn.Layer]:
        """The heads it has, by the name that their weights carry in a file: projection_head, prototypes, linear, ..."""
        raise NotImplementedError

    @property
    def output_heads(self) -> Dict[str, Tuple[str, ...]]:
        """What `outputs` gives, each with the heads it passes through."""
        return {"features": (), self.head_output: tuple(self.heads())}

    @property
    def num_features(self) -> int:
        return self.trunk.num_features

    def score_heads(self) -> List[nn.Layer]:
        """The prototype or cluster heads."""
        return []

    @property
    def head_sizes(self) -> List[int]:
        """K of each prototype or cluster head; `scores` holds them side by side in this order."""
        return [head.weight.shape[1] for head in self.score_heads()]

    def extract_feat(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] -> pooled trunk features [B, F], whatever heads the network has."""
        return pool(self.trunk(images))

    def outputs(self, images: paddle.Tensor, names: Sequence[str] = ("features", "embedding", "scores", "logits")
                ) -> Dict[str, paddle.Tensor]:
        """Images [B, 3, H, W] -> those of `names` that the network has, each from one pass through the trunk.

        "features" [B, F]; "embedding" [B, D], on the unit sphere where training has it there; "scores" [B, K] of all
        prototype or cluster heads side by side (`head_sizes`); "logits" [B, C] of a classifier.
        """
        trunk_output = self.trunk(images)
        features = pool(trunk_output)
        found = {"features": features, **self.head_outputs(trunk_output, features, names)}
        return {name: found[name] for name in names if name in found}

    def head_outputs(self, trunk_output: paddle.Tensor, features: paddle.Tensor, names: Sequence[str]
                     ) -> Dict[str, paddle.Tensor]:
        """Those of `names` that heads give, from what the trunk gives and from its pooled features."""
        raise NotImplementedError

    def scores_of(self, inputs: paddle.Tensor) -> paddle.Tensor:
        """What the score heads read, [N, D] or [N, F] -> scores [N, K] of all of them side by side."""
        scores = [head(inputs) for head in self.score_heads()]
        return paddle.concat(scores, axis=1) if len(scores) > 1 else scores[0]

    def normalize_prototypes(self) -> None:
        """Bring every prototype to unit length, if there are any; a checkpoint has them as the last step left them."""
