"""The calls of a transducer's components: what one component gives, as the next one is fed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerdiff.records import Call, Captured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerdiff.records import Array


def preprocessor_call(samples: Array, length: int | None = None) -> Call:
    """float32[S] samples as a batch of one, of which the first `length` count; all of them if None."""
    valid = np.array([len(samples) if length is None else length], np.int32)
    return Call("preprocessor", {"audio_signal": samples[None], "audio_length": valid})


def encoder_call(preprocessor: Captured) -> Call:
    """The encoder fed with a preprocessor's output."""
    return Call("encoder", {name: preprocessor.outputs[name] for name in ("mel", "mel_length")})


def encoder_frames(encoder: Captured) -> Array:
    """float32[T, D]; the encoder's valid frames."""
    return valid_frames(encoder.outputs)


def valid_frames(outputs: Mapping[str, Array]) -> Array:
    """float32[T, D] of an encoder's outputs `encoder` float32[1, D, T'] and `encoder_length` int32[1]."""
    length = int(outputs["encoder_length"][0])
    return np.ascontiguousarray(outputs["encoder"][0, :, :length].T)


def step_call(token: int, states: Mapping[str, Array]) -> Call:
    """One step of the prediction network: `h_in` and `c_in` float32[L, 1, H]."""
    feed = {"targets": np.array([[token]], np.int32), "target_length": np.ones(1, np.int32)}
    return Call("decoder", {**feed, **{name: value[None] for name, value in states.items()}})


def point_call(frame: Array, prediction: Array) -> Call:
    """One point of the joint: float32[D], float32[P]."""
    return Call("joint", {"encoder": frame[None, :, None], "decoder": prediction[None, :, None]})
