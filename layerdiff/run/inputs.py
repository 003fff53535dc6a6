"""What a run is fed with: clips of audio, or a component's inputs from a file.

Recordings are listed and their headers checked before anything heavy runs; samples are decoded one clip
at a time, while the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import audio
from layerdiff.capture import walk_reference
from layerdiff.compare import written
from layerdiff.decode.greedy import greedy_path, lattice
from layerdiff.errors import ConfigError, FeedError, known_names
from layerdiff.records import Call, Captured, Clip, Component
from layerdiff.store import sha256_file

if TYPE_CHECKING:
    from layerdiff.config import InputsConfig
    from layerdiff.records import Array, Points
    from layerdiff.sources.nemo import NemoSource

CONTRACT_INPUTS: Mapping[Component, tuple[str, ...]] = {
    "preprocessor": ("audio_signal", "audio_length"),
    "encoder": ("mel", "mel_length"),
    "decoder": ("targets", "target_length", "h_in", "c_in"),
    "joint": ("encoder", "decoder"),
}
"""Component → the names of its inputs, as in `Call`."""

Calls = Iterator[tuple[Call, Captured]]


@dataclass
class Inputs:
    """The recordings or the tensor file of one run, and what was seen of them."""

    recordings: Sequence[audio.Recording] = ()
    tensors: Path | None = None
    points: str = "path"
    seen: list[dict[str, Any]] = field(default_factory=list)
    """One entry per clip, for the report."""

    def __len__(self) -> int:
        return 1 if self.tensors else len(self.recordings)

    def walk(
        self, reference: NemoSource, *, tensors: Mapping[Component, Sequence[str]], until: Component
    ) -> Iterator[tuple[str, Calls]]:
        """Name and reference calls of every clip, one clip after the other."""
        if self.tensors is not None:
            yield (
                self.tensors.name,
                self._counted(self.tensors.name, tensor_calls(reference, self.tensors, until, tensors)),
            )
            return
        for clip in audio.read(self.recordings, sample_rate_hz=reference.sample_rate_hz):
            self.seen.append(described(clip))
            calls = walk_reference(
                reference,
                clip,
                tensors=tensors,
                until=until,
                find_points=partial(find_points, reference, self.points),
            )
            yield clip.name, self._counted(clip.name, calls)

    def _counted(self, clip: str, calls: Calls) -> Calls:
        """The calls unchanged; notes how many points the clip had."""
        if self.tensors is not None:
            self.seen.append({"name": clip})
        for call, captured in calls:
            if call.component == "joint":
                self.seen[-1]["points"] = self.seen[-1].get("points", 0) + len(call.feed["encoder"])
            yield call, captured

    def summary(self) -> dict[str, Any]:
        """The report's `inputs`."""
        seconds = sum(entry.get("duration_s", 0.0) for entry in self.seen)
        count = sum(entry.get("points", 0) for entry in self.seen)
        points = {"points": count, "points_from": "file" if self.tensors else self.points} if count else {}
        return {"clips": self.seen, "duration_s": seconds, **points}

    def hashes(self) -> dict[str, str]:
        """Path → sha256 of every file that was read."""
        paths = [self.tensors] if self.tensors else [recording.path for recording in self.recordings]
        return {str(path): sha256_file(path) for path in paths}


def find_inputs(entry: InputsConfig) -> Inputs:
    """The files that the configuration names, checked as far as that is cheap.

    Raises:
        AudioError: a file is missing or not audio, a manifest is damaged.
        ConfigError: the tensor file does not exist.
    """
    if entry.tensors is not None:
        path = Path(entry.tensors).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no tensor file '{entry.tensors}'.", where="inputs.tensors")
        return Inputs(tensors=path, points=entry.points)
    if entry.manifest is not None:
        return Inputs(audio.read_manifest(entry.manifest), points=entry.points)
    patterns = [entry.audio] if isinstance(entry.audio, str) else list(entry.audio or ())
    return Inputs(audio.list_clips(patterns), points=entry.points)


def find_points(reference: NemoSource, points: str, frames: Array) -> Points:
    """The points of the reference's greedy path over `frames` float32[T, D], or the lattice around it."""
    path = greedy_path(
        frames,
        predict=reference.predict_step,
        joint=reference.joint_step,
        blank=reference.blank,
        durations=reference.durations,
        frame_s=reference.frame_s,
        max_symbols=reference.max_symbols,
    )
    if points == "path":
        return path.points
    return lattice(len(frames), tokens=path.points.tokens, frame_s=reference.frame_s)


def tensor_calls(
    reference: NemoSource, path: Path, component: Component, tensors: Mapping[Component, Sequence[str]]
) -> Calls:
    """One component's call with its feed from a safetensors file.

    Raises:
        ConfigError: the file is damaged, or lacks an input of the component.
        FeedError: the reference can't take a tensor's shape.
    """
    feed = read_tensors(path)
    for name in CONTRACT_INPUTS[component]:
        if name not in feed:
            raise ConfigError(
                f"the tensor file has no '{name}', which the {component} is fed.",
                where=str(path),
                detail=known_names("tensors in it", name, feed),
            )
    call = Call(component, {name: feed[name] for name in CONTRACT_INPUTS[component]})
    try:
        captured = reference.run(call, tensors.get(component, ()))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what torch and NeMo raise for a wrong shape
        raise FeedError(
            f"the reference's {component} can't be run on the tensors of '{path}'.",
            detail="\n".join([*(f"{name}: {written(value)}" for name, value in call.feed.items()), str(error)]),
            action="Give the tensors in the shapes that the component takes.",
        ) from error
    yield call, captured


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"'{path}' is not a readable safetensors file.", detail=str(error)) from error


def described(clip: Clip) -> dict[str, Any]:
    """A clip for the report."""
    return {"name": clip.name, "duration_s": clip.duration_s, "text": clip.text, "notes": list(clip.notes)}
