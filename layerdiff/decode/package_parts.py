"""The components of a candidate's Core ML packages, called as greedy decoding needs them.

A joint's package may return the logits of everything, of tokens and durations apart, or fused the decision alone; which
it is follows from the names and widths of its outputs. A CTC head is a package of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from layerdiff.decode.greedy import Decide, Decision, Predict, decision
from layerdiff.errors import ConfigError, FeedError, known_names
from layerdiff.records import Call, Captured
from layerdiff.sources.calls import point_call, preprocessor_call, step_call, valid_frames
from layerdiff.sources.coreml_calls import STATES, admits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerdiff.decode.parts import Alphabet, Encode, Features, Head, Preprocess
    from layerdiff.mil import Model
    from layerdiff.records import Array, Component

Outputs = Mapping[str, "Array"]


class Runner(Protocol):
    """Packages by component, and what runs them: the portable engine or Core ML."""

    @property
    def packages(self) -> Mapping[Component, Model]: ...

    def predict(self, component: Component, feed: Outputs, outputs: Sequence[str]) -> Outputs:
        """One prediction as the package declares it."""

    def run(self, call: Call, tensors: Sequence[str]) -> Captured:
        """One call, whatever window or batch the package declares."""


def package_parts(source: Runner, alphabet: Alphabet, *, is_ctc: bool) -> dict[str, Callable[..., Any]]:
    """Component → its callable, for every package that the source has.

    Raises:
        ConfigError: a joint or a head has outputs of other widths than the vocabulary and the durations ask for.
    """
    makers: dict[str, Callable[..., Any]] = {
        "preprocessor": lambda: preprocess(source),
        "encoder": lambda: encode(source),
        "decoder": lambda: head(source.packages["decoder"], alphabet) if is_ctc else predict(source),
        "joint": lambda: decide(source, alphabet),
    }
    return {name: makers[name]() for name in source.packages}


def preprocess(source: Runner) -> Preprocess:
    """Samples → mel and its length; a fixed window gives all of its frames, as an app hands them on."""
    answer = answers(source, "preprocessor", ("mel", "mel_length"))

    def call(samples: Array, length: int | None = None) -> Features:
        outputs = answer(preprocessor_call(samples, length))
        return {name: outputs[name] for name in ("mel", "mel_length")}

    return call


def encode(source: Runner) -> Encode:
    """Mel and its length → the valid frames; mel behind its length is left out if the package has no room for it."""
    answer = answers(source, "encoder", ("encoder", "encoder_length"))
    room = _longest(source.packages, "encoder", "mel")

    def call(features: Features) -> Array:
        mel, length = features["mel"], int(features["mel_length"][0])
        fits = room is None or mel.shape[-1] <= room
        return valid_frames(answer(Call("encoder", {**features, "mel": mel if fits else mel[..., :length]})))

    return call


def predict(source: Runner) -> Predict:
    """One step of the prediction network; the first one starts with states of zeros."""
    inputs = source.packages["decoder"].inputs
    start = {name: np.zeros([int(size) for size in _sizes(inputs[name])], np.float32) for name in ("h_in", "c_in")}
    answer = answers(source, "decoder", ("decoder", "h_out", "c_out"))

    begun: dict[int, tuple[Array, Any]] = {}
    """What the first step of a sequence gives, which is the same for every one."""

    def step(token: int, state: Any) -> tuple[Array, Any]:
        if state is None:
            if token not in begun:
                begun[token] = advance(token, start)
            return begun[token]
        return advance(token, state)

    def advance(token: int, state: Outputs) -> tuple[Array, Any]:
        outputs = answer(step_call(token, state))
        h, c = (outputs[name].reshape(start[given].shape) for name, given in (("h_out", "h_in"), ("c_out", "c_in")))
        return outputs["decoder"].reshape(-1), {"h_in": h, "c_in": c}

    return step


def _sizes(spec: Any) -> list[int]:
    """The smallest shape that an input takes."""
    return [size if isinstance(size, int) else size[0] for size in spec.shape]


def answers(source: Runner, component: Component, outputs: Sequence[str]) -> Callable[[Call], Outputs]:
    """Answers calls of one component with some of its outputs: directly where the package takes them as they are."""
    specs, fitting = source.packages[component].inputs, set[tuple[tuple[int, ...], ...]]()

    def answer(call: Call) -> Outputs:
        # a decoder's states have an axis of steps in a call, and none in a package
        feed = {n: v[0] if n in STATES else v for n, v in call.feed.items() if n in specs}
        shapes = tuple(value.shape for value in feed.values())
        if shapes not in fitting:
            if not all(_takes(specs[name], value) for name, value in feed.items()):
                return source.run(call, ()).outputs
            fitting.add(shapes)
        return source.predict(component, feed, outputs)

    return answer


def _takes(spec: Any, value: Array) -> bool:
    return len(spec.shape) == value.ndim and all(map(admits, spec.shape, value.shape))


def longest_audio(packages: Mapping[Component, Model], *, hop_samples: int) -> int | None:
    """The most samples that packages of a preprocessor and an encoder take; None if they take any number.

    Args:
        packages: by component.
        hop_samples: samples per mel frame.
    """
    samples = _longest(packages, "preprocessor", "audio_signal")
    frames = _longest(packages, "encoder", "mel")
    limits = [samples, None if frames is None else max(frames - 1, 1) * hop_samples]
    return min((limit for limit in limits if limit is not None), default=None)


def _longest(packages: Mapping[Component, Model], component: Component, name: str) -> int | None:
    """The largest size of an input's last axis."""
    spec = packages[component].inputs.get(name) if component in packages else None
    if spec is None or not spec.shape:
        return None
    dim = spec.shape[-1]
    return dim if isinstance(dim, int) else dim[1]


# ------------------------------------------------------------------ what decides


def decide(source: Runner, alphabet: Alphabet) -> Decide:
    """One point of the joint, fed with one encoder frame and one prediction."""
    names, read = reader(source.packages["joint"], alphabet)
    answer = answers(source, "joint", names)
    return lambda frame, prediction: read(answer(point_call(frame, prediction)))


def reader(model: Model, alphabet: Alphabet) -> tuple[tuple[str, ...], Callable[[Outputs], Decision]]:
    """The outputs of a joint that decide, and what they decide.

    Raises:
        ConfigError: no output, or pair of outputs, has the widths of the vocabulary and the durations.
    """
    tokens, count = alphabet.blank + 1, len(alphabet.durations)
    widths = {name: (spec.shape or (None,))[-1] for name, spec in model.outputs.items()}
    if widths.get("logits", tokens + count) != tokens + count:
        raise _other_vocabulary(model, alphabet, widths)
    whole = [name for name in ("logits", *widths) if widths.get(name) == tokens + count]
    vocabulary = [name for name, width in widths.items() if width == tokens]
    lengths = [name for name, width in widths.items() if width == count]
    if whole:
        return (whole[0],), lambda outputs: decision(outputs[whole[0]].reshape(-1), durations=alphabet.durations)
    if count and vocabulary and lengths:
        pair = (vocabulary[0], lengths[0])
        return pair, lambda outputs: decision(
            np.concatenate([outputs[name].reshape(-1) for name in pair]), durations=alphabet.durations
        )
    if "token_id" in widths and ("duration" in widths or not count):
        names = ("token_id", "duration") if count else ("token_id",)
        return names, lambda outputs: _fused(outputs, alphabet)
    raise _other_vocabulary(model, alphabet, widths)


def _fused(outputs: Outputs, alphabet: Alphabet) -> Decision:
    """The decision that a package has taken itself: a token's id, and the index of a duration."""
    token = int(outputs["token_id"].reshape(-1)[0])
    if not 0 <= token <= alphabet.blank:
        raise FeedError(
            f"the joint's package decided for the token {token}.",
            detail=f"expected 0 to {alphabet.blank}, which is blank",
            action="Check that package and checkpoint are of the same model.",
        )
    if not alphabet.durations:
        return Decision(token, 0)
    index = int(outputs["duration"].reshape(-1)[0])
    if not 0 <= index < len(alphabet.durations):
        raise FeedError(
            f"the joint's package decided for the duration number {index}.",
            detail=f"expected an index into the {len(alphabet.durations)} durations",
        )
    return Decision(token, alphabet.durations[index])


def head(model: Model, alphabet: Alphabet) -> Head:
    """A CTC head: the encoder's frames → logits or log-probabilities of every frame.

    Raises:
        ConfigError: it has several inputs, or no output of the vocabulary's width.
    """
    widths = {name: (spec.shape or (None,))[-1] for name, spec in model.outputs.items()}
    found = [name for name, width in widths.items() if width == alphabet.blank + 1]
    if not found:
        raise _other_vocabulary(model, alphabet, widths)
    if len(model.inputs) != 1:
        raise ConfigError(
            "the package of a CTC head has more than one input.",
            where=str(model.path),
            detail="expected one, the encoder's frames float32[1, D, T]; got " + ", ".join(model.inputs),
        )
    name = next(iter(model.inputs))

    def call(frames: Array) -> Array:
        logits: Array = model.run({name: np.ascontiguousarray(frames.T)[None]}, [found[0]])[found[0]]
        return logits.reshape(-1, logits.shape[-1])

    return call


def _other_vocabulary(model: Model, alphabet: Alphabet, widths: Mapping[str, Any]) -> ConfigError:
    count = len(alphabet.durations)
    said = f"{alphabet.blank} tokens, the blank" + (f" and {count} durations" if count else "")
    expected = f"expected an output of {alphabet.blank + 1 + count} values ({said})"
    found = ", ".join(f"{name} {width}" for name, width in widths.items())
    return ConfigError(
        "the package's outputs don't fit the vocabulary of the reference.",
        where=str(model.path),
        detail=f"{expected}; got {found}\n{known_names('its outputs', 'logits', widths)}",
        action="Check that package and checkpoint are of the same model.",
    )
