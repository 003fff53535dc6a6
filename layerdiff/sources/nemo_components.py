"""How each component of a NeMo transducer is called in the layouts of `Call`, and one greedy step of it.

NeMo's modules are called as modules, so that their forward hooks fire: `decoder` and `joint` too, which NeMo's
own decoding goes around (`decoder.predict`, `joint.joint_after_projection`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerdiff.sources.torch_module import to_array

if TYPE_CHECKING:
    from layerdiff.records import Array

Forward = Callable[[Any, Mapping[str, "Array"]], dict[str, "Array"]]
"""(model, feed) → outputs by their contract names."""
State = tuple[torch.Tensor, torch.Tensor]
"""The prediction network's h and c, float32[L, 1, H] each."""


def run_preprocessor(model: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """audio_signal float32[1, S], audio_length int32[1] → mel float32[1, F, T], mel_length int32[1]."""
    mel, length = model.preprocessor(input_signal=_floats(feed["audio_signal"]), length=_integers(feed["audio_length"]))
    return {"mel": to_array(mel), "mel_length": _lengths(length)}


def run_encoder(model: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """mel float32[1, F, T], mel_length int32[1] → encoder float32[1, D, T'], encoder_length int32[1]."""
    frames, length = model.encoder(audio_signal=_floats(feed["mel"]), length=_integers(feed["mel_length"]))
    return {"encoder": to_array(frames), "encoder_length": _lengths(length)}


def run_decoder_step(model: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """One step of the prediction network.

    targets int32[1, 1], target_length int32[1], h_in, c_in float32[L, 1, H] → decoder float32[1, P, 1], h_out, c_out.
    """
    states = [_floats(feed["h_in"]), _floats(feed["c_in"])]
    with without_start_symbol(model.decoder):
        prediction, _, (h_out, c_out) = model.decoder(
            targets=_integers(feed["targets"]), target_length=_integers(feed["target_length"]), states=states
        )
    return {"decoder": to_array(prediction), "h_out": to_array(h_out), "c_out": to_array(c_out)}


def run_joint(model: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """encoder float32[N, D, 1], decoder float32[N, P, 1] → logits float32[N, 1, 1, V + 1 + durations].

    The logits are the joint's own output: normalised if `log_softmax` says so.
    """
    logits = model.joint(encoder_outputs=_floats(feed["encoder"]), decoder_outputs=_floats(feed["decoder"]))
    return {"logits": to_array(logits)}


FORWARD: Mapping[str, Forward] = {
    "preprocessor": run_preprocessor,
    "encoder": run_encoder,
    "decoder": run_decoder_step,
    "joint": run_joint,
}
"""Component → how it is called once."""


@contextmanager
def without_start_symbol(decoder: Any) -> Iterator[None]:
    """`decoder.forward` puts a start symbol before the targets unless it believes to be exported."""
    before = decoder._rnnt_export
    decoder._rnnt_export = True
    try:
        yield
    finally:
        decoder._rnnt_export = before


@contextmanager
def _raw_outputs(joint: Any) -> Iterator[None]:
    """The joint without its log-softmax."""
    before = joint.log_softmax
    joint.log_softmax = False
    try:
        yield
    finally:
        joint.log_softmax = before


def predict_step(model: Any, token: int, state: State | None, *, blank: int) -> tuple[Array, State]:
    """One step of the prediction network, as NeMo's greedy decoding takes it: token, state → float32[P], state."""
    target = None if token == blank else torch.tensor([[token]])
    with torch.no_grad():
        prediction, after = model.decoder.predict(target, state, add_sos=False, batch_size=1)
    return to_array(prediction[0, 0]), after


def joint_step(model: Any, frame: Array, prediction: Array) -> Array:
    """One point of the joint: float32[D], float32[P] → float32[V + 1 + durations], not normalised."""
    with torch.no_grad(), _raw_outputs(model.joint):
        logits = model.joint.joint(_floats(frame)[None, None], _floats(prediction)[None, None])
    return to_array(logits[0, 0, 0])


def _floats(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _integers(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.int64))


def _lengths(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy().astype(np.int32)
