"""Projection head and prototypes apart from a trunk."""
import numpy as np
import paddle
import pytest

from passl.models.heads import MultiPrototypes, Prototypes, projection_head, prototypes


def shapes(layer):
    return {name: list(parameter.shape) for name, parameter in layer.named_parameters() if not parameter.stop_gradient}


def test_layouts_of_the_head_have_the_names_of_the_releases():
    assert shapes(projection_head(6, 0, 3)) == {"weight": [6, 3], "bias": [3]}
    assert shapes(projection_head(6, 4, 3)) == {"0.weight": [6, 4], "0.bias": [4], "1.weight": [4], "1.bias": [4],
                                                "3.weight": [4, 3], "3.bias": [3]}
    assert shapes(projection_head(6, 4, 3, batch_norm=False)) == {"0.weight": [6, 4], "0.bias": [4],
                                                                  "2.weight": [4, 3], "2.bias": [3]}


def test_scores_are_cosines_after_normalisation():
    layer = prototypes(5, 7)
    assert isinstance(layer, Prototypes)
    layer.normalize()
    np.testing.assert_allclose(np.linalg.norm(layer.weight.numpy(), axis=0), 1.0, rtol=1e-6)
    unit = paddle.nn.functional.normalize(paddle.randn([4, 5]), axis=1)
    scores = layer(unit).numpy()
    np.testing.assert_allclose(scores, unit.numpy() @ layer.weight.numpy(), atol=1e-6)
    assert np.abs(scores).max() <= 1 + 1e-6


def test_several_heads():
    layer = prototypes(5, [3, 4])
    assert isinstance(layer, MultiPrototypes)
    assert shapes(layer) == {"prototypes0.weight": [5, 3], "prototypes1.weight": [5, 4]}
    assert [list(scores.shape) for scores in layer(paddle.randn([2, 5]))] == [[2, 3], [2, 4]]
    layer.normalize()
    for head in layer.heads():
        np.testing.assert_allclose(np.linalg.norm(head.weight.numpy(), axis=0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("counts", [-5, [3, 0]])
def test_senseless_numbers_of_prototypes(counts):
    with pytest.raises(ValueError, match="nmb_prototypes is .* expected a positive number"):
        prototypes(5, counts)
