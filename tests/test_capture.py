"""The walk of one clip through the real mini model, and the two ways in which a candidate is fed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from layerdiff import audio, convert, mil
from layerdiff.capture import CandidateWalk, Pair, chunks, follow, own_values, walk_reference
from layerdiff.config import ConvertConfig
from layerdiff.errors import FeedError
from layerdiff.records import Call, Captured, Points
from layerdiff.run.inputs import find_points
from layerdiff.sources.coreml_portable import PortableSource
from layerdiff.sources.nemo import NemoSource

CLIP = Path(__file__).parents[1] / "audio" / "turn_off_the_radio_in_the_kitchen.wav"
JOINT_PAIRS = [
    Pair("encoder_projection", "joint.enc", "enc_proj"),
    Pair("decoder_projection", "joint.pred", "dec_proj"),
    Pair("joint_hidden", "joint.joint_net.0", "relu_hidden"),
    Pair("logits", "joint.joint_net.2", "logits"),
]


@pytest.fixture(scope="module")
def calls(reference: NemoSource) -> dict[str, tuple[Call, Captured]]:
    clip = audio.load(CLIP, sample_rate_hz=reference.sample_rate_hz)
    walked = walk_reference(
        reference,
        clip,
        tensors={"joint": [pair.reference for pair in JOINT_PAIRS]},
        until="joint",
        find_points=partial(find_points, reference, "path"),
    )
    return {call.component: (call, captured) for call, captured in walked}


def joint_source(reference: NemoSource, recipe: str, precision: str = "float32") -> PortableSource:
    options = ConvertConfig.model_validate({"recipe": recipe, "precision": precision})
    return PortableSource({"joint": mil.load(convert.build(reference, "joint", options))})


def relative(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(np.linalg.norm(candidate.astype(np.float64) - reference) / np.linalg.norm(reference))


def test_the_walk_passes_all_components_in_order(calls: dict[str, tuple[Call, Captured]]) -> None:
    assert list(calls) == ["preprocessor", "encoder", "decoder", "joint"]


def test_the_joint_gets_the_encoders_frames_and_the_steps_along_the_path(
    calls: dict[str, tuple[Call, Captured]],
) -> None:
    call, points = calls["joint"][0], calls["joint"][0].points
    assert points is not None
    frames, steps = calls["encoder"][1].outputs["encoder"], calls["decoder"][1].outputs["decoder"]
    for row, (frame, step) in enumerate(zip(points.frames, points.steps, strict=True)):
        np.testing.assert_array_equal(call.feed["encoder"][row, :, 0], frames[0, :, frame])
        np.testing.assert_array_equal(call.feed["decoder"][row, :, 0], steps[step, :, 0])
    assert len(set(points.steps.tolist())) > 20, "the history is the transcript's, not all blank"


def test_the_decoders_states_are_those_of_the_step_before(calls: dict[str, tuple[Call, Captured]]) -> None:
    call, captured = calls["decoder"]
    np.testing.assert_array_equal(call.feed["h_in"][1:], captured.outputs["h_out"][:-1])
    np.testing.assert_array_equal(call.feed["c_in"][1:], captured.outputs["c_out"][:-1])
    assert not call.feed["h_in"][0].any()


def test_teacher_forcing_gives_what_the_chain_gave(
    reference: NemoSource, calls: dict[str, tuple[Call, Captured]]
) -> None:
    call, captured = calls["decoder"]
    again = reference.run(call, [])
    np.testing.assert_array_equal(again.outputs["decoder"], captured.outputs["decoder"])


def test_a_candidate_alone_is_fed_by_the_reference(
    reference: NemoSource, calls: dict[str, tuple[Call, Captured]]
) -> None:
    call, captured = calls["joint"]
    answer = CandidateWalk(joint_source(reference, "raw_logits")).run(call, ["logits"])
    assert relative(captured.tensors["joint.joint_net.2"], answer.tensors["logits"]) < 1e-6


def test_a_candidates_own_components_feed_each_other(calls: dict[str, tuple[Call, Captured]]) -> None:
    call, _ = calls["joint"]
    encoder = calls["encoder"][1]
    doubled = Captured({**encoder.outputs, "encoder": 2 * encoder.outputs["encoder"]}, {})
    np.testing.assert_array_equal(follow(call, {"encoder": doubled}).feed["encoder"], 2 * call.feed["encoder"])
    np.testing.assert_array_equal(follow(call, {}).feed["encoder"], call.feed["encoder"])


def test_a_candidate_that_ends_early_is_told_so(calls: dict[str, tuple[Call, Captured]]) -> None:
    call, encoder = calls["joint"][0], calls["encoder"][1]
    short = Captured({"encoder": encoder.outputs["encoder"][..., :3], "encoder_length": np.array([3])}, {})
    with pytest.raises(FeedError, match="encoder frames end before the reference's path does"):
        follow(call, {"encoder": short})


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-6), ("float16", 2e-3)])
def test_own_error_singles_out_the_stage_with_the_fault(
    reference: NemoSource, calls: dict[str, tuple[Call, Captured]], precision: str, bound: float
) -> None:
    call, captured = calls["joint"]
    own = own_values(joint_source(reference, "cpu_traced", precision), call, JOINT_PAIRS, captured)
    errors = {pair.stage: relative(captured.tensors[pair.reference], own[pair.candidate]) for pair in JOINT_PAIRS}
    assert errors["logits"] > 0.1
    assert max(error for stage, error in errors.items() if stage != "logits") < bound


def test_own_values_start_from_the_references_tensors(
    reference: NemoSource, calls: dict[str, tuple[Call, Captured]]
) -> None:
    """With a changed hidden tensor given as the reference's, the logits are those of the changed one."""
    call, captured = calls["joint"]
    hidden = np.maximum(np.random.default_rng(0).normal(size=captured.tensors["joint.joint_net.0"].shape), 0)
    changed = Captured(captured.outputs, {**captured.tensors, "joint.joint_net.0": hidden.astype(np.float32)})
    own = own_values(joint_source(reference, "raw_logits"), call, JOINT_PAIRS, changed)
    layer = reference.joint.joint_net[-1]
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    assert relative(hidden @ weight.T + bias, own["logits"]) < 1e-6


def test_chunks_keep_every_point_once() -> None:
    points = Points(np.arange(2500), np.arange(2500) // 3, np.zeros(900, np.int64), 0.08)
    parts = list(chunks(points))
    assert [len(part) for part in parts] == [1024, 1024, 452]
    for name in ("frames", "steps"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(points, name))
    assert all(part.tokens is points.tokens for part in parts)


# ------------------------------------------------------------------ clips that a candidate can't take


class Window:
    """A candidate whose encoder takes at most three frames and gives them back."""

    def __init__(self) -> None:
        self.fed: list[tuple[str, float]] = []

    def run(self, call: Call, tensors: object, *, inject: object = None) -> Captured:
        if call.component == "encoder":
            if call.feed["mel"].shape[-1] > 3:
                raise FeedError("'mel' is longer than the window.")
            return Captured({"encoder": call.feed["mel"], "encoder_length": call.feed["mel_length"]}, {})
        self.fed.append((call.component, float(call.feed["encoder"].max())))
        return Captured({}, {})


def clip_calls(frames: int, value: float) -> tuple[Call, Call]:
    mel = np.full((1, 2, frames), value)
    points = Points(np.arange(2), np.zeros(2, np.int64), np.zeros(1, np.int64), 0.08)
    joint = Call("joint", {"encoder": np.full((2, 2, 1), -value), "decoder": np.zeros((2, 2, 1))}, points=points)
    return Call("encoder", {"mel": mel, "mel_length": np.array([frames])}), joint


def test_an_earlier_clip_does_not_feed_a_later_one() -> None:
    """The second clip is too long for the encoder: the joint must get neither the first clip's frames nor the
    reference's in their place."""
    source = Window()
    walk = CandidateWalk(source)  # type: ignore[arg-type]
    encoder, joint = clip_calls(3, 1.0)
    walk.run(encoder, [])
    walk.run(joint, [])
    encoder, joint = clip_calls(4, 2.0)
    with pytest.raises(FeedError, match="longer than the window"):
        walk.run(encoder, [])
    with pytest.raises(FeedError, match="own encoder could not be run"):
        walk.run(joint, [])
    encoder, joint = clip_calls(2, 3.0)
    walk.run(encoder, [])
    walk.run(joint, [])
    assert source.fed == [("joint", 1.0), ("joint", 3.0)]


def test_frames_that_only_padding_made_are_not_handed_on() -> None:
    own = {"mel": np.ones((1, 2, 9)), "mel_length": np.array([4])}
    call, _ = clip_calls(5, 1.0)
    padded = Captured(own, {}, layouts={"mel": "audio_signal padded from 5 to 9 along axis 1"})
    assert follow(call, {"preprocessor": padded}).feed["mel"].shape == (1, 2, 5)
    assert follow(call, {"preprocessor": Captured(own, {})}).feed["mel"].shape == (1, 2, 9)
