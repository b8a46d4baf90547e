"""Settings that cannot work are refused when the method is built; those that will hardly work are warned about."""
import pytest

from passl.methods.base import RunFacts
from tests.methods import family


@pytest.mark.parametrize("model, settings, message", [
    *((model, {"temperature": 0.0}, "Model.temperature is 0.0 and must be above 0: 0.1 is usual")
      for model in ("SwAV", "UnMixSwAV", "DeepClusterV2", "SeLaV2")),
    ("SwAV", {"epsilon": 0.0}, "Model.epsilon is 0.0 and must be above 0: 0.05 is usual"),
    ("UnMixSwAV", {"epsilon": -0.1}, "Model.epsilon is -0.1 and must"),
    ("SwAV", {"sinkhorn_iterations": 0}, "Model.sinkhorn_iterations is 0 and must be above 0: 3 is usual"),
    ("SeLaV2", {"epsilon": 0}, "Model.epsilon is 0 and must be above 0: 0.05 is usual"),
    ("SeLaV2", {"epsilon": -0.05}, "Model.epsilon is -0.05 and must"),
    ("SeLaV2", {"sinkhorn_tolerance": 0.0}, "Model.sinkhorn_tolerance is 0.0 and must be above 0: 0.001 is usual"),
    ("SeLaV2", {"sinkhorn_tolerance_mode": "max"}, "sinkhorn_tolerance_mode: 'max' is not one of mean, sum"),
    ("SeLaV2", {"sinkhorn_max_iterations": 0}, "Model.sinkhorn_max_iterations is 0 and must be above 0: 2000"),
    ("DeepClusterV2", {"kmeans_iterations": -1}, "Model.kmeans_iterations is -1 and must not be below 0: 10 is usual"),
    # 24 of the 27 images make whole batches.
    *((model, {"nmb_prototypes": [3, 25]}, "24 images of an epoch cannot fill 25 clusters: lower Model.backbone.nmb_")
      for model in ("DeepClusterV2", "SeLaV2")),
    *((model, {"nmb_prototypes": count}, "nmb_prototypes is 1: with fewer than 2 every image has the same assignment")
      for model, count in (("SwAV", 1), ("UnMixSwAV", 1), ("DeepClusterV2", 1), ("SeLaV2", 1))),
    *((model, {"nmb_prototypes": [3, 1]}, r"nmb_prototypes is \[3, 1\]") for model in ("DeepClusterV2", "SeLaV2")),
    *(("SeLa", {"nmb_prototypes": count}, "at least 2 clusters") for count in (1, [3, 1])),
])
def test_refused_before_the_first_step(model, settings, message):
    with pytest.raises(ValueError, match=message):
        family.build(model, **settings)


def advice(method, global_batch, images):
    run = RunFacts(batch_size=global_batch, iterations_per_epoch=family.STEPS, epochs=1000, dataset_size=images)
    return [str(finding) for finding in method.advice(run)]


def test_advice_speaks_of_settings_that_the_method_has():
    swav = family.build("SwAV", queue_length=0)
    assert advice(swav, 12, 100) == []
    few, spread = advice(swav, 0.4, 5)
    assert "nmb_prototypes 6 exceeds the 5 training images" in few and "Model.queue_length" in spread
    assert advice(family.build("SwAV"), 0.4, 100) == []  # its queue of 12 is enough
    for model in ("DeepClusterV2", "SeLaV2"):
        method = family.build(model, nmb_prototypes=[4, 20])
        assert advice(method, 1, 100) == []
        sparse, = advice(method, 1, 90)
        assert "nmb_prototypes 20 leaves 4.5 of the 90 training images for a cluster" in sparse
        assert "queue" not in sparse
