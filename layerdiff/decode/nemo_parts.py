"""The components of a NeMo transducer or CTC model, called as greedy decoding needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from layerdiff.decode.greedy import Decision, decision
from layerdiff.decode.parts import Alphabet, CtcParts, Features, Parts, TransducerParts
from layerdiff.errors import CheckpointError, FeedError
from layerdiff.sources import nemo_components
from layerdiff.sources.calls import preprocessor_call, valid_frames
from layerdiff.sources.nemo import Tokenizer, describe, require_supported
from layerdiff.sources.torch_module import to_array

if TYPE_CHECKING:
    from layerdiff.records import Array


@dataclass(frozen=True, eq=False)
class Speech:
    """A model, ready to be decoded greedily."""

    parts: Parts
    alphabet: Alphabet
    tokenizer: Tokenizer
    sample_rate_hz: int
    hop_samples: int
    """Samples per mel frame."""

    @property
    def frame_samples(self) -> int:
        """Samples per encoder frame."""
        return round(self.alphabet.frame_s * self.sample_rate_hz)


def nemo_speech(model: Any, *, name: str = "model") -> Speech:
    """A model that is in the reference's state, with what its outputs mean.

    Args:
        model: a transducer, hybrids among them, or a CTC model.
        name: what tells the reader which model it is.

    Raises:
        CheckpointError: it is neither, or a transducer that can't be walked.
    """
    about = describe(model)
    is_transducer = hasattr(model, "joint")
    if is_transducer:
        require_supported(model, name)
    elif "ctc_temperature" not in about or not about.get("frame_s"):
        raise CheckpointError(
            f"the model of '{name}' can't be decoded greedily: it is a {type(model).__name__}.",
            where=name,
            action="Give an RNN-T, TDT or CTC model.",
        )
    alphabet = Alphabet(
        int(about["blank"]),
        tuple(about.get("durations") or ()),
        float(about["frame_s"]),
        int(about.get("max_symbols") or 1),
    )
    parts: Parts = _transducer(model, alphabet) if is_transducer else _ctc(model)
    hop = int(model.preprocessor.featurizer.hop_length)
    return Speech(parts, alphabet, _tokenizer(model), int(about["sample_rate_hz"]), hop)


def _tokenizer(model: Any) -> Tokenizer:
    vocabulary = model.joint.vocabulary if hasattr(model, "joint") else model.decoder.vocabulary
    return Tokenizer(tuple(str(piece) for piece in vocabulary or ()), getattr(model, "tokenizer", None))


def _transducer(model: Any, alphabet: Alphabet) -> TransducerParts:
    def step(token: int, state: Any) -> tuple[Array, Any]:
        return nemo_components.predict_step(model, token, state, blank=alphabet.blank)

    def decide(frame: Array, prediction: Array) -> Decision:
        return decision(nemo_components.joint_step(model, frame, prediction), durations=alphabet.durations)

    return TransducerParts(_preprocess(model), _encode(model), step, decide)


def _ctc(model: Any) -> CtcParts:
    def head(frames: Array) -> Array:
        with torch.no_grad():
            logits = model.decoder(encoder_output=torch.from_numpy(frames.T[None]))
        found: Array = to_array(logits)[0]
        return found

    return CtcParts(_preprocess(model), _encode(model), head)


def _preprocess(model: Any) -> Any:
    def preprocess(samples: Array, length: int | None = None) -> Features:
        with torch.no_grad(), refusing("preprocessor", f"{len(samples)} samples"):
            return nemo_components.run_preprocessor(model, preprocessor_call(samples, length).feed)

    return preprocess


def _encode(model: Any) -> Any:
    def encode(features: Features) -> Array:
        with torch.no_grad(), refusing("encoder", f"{features['mel'].shape[-1]} mel frames"):
            return valid_frames(nemo_components.run_encoder(model, features))

    return encode


@contextmanager
def refusing(component: str, given: str) -> Iterator[None]:
    """What torch and NeMo raise for audio that is too short or too long becomes a refusal of that clip alone."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise FeedError(
            f"the reference's {component} can't be run on {given}.",
            detail=(str(error).strip() or type(error).__name__).splitlines()[0],
            action="Give audio of a length that the model takes.",
        ) from error
