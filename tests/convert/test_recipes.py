"""The registry is consistent with the wrappers, the reference's tensors and the configuration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from layerdiff import convert
from layerdiff.config import StageConfig
from layerdiff.convert import recipes, wrappers
from layerdiff.errors import ConversionError

ALL = [(component, name) for component, known in recipes.RECIPES.items() for name in known]


@pytest.mark.parametrize(("component", "name"), ALL)
@pytest.mark.parametrize("debug", [True, False])
def test_default_stages_name_tensors_of_both_sides(reference: Any, component: Any, name: str, debug: bool) -> None:
    stages = convert.default_stages(component, name, debug=debug, source=reference)
    outputs = recipes.outputs(recipes.RECIPES[component][name], reference, debug=debug)
    for stage in stages.values():
        config = StageConfig.model_validate(stage)
        assert config.candidate is None or config.candidate in outputs
        assert config.reference in (None, *reference.tensor_names(component))
        assert config.of is None or config.of in stages


@pytest.mark.parametrize(("component", "name"), ALL)
def test_every_recipe_has_its_wrapper_and_sizes(component: str, name: str) -> None:
    recipe = recipes.RECIPES[component][name]
    assert issubclass(getattr(wrappers, recipe.wrapper), nn.Module)
    assert {dim for port in recipe.inputs for dim in port.shape if isinstance(dim, str)} <= set(recipes.SIZES)
    assert set(recipe.tap_stages) <= set(recipe.stages)


def test_the_joints_stages_are_those_of_the_design(reference: Any) -> None:
    stages = convert.default_stages("joint", "cpu_traced", source=reference)
    assert stages["logits"] == {"reference": "joint.joint_net.2", "candidate": "logits"}
    assert stages["duration_logits"]["slice"] == "..., -5:"
    assert stages["duration_logits"]["expect"] == {"some_positive": True}
    plain = convert.default_stages("joint", "cpu_traced", debug=False, source=reference)
    assert plain["vocab_logits"] == {"of": "logits", "slice": "..., :-5"}
    assert list(plain) == ["logits", "vocab_logits", "duration_logits"]


def test_a_joint_without_durations_has_no_slices() -> None:
    joint = SimpleNamespace(num_extra_outputs=0, joint_net=[None, None])
    stages = convert.default_stages("joint", source=SimpleNamespace(joint=joint))
    assert stages["logits"]["reference"] == "joint.joint_net.1"
    assert "duration_logits" not in stages


def test_the_encoder_has_a_stage_for_each_layer(reference: Any) -> None:
    stages = convert.default_stages("encoder", source=reference)
    assert list(stages) == ["pre_encode", "layer_0", "layer_1", "layer_2", "encoder"]
    assert stages["layer_2"] == {"reference": "encoder.layers.2", "candidate": "layer_2"}


def test_components_with_one_way_ignore_the_joints_recipe() -> None:
    assert recipes.find("encoder", "cpu_traced")[0] == "plain"
    assert recipes.find("joint", "cpu_traced")[0] == "cpu_traced"


@pytest.mark.parametrize(
    ("component", "recipe", "expected"),
    [
        ("jont", "raw_logits", "component 'jont'.*\n.*did you mean 'joint'"),
        ("joint", "raw_logit", "joint has no recipe 'raw_logit'.*\n.*did you mean 'raw_logits'"),
        ("encoder", "quantised", "encoder has no recipe 'quantised'.*\n.*known recipes of encoder: plain"),
    ],
)
def test_unknown_names_list_the_known_ones(component: str, recipe: str, expected: str) -> None:
    with pytest.raises(ConversionError, match=expected):
        recipes.find(component, recipe)
