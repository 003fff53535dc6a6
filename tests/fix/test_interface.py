"""What a package's inputs and outputs are taken for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerdiff.compare import Stage
from layerdiff.convert import rebuild_joint
from layerdiff.convert.recipes import RAW_JOINT, Cut, Port, Range, Recipe
from layerdiff.errors import RepairError
from layerdiff.fix.interface import Widths, recipe_of, system_of, with_log_softmax, with_separate_heads
from layerdiff.fix.publishing import differences
from layerdiff.mil import Model, load
from layerdiff.run.joint_tensors import inner_tensors
from layerdiff.store import Cache

WIDTHS = Widths(encoder=96, decoder=64, vocabulary=97, durations=5)
LOGITS = "joint.joint_net.2"


@pytest.fixture
def built(reference: Any, tmp_path: Path) -> Callable[..., Model]:
    """Ports and cuts → the package."""

    def build(ports: tuple[Port, ...], cuts: dict[str, Cut], dtype: str = "float32", **options: Any) -> Model:
        outputs: Any = dict.fromkeys(cuts, dtype)
        recipe = Recipe("JointCuts", ports, outputs, cuts=cuts, attributes=RAW_JOINT)
        options = {"precision": "float16", **options}
        model = load(rebuild_joint(reference, recipe, cache=Cache(tmp_path), **options))
        assert isinstance(model, Model)
        return model

    return build


def ports(batch: int | Range, time: int | Range, steps: int | Range, dtype: Any = "float32") -> tuple[Port, ...]:
    return Port("encoder", dtype, (batch, "D", time)), Port("decoder", dtype, (batch, "P", steps))


@pytest.mark.parametrize(
    ("batch", "time", "steps", "dtype", "target"),
    [
        (1, 1, 1, "float32", "iOS17"),
        (1, Range("t", 1, 188, 5), 1, "float16", "iOS16"),
        (Range("b", 1, 64, 2), Range("t", 1, 50, 5), Range("u", 1, 40, 4), "float32", "iOS18"),
    ],
)
def test_what_was_read_builds_the_same_interface(
    reference: Any, built: Any, batch: Any, time: Any, steps: Any, dtype: Any, target: str
) -> None:
    cuts = {"enc": Cut("joint.enc"), "out": Cut(LOGITS), "length": Cut(LOGITS, "durations")}
    old = built(ports(batch, time, steps, dtype), cuts, dtype, target=target)
    recipe = recipe_of(old, reference.joint, [Stage("e", "joint", "joint.enc", "enc")])
    assert recipe.cuts == cuts
    assert system_of(old) == target
    new = built(recipe.inputs, dict(recipe.cuts), recipe.outputs["out"], target=target)
    assert list(differences(old, new)) == []


def test_differences_are_told(built: Any) -> None:
    old = built(ports(1, 1, 1), {"logits": Cut(LOGITS), "enc": Cut("joint.enc")})
    new = built(ports(1, 2, 1), {"logits": Cut(LOGITS), "heads": Cut(LOGITS, "durations")})
    found = list(differences(old, new))
    assert found[0] == "input 'encoder' is float32[1, 96, 2], was float32[1, 96, 1]"
    assert [text.partition(",")[0] for text in found[-2:]] == ["output 'enc' is gone", "output 'heads' is new"]


def test_the_stage_that_names_an_output_counts_for_more_than_its_width(built: Any, reference: Any) -> None:
    # a package that lost the blank: its output is as wide as nothing that a joint has
    old = built(ports(1, 1, 1), {"odd": Cut("joint.enc")})
    with pytest.raises(RepairError, match="an output 'odd' that a rebuilt joint can't give"):
        recipe_of(old, reference.joint, [])
    whole = Stage("logits", "joint", LOGITS, "odd")
    assert recipe_of(old, reference.joint, [whole]).cuts == {"odd": Cut(LOGITS)}


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ((..., slice(None, -5)), "vocabulary"),
        ((..., slice(-5, None)), "durations"),
        ((..., slice(0, 102)), "whole"),
        ((..., slice(92, 97)), None),
        ((..., slice(0, 96)), None),
        ((..., slice(0, 300)), None),
    ],
)
def test_slices_are_parts_only_if_they_are_exactly_that(index: Any, part: str | None) -> None:
    assert WIDTHS.part_of(Stage("s", "joint", LOGITS, "s", parent="logits", slices=(index,))) == part


def test_other_widths_are_another_model(built: Any, reference: Any) -> None:
    old = built(ports(1, 1, 1), {"logits": Cut(LOGITS)})
    small = SimpleNamespace(
        num_extra_outputs=5,
        joint_net=[None, SimpleNamespace(out_features=90)],
        enc=SimpleNamespace(in_features=96),
        pred=SimpleNamespace(in_features=64),
    )
    with pytest.raises(RepairError, match="widest output has 102 values, the checkpoint's joint gives 90"):
        recipe_of(old, small, [])
    small.enc.in_features = 1024
    with pytest.raises(RepairError, match=r"'encoder' is .*, the checkpoint's is float32\[B, 1024, T\]"):
        recipe_of(old, small, [])


def test_what_is_no_joint_is_refused(reference: Any, package: Any) -> None:
    with pytest.raises(RepairError, match="no input 'encoder', so it is not the joint"):
        recipe_of(load(package("decoder")), reference.joint, [])


def test_heads_take_the_place_of_the_logits(reference: Any) -> None:
    cuts = {"hidden": Cut("joint.joint_net.0"), "logits": Cut(LOGITS), "enc": Cut("joint.enc")}
    recipe = Recipe("JointCuts", ports(1, 1, 1), dict.fromkeys(cuts, "float16"), cuts=cuts)  # type: ignore[arg-type]
    heads = with_separate_heads(recipe, reference.joint)
    assert list(heads.outputs) == ["hidden", "vocab_logits", "duration_logits", "enc"]
    assert set(heads.outputs.values()) == {"float16"}
    normalised = with_log_softmax(recipe, reference.joint)
    assert normalised.cuts["duration_log_probs"] == Cut(LOGITS, "durations", log_softmax=True)
    plain = SimpleNamespace(
        num_extra_outputs=0,
        joint_net=[None, None, SimpleNamespace(out_features=97)],
        enc=SimpleNamespace(in_features=96),
        pred=SimpleNamespace(in_features=64),
    )
    assert with_log_softmax(recipe, plain).cuts["log_probs"] == Cut(LOGITS, "whole", log_softmax=True)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_inner_tensors_are_those_of_the_reference(built: Any, reference: Any, precision: str) -> None:
    model = built(ports(1, 1, 1), {"only": Cut(LOGITS, "durations")}, precision=precision)
    found = inner_tensors(model, reference.joint)
    assert set(found) == {"joint.enc", "joint.pred", "joint.joint_net.0:input", "joint.joint_net.0", LOGITS}
    weights = {name: value.double().numpy() for name, value in reference.joint.state_dict().items()}
    feed = {"encoder": np.full((1, 96, 1), 0.1, np.float32), "decoder": np.full((1, 64, 1), -0.2, np.float32)}
    values = {name: value.astype(np.float64).ravel() for name, value in model.run(feed, list(found.values())).items()}
    enc = weights["enc.weight"] @ feed["encoder"].ravel() + weights["enc.bias"]
    pred = weights["pred.weight"] @ feed["decoder"].ravel() + weights["pred.bias"]
    hidden = np.maximum(enc + pred, 0)
    logits = weights["joint_net.2.weight"] @ hidden + weights["joint_net.2.bias"]
    expected = {"joint.enc": enc, "joint.pred": pred, "joint.joint_net.0:input": enc + pred}
    expected |= {"joint.joint_net.0": hidden, LOGITS: logits}
    for name, truth in expected.items():
        assert np.abs(values[found[name]] - truth).max() < 3e-3 * np.abs(truth).max(), name
