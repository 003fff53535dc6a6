"""What a run is fed with: recordings and tensor files, what is refused, and what the report says of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from layerdiff.config import InputsConfig
from layerdiff.errors import AudioError, ConfigError, FeedError
from layerdiff.run.inputs import Inputs, find_inputs, find_points, tensor_calls
from layerdiff.sources.nemo import NemoSource

AUDIO = Path(__file__).parents[2] / "audio"
CLIP = AUDIO / "call_peter_on_three_two.wav"


def entry(**values: Any) -> InputsConfig:
    return InputsConfig.model_validate(values)


def saved(path: Path, **shapes: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, path)
    return path


def test_recordings_come_from_patterns_or_a_manifest() -> None:
    by_pattern = find_inputs(entry(audio=str(AUDIO / "*.wav")))
    by_manifest = find_inputs(entry(manifest=str(AUDIO / "manifest.jsonl"), points="lattice"))
    assert len(by_pattern) == len(by_manifest) >= 12
    assert {r.name for r in by_pattern.recordings} == {r.name for r in by_manifest.recordings}
    assert (by_pattern.points, by_manifest.points) == ("path", "lattice")


def test_hashes_are_those_of_the_files() -> None:
    assert find_inputs(entry(audio=str(CLIP))).hashes() == {str(CLIP): hashlib.sha256(CLIP.read_bytes()).hexdigest()}


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError):
        find_inputs(entry(audio=str(tmp_path / "none.wav")))
    with pytest.raises(ConfigError, match="there is no tensor file"):
        find_inputs(entry(tensors=str(tmp_path / "none.safetensors")))


def test_every_clip_is_walked_once_and_counted(reference: NemoSource) -> None:
    inputs = find_inputs(entry(audio=[str(CLIP), str(AUDIO / "leading_silence.wav")]))
    points = 0
    for _, calls in inputs.walk(reference, tensors={}, until="joint"):
        points += sum(len(call.feed["encoder"]) for call, _ in calls if call.component == "joint")
    summary = inputs.summary()
    assert [clip["name"] for clip in summary["clips"]] == ["call_peter_on_three_two.wav", "leading_silence.wav"]
    assert (summary["points"], summary["points_from"]) == (points, "path")
    assert sum(clip["points"] for clip in summary["clips"]) == points > 0
    assert summary["duration_s"] == pytest.approx(sum(clip["duration_s"] for clip in summary["clips"]))


def test_the_lattice_is_all_frames_times_all_steps_of_the_path(reference: NemoSource) -> None:
    frames = np.random.default_rng(0).normal(size=(7, 96)).astype(np.float32)
    path, lattice = (find_points(reference, points, frames) for points in ("path", "lattice"))
    np.testing.assert_array_equal(path.tokens, lattice.tokens)
    assert len(lattice) == 7 * len(path.tokens)
    assert set(zip(path.frames, path.steps, strict=True)) <= set(zip(lattice.frames, lattice.steps, strict=True))


# ------------------------------------------------------------------ tensor files


def test_a_tensor_file_is_one_call(reference: NemoSource, tmp_path: Path) -> None:
    path = saved(tmp_path / "joint.safetensors", encoder=(3, 96, 1), decoder=(3, 64, 1), other=(1,))
    inputs = Inputs(tensors=path)
    ((name, calls),) = inputs.walk(reference, tensors={"joint": ["joint.enc"]}, until="joint")
    ((call, captured),) = calls
    assert name == "joint.safetensors"
    assert set(call.feed) == {"encoder", "decoder"}
    assert captured.tensors["joint.enc"].shape == (3, 1, 64)
    assert (len(inputs), inputs.summary()["points"], inputs.summary()["points_from"]) == (1, 3, "file")


def test_a_tensor_that_is_missing_is_named_with_the_nearest(reference: NemoSource, tmp_path: Path) -> None:
    path = saved(tmp_path / "joint.safetensors", encoder=(3, 96, 1), decodr=(3, 64, 1))
    with pytest.raises(ConfigError, match="did you mean 'decodr'"):
        list(tensor_calls(reference, path, "joint", {}))


@pytest.mark.parametrize("decoder", [(3, 63, 1), (3, 64), (2, 3, 64, 1)], ids=["width", "rank 2", "rank 4"])
def test_a_shape_that_the_reference_does_not_take_is_refused(
    reference: NemoSource, tmp_path: Path, decoder: tuple[int, ...]
) -> None:
    path = saved(tmp_path / "joint.safetensors", encoder=(3, 96, 1), decoder=decoder)
    with pytest.raises(FeedError, match="can't be run on the tensors of") as caught:
        list(tensor_calls(reference, path, "joint", {}))
    assert "decoder: float32" in str(caught.value)


def test_what_is_no_tensor_file_is_refused(reference: NemoSource, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        list(tensor_calls(reference, path, "joint", {}))
