"""The stage map: pairs and slices become records, defaults come from the recipes, unknown names are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from layerdiff import config
from layerdiff.config import StageConfig
from layerdiff.errors import ConfigError
from layerdiff.run.stages import (
    component_of,
    last_component,
    module_path,
    require_tensors,
    resolve,
    stage_map,
    tensors_by_component,
)
from layerdiff.sources.nemo import NemoSource

LAST_FIVE, FIRST = (..., slice(-5, None, None)), (..., 0)
MAP = {
    "logits": {"reference": "joint.joint_net.2", "candidate": "logits"},
    "durations": {"of": "logits", "slice": "..., -5:", "expect": {"some_positive": True}},
    "own": {"of": "logits", "slice": "..., -5:", "candidate": "duration_logits"},
}


def stages(values: dict[str, Any], *, component: str = "joint") -> dict[str, Any]:
    entries = {name: StageConfig.model_validate(value) for name, value in values.items()}
    return {stage.name: stage for stage in resolve(entries, component=component)}


def with_stages(values: dict[str, Any] | None, *, component: str = "joint", **candidate: Any) -> config.Config:
    return config.from_mapping(
        {
            "reference": {"nemo": "parakeet-tdt-mini", "component": component},
            "candidates": {"only": candidate or {"convert": {}}},
            "inputs": {"audio": "audio/*.wav"},
            "stages": values,
        }
    )


def test_a_slice_has_the_tensors_of_its_parent() -> None:
    found = stages(MAP)
    assert found["logits"].slices == ()
    durations = found["durations"]
    assert (durations.reference, durations.candidate, durations.parent) == ("joint.joint_net.2", "logits", "logits")
    assert durations.slices == durations.candidate_slices == (LAST_FIVE,)
    assert durations.some_positive
    assert not found["own"].some_positive


def test_a_slice_with_a_tensor_of_its_own_is_not_cut_again() -> None:
    own = stages(MAP)["own"]
    assert (own.candidate, own.slices, own.candidate_slices) == ("duration_logits", (LAST_FIVE,), ())


@pytest.mark.parametrize(("parent", "left"), [("durations", (LAST_FIVE, FIRST)), ("own", (FIRST,))])
def test_a_slice_of_a_slice_takes_both(parent: str, left: tuple[Any, ...]) -> None:
    """The candidate's tensor may hold the first of the two slices already."""
    first = stages({**MAP, "first": {"of": parent, "slice": "..., 0"}})["first"]
    assert first.slices == (LAST_FIVE, FIRST)
    assert first.candidate_slices == left


@pytest.mark.parametrize(
    ("tensor", "component"),
    [("joint.enc", "joint"), ("encoder", "encoder"), ("preprocessor:1", "preprocessor"), ("decoder#1:0", "decoder")],
)
def test_a_tensor_lies_in_the_component_of_its_first_word(tensor: str, component: str) -> None:
    assert component_of("stage", tensor) == component


def test_a_component_may_be_named() -> None:
    assert stages({"x": {"reference": "model.enc", "candidate": "y", "component": "joint"}})["x"].component == "joint"


def test_a_stage_outside_of_the_compared_component_is_refused() -> None:
    with pytest.raises(ConfigError, match="is of the encoder, but the run compares the joint"):
        stages({"x": {"reference": "encoder.norm", "candidate": "y"}})


def test_the_last_component_and_the_tensors_of_each() -> None:
    found = list(stages({**MAP, "mel": {"reference": "preprocessor", "candidate": "mel"}}, component="whole").values())
    assert last_component(found) == "joint"
    assert tensors_by_component(found) == {
        "joint": ["joint.joint_net.2", "joint.enc", "joint.pred", "joint"],
        "preprocessor": ["preprocessor"],
    }


@pytest.mark.parametrize("name", ["encoder.norm", "encoder.norm#1", "encoder.norm:input.1", "encoder.norm#1:0"])
def test_the_module_of_a_tensor(name: str) -> None:
    assert module_path(name) == "encoder.norm"


def test_unknown_tensors_are_refused_with_the_nearest() -> None:
    source: Any = SimpleNamespace(tensor_names=lambda component: ("logits", "enc_proj"))
    found = list(stages({"logits": {"reference": "joint.enc", "candidate": "enc_prj"}}).values())
    with pytest.raises(ConfigError, match="did you mean 'enc_proj'") as caught:
        require_tensors(found, source, side="candidate", title="candidate 'x'", place="my.yaml")
    assert "my.yaml, stages.logits.candidate" in str(caught.value)
    require_tensors(found, source, side="candidate", title="candidate 'x'", components=["encoder"])


def test_without_stages_the_recipes_are_asked(reference: NemoSource) -> None:
    whole = stage_map(with_stages(None, component="whole"), reference)
    assert [stage.name for stage in whole if stage.component == "joint"][-1] == "duration_logits"
    assert {stage.component for stage in whole} == {"preprocessor", "encoder", "decoder", "joint"}


def test_a_given_package_needs_stages(reference: NemoSource) -> None:
    with pytest.raises(ConfigError, match="has no stages") as caught:
        stage_map(with_stages(None, coreml="Joint.mlpackage"), reference)
    assert "Name the tensors to compare" in str(caught.value)


def test_a_recipe_without_a_stage_map_asks_for_stages(reference: NemoSource) -> None:
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
        "candidates": {"fused": {"convert": {"recipe": "decision"}}},
        "inputs": {"audio": "audio/*.wav"},
    }
    with pytest.raises(ConfigError, match="the recipe 'decision' has no stage map"):
        stage_map(config.from_mapping(values), reference)
