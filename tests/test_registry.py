from typing import Literal, Optional, Union

import pytest

from passl.errors import UserError
from passl.registry import Registry, check_literals, choices


def assign(scores, kind: Literal["soft", "hard"] = "soft", *, places: Optional[Literal[1, 2]] = None) -> str:
    return f"{scores} {kind} {places}"


@pytest.mark.parametrize("annotation, declared", [
    (Literal["soft", "hard"], ("soft", "hard")), (Optional[Literal["soft"]], ("soft", None)), (Optional[str], ()),
    (Union[Literal["auto"], int], ()), (str, ()),
])
def test_what_an_annotation_declares(annotation, declared):
    assert choices(annotation) == declared


def test_declared_values_pass_and_others_are_refused():
    checked = check_literals(assign)
    assert checked(1, "hard", places=2) == "1 hard 2" and checked("scores") == "scores soft None"
    with pytest.raises(UserError, match="^kind: 'firm' is not one of soft, hard$"):
        checked(1, "firm")
    with pytest.raises(UserError, match="^places: True is not one of 1, 2, None$"):
        checked(1, places=True)
    with pytest.raises(TypeError, match=r"assign\(\) got an unexpected keyword argument 'sort'"):
        checked(1, sort="soft")


def test_registered_classes_and_factories_refuse_in_python_what_a_config_refuses():
    registry = Registry("thing", "passl")
    registry._imported = True

    @registry.register("a")
    class Thing:
        def __init__(self, mode: Literal["sum", "mean"]):
            self.mode = mode

    @registry.register("b")
    class Special(Thing):
        pass

    factory = registry.register("c")(assign)
    assert registry.build({"name": "b", "mode": "sum"}).mode == "sum"
    for build in (Thing, Special, lambda mode: registry.build({"name": "a", "mode": mode}),
                  lambda mode: factory(0, mode)):
        with pytest.raises(UserError, match="'max' is not one of"):
            build("max")
    assert registry.parameters("b")["mode"].annotation == Literal["sum", "mean"]
    assert list(registry.parameters("c")) == ["scores", "kind", "places"]
