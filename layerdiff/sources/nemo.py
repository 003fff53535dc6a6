"""The reference: a NeMo transducer, run component by component, with any tensor of it captured.

`NemoSource.open` restores a checkpoint; `from_model` and `from_joint` take what is already built. The model runs
on the CPU in the state that `description` reports. `predict_step` and `joint_step` let
`layerdiff.decode.greedy` walk the reference's own path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerdiff import quiet
from layerdiff.errors import CheckpointError, FeedError
from layerdiff.records import Captured
from layerdiff.sources import nemo_components as components
from layerdiff.sources.nemo_describe import describe
from layerdiff.sources.nemo_locate import locate
from layerdiff.sources.nemo_restore import restore, to_reference_state
from layerdiff.sources.torch_module import module_paths, recording
from layerdiff.store import sha256_file

if TYPE_CHECKING:
    from layerdiff.progress import Progress
    from layerdiff.records import Array, Call, Component

__all__ = ["NemoSource", "Tokenizer", "describe", "restore"]

STATES = {"h_in": "h_out", "c_in": "c_out"}
"""The decoder's state inputs → the outputs that feed them in the next step."""
STATE_TENSORS = (
    "decoder.prediction.dec_rnn:1.0",
    "decoder.prediction.dec_rnn:1.1",
)
"""The states h and c inside the prediction network, by tensor name."""


@dataclass(frozen=True)
class Tokenizer:
    """Token ids as text."""

    pieces: tuple[str, ...]
    """The piece of every id; blank is not among them."""
    _model: Any = None
    """NeMo's tokenizer, which knows how pieces are joined; None for a model of characters."""

    def piece(self, token: int) -> str:
        """One token's piece; `<blank>` for blank."""
        return self.pieces[token] if token < len(self.pieces) else "<blank>"

    def text(self, tokens: Sequence[int]) -> str:
        """The transcript."""
        if self._model is None:
            return "".join(self.piece(token) for token in tokens)
        return str(self._model.ids_to_text([int(token) for token in tokens]))


@dataclass(frozen=True, eq=False)
class NemoSource:
    """A NeMo transducer, or a part of one, in the reference's state; see `Source`."""

    model: Any
    """torch module with some of `preprocessor`, `encoder`, `decoder`, `joint`; tensor names are relative to it."""
    description: Mapping[str, Any]

    # -------------------------------------------------------------- opening

    @classmethod
    def open(cls, name: str | Path, *, progress: Progress | None = None) -> NemoSource:
        """Restores a checkpoint.

        Args:
            name: a bundled name, the path of a `.nemo` file, or a name on the Hugging Face hub.
            progress: told about the import of NeMo and the restoring.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, unsafe, or no transducer with an LSTM.
            MissingExtraError: NeMo is not installed.
        """
        model = restore(name, progress=progress)
        with quiet.third_party():
            path = locate(name)
        require_supported(model, str(path))
        return cls(model, {"name": str(name), "sha256": sha256_file(path), **describe(model)})

    @classmethod
    def from_model(cls, model: Any, *, name: str = "model") -> NemoSource:
        """A model that is already built; it is put in the reference's state, in place."""
        return cls(to_reference_state(model), {"name": name, **describe(model)})

    @classmethod
    def from_joint(cls, joint: torch.nn.Module, *, name: str = "joint") -> NemoSource:
        """A joint network alone, under the name that it has in a model."""
        model = torch.nn.Module()
        model.add_module("joint", joint)
        return cls.from_model(model, name=name)

    # -------------------------------------------------------------- parts

    @property
    def preprocessor(self) -> torch.nn.Module:
        return self.model.preprocessor  # type: ignore[no-any-return]

    @property
    def encoder(self) -> torch.nn.Module:
        return self.model.encoder  # type: ignore[no-any-return]

    @property
    def decoder(self) -> torch.nn.Module:
        return self.model.decoder  # type: ignore[no-any-return]

    @property
    def joint(self) -> torch.nn.Module:
        return self.model.joint  # type: ignore[no-any-return]

    @property
    def durations(self) -> tuple[int, ...]:
        """Frames, in the order of the joint's last outputs; empty for RNN-T."""
        return tuple(self.description["durations"])

    @property
    def blank(self) -> int:
        """Token id of blank; as many tokens come before it."""
        return int(self.description["blank"])

    @property
    def frame_s(self) -> float:
        """Seconds of audio per encoder frame."""
        return float(self.description["frame_s"])

    @property
    def sample_rate_hz(self) -> int:
        return int(self.description["sample_rate_hz"])

    @property
    def max_symbols(self) -> int:
        """The most tokens on one frame."""
        return int(self.description["max_symbols"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Token ids as text."""
        pieces = tuple(str(piece) for piece in self.model.joint.vocabulary or ())
        return Tokenizer(pieces, getattr(self.model, "tokenizer", None))

    # -------------------------------------------------------------- running

    def tensor_names(self, component: Component) -> tuple[str, ...]:
        """Paths of the component's modules, then what goes into the members of the joint's network, and the states."""
        paths = module_paths(self.model, component)
        inputs = tuple(f"{path}:input" for path in paths if path.startswith("joint.joint_net."))
        states = tuple(name for name in STATE_TENSORS if name.partition(":")[0] in paths)
        return paths + inputs + states

    def run(self, call: Call, tensors: Sequence[str], *, inject: Mapping[str, Array] | None = None) -> Captured:
        """Runs one component; `tensors` are names of `layerdiff.sources.torch_module`.

        The decoder runs step by step, the joint on all points at once. Every captured tensor is float32 with the
        call's leading axis; one whose module doesn't run in this component is absent.

        Raises:
            ConfigError: a tensor's module doesn't exist.
            FeedError: the decoder gets no step.
            ValueError: `inject` is given; a torch module computes everything itself.
        """
        if inject:
            raise ValueError(f"nothing can be injected into a NeMo model, got {', '.join(inject)}")
        if call.component == "decoder":
            return self._run_steps(call, tensors)
        return self._run_once(call.component, call.feed, tensors)

    def _run_once(self, component: Component, feed: Mapping[str, Array], tensors: Sequence[str]) -> Captured:
        with recording(self.model, tensors) as record, torch.no_grad():
            outputs = components.FORWARD[component](self.model, feed)
        return Captured(outputs, record.arrays())

    def _run_steps(self, call: Call, tensors: Sequence[str]) -> Captured:
        """The prediction network, one step after the other."""
        if not len(call.feed["targets"]):
            raise FeedError(
                "the decoder is called without a single step.",
                detail="expected targets int32[U, 1] with U of at least 1, got int32[0, 1]",
                action="Give audio that is longer than one encoder frame.",
            )
        results: list[Captured] = []
        for u in range(len(call.feed["targets"])):
            feed = {name: value[u] if name in STATES else value[u : u + 1] for name, value in call.feed.items()}
            if call.chained and results:
                feed |= {name: results[-1].outputs[output] for name, output in STATES.items()}
            results.append(self._run_once("decoder", feed, tensors))
        return Captured(
            _stacked([result.outputs for result in results]), _stacked([result.tensors for result in results])
        )

    def initial_state(self) -> tuple[Array, Array]:
        """The prediction network's h and c before the first step, float32[L, 1, H] each."""
        h, c = self.model.decoder.initialize_state(torch.zeros(1))
        return h.numpy(), c.numpy()

    def predict_step(self, token: int, state: Any) -> tuple[Array, Any]:
        """One step for `layerdiff.decode.greedy`: token, state (None at first) → float32[P], state."""
        return components.predict_step(self.model, token, state, blank=self.blank)

    def joint_step(self, frame: Array, prediction: Array) -> Array:
        """One point for `layerdiff.decode.greedy`: float32[D], float32[P] → raw float32[V + 1 + durations]."""
        return components.joint_step(self.model, frame, prediction)


def _stacked(steps: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One leading axis of steps: a batch of one is it already, a state [L, 1, H] gets a new one."""
    values = {name: [step[name] for step in steps] for name in steps[0]}
    return {name: np.stack(value) if _is_state(name) else np.concatenate(value) for name, value in values.items()}


def _is_state(name: str) -> bool:
    """Whether a decoder's output or tensor is a state, [L, 1, H], which a batch of one can't be told from."""
    path, _, part = name.partition(":")
    is_rnn = path.startswith("decoder.prediction.dec_rnn") and part.startswith(("1", "input.1"))
    return name in STATES.values() or is_rnn or (path == "decoder" and part.startswith("2"))


def require_supported(model: Any, where: str) -> None:
    """Refuses a transducer that doesn't fit the components' contracts.

    Args:
        model: a transducer.
        where: the checkpoint's path, or what else tells the reader which model it is.

    Raises:
        CheckpointError: it doesn't.
    """
    description = describe(model)
    extra = int(model.joint.num_extra_outputs)
    problems = {
        "its prediction network is not an LSTM": not hasattr(model.decoder, "pred_rnn_layers"),
        f"its joint has {extra} extra outputs and {len(description['durations'])} durations": extra
        != len(description["durations"]),
        "its encoder doesn't say its subsampling factor": not description.get("frame_s"),
        "its prediction network has no embedding for blank": not getattr(model.decoder, "blank_as_pad", False),
        "it puts a language prompt between its encoder and its joint": bool(getattr(model, "concat", False)),
    }
    for problem, found in problems.items():
        if found:
            raise CheckpointError(
                f"the model of '{Path(where).name}' is not supported: {problem}.",
                where=where,
                action="Give an RNN-T or TDT model with an LSTM prediction network.",
            )
