"""Any module of any NeMo speech model as a source of tensors, fed as it is inside of the whole model.

`open_component` restores a checkpoint of any class (CTC, RNN-T, TDT, hybrid, attention, self-supervised) and takes one
module out of it: a component such as `encoder` or `ctc_decoder`, or any dotted path. `NemoComponent.feeds` runs the
model on a clip and catches the arguments with which the module is called; `outline` and `stream` run the module alone
on such a feed.

Names. A feed has the names of the arguments in NeMo, but where the components' contract (`layerdiff.records.Call`)
has names of its own, those: they are the inputs of the Core ML packages. Tensors and weights are named from the model
down, `encoder.layers.0`, as they are when the whole component runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerdiff import quiet
from layerdiff.errors import ConfigError, FeedError, known_names
from layerdiff.sources.nemo_arguments import CallForm, Slot, argument_names, catching
from layerdiff.sources.nemo_components import without_start_symbol
from layerdiff.sources.nemo_describe import describe
from layerdiff.sources.nemo_forward import Walk, run_clip
from layerdiff.sources.nemo_locate import locate
from layerdiff.sources.nemo_restore import SPEECH_MODEL, restore_kind, to_reference_state
from layerdiff.sources.torch_source import TorchSource
from layerdiff.store import sha256_file

if TYPE_CHECKING:
    from layerdiff.outline import Outline
    from layerdiff.progress import Progress
    from layerdiff.records import Array, Clip, Points
    from layerdiff.sources import Feed, Sink

__all__ = ["NemoComponent", "Walk", "component_of", "component_paths", "open_component"]

CONTRACTS: Mapping[str, CallForm] = {
    "preprocessor": CallForm((), {"input_signal": Slot("audio_signal"), "length": Slot("audio_length")}),
    "encoder": CallForm((), {"audio_signal": Slot("mel"), "length": Slot("mel_length")}),
    "decoder": CallForm(
        (),
        {
            "targets": Slot("targets"),
            "target_length": Slot("target_length"),
            "states": [Slot("h_in"), Slot("c_in")],
        },
    ),
    "joint": CallForm((), {"encoder_outputs": Slot("encoder"), "decoder_outputs": Slot("decoder")}),
}
"""Component → how NeMo is called with the contract's inputs. A `decoder` that is called otherwise, as a CTC head is,
has no contract."""

CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict)
"""Modules that are never called."""


@dataclass(eq=False)
class NemoComponent:
    """One module of a NeMo model in the reference's state; see `layerdiff.sources.TensorSource`."""

    model: Any
    path: str
    """The module's path in the model: `encoder`, `encoder.layers.3.conv`."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the model beyond what its modules tell: name, checksum."""
    walk: Walk | None = None
    """Leads a clip through a transducer's prediction network and joint; needed for feeds of these only."""
    _points: dict[str, Points] = field(default_factory=dict)
    _forms: dict[frozenset[str], CallForm] = field(default_factory=dict)
    """Names of a feed → the form of the last call that had tensors of these names."""

    @property
    def root(self) -> str:
        """The component that the module is, or is a part of."""
        return self.path.partition(".")[0]

    @cached_property
    def module(self) -> torch.nn.Module:
        """The module itself."""
        return self.model.get_submodule(self.path)  # type: ignore[no-any-return]

    @cached_property
    def description(self) -> Mapping[str, Any]:
        """The model's class and state, and which module of it this is."""
        module = {"component": self.path, "module": type(self.module).__name__, "engine": "torch"}
        return {**self.about, **describe(self.model), **module}

    @property
    def sample_rate_hz(self) -> int:
        """Of the clips that the model takes."""
        return int(self.model.cfg.preprocessor.sample_rate)

    # -------------------------------------------------------------- feeds

    def feeds(self, clip: Clip) -> Iterator[tuple[str, Feed]]:
        """The inputs of the module for a clip, one feed per call of it.

        A prediction network has one feed per step: `targets` int32[1, 1], `target_length` int32[1], `h_in` and `c_in`
        float32[L, 1, H]; the joint one for all points of the path (at most 1024): `encoder` float32[N, D, 1],
        `decoder` float32[N, P, 1].

        Yields:
            The clip's name, with the number of the call behind `#` from the second on, and the feed.

        Raises:
            CheckpointError: the model is a transducer that can't be walked through.
            FeedError: the clip has another sample rate, the module isn't called for it, or no prompt can be made.
            ValueError: the clip has to be walked, and there is no `walk`.
        """
        if clip.sample_rate_hz != self.sample_rate_hz:
            raise FeedError(
                f"the clip '{clip.name}' has a sample rate that the model doesn't take.",
                where=clip.path,
                detail=f"expected {self.sample_rate_hz} Hz, got {clip.sample_rate_hz} Hz",
                action="Read it at the model's sample rate.",
            )
        with catching(self.module, within=self.model.get_submodule(self.root)) as catcher, quiet.third_party():
            walk = self._noting(clip.name) if self.walk is not None else None
            run_clip(self.model, clip, self.root, walk=walk, pause=catcher.paused)
        if not catcher.calls:
            raise FeedError(
                f"the module '{self.path}' isn't called when the model runs on '{clip.name}'.",
                where=str(self.about.get("name", type(self.model).__name__)),
                action="Name a module that runs, or the one around it.",
            )
        for index, (caught, form) in enumerate(catcher.calls):
            feed = contract_feed(self.path, caught)
            self._forms[frozenset(feed)] = form
            yield clip.name + (f"#{index}" if index else ""), feed

    def _noting(self, clip: str) -> Walk:
        """The walk, from which the joint's points are kept under the names of its feeds."""

        def walk(source: Any, given: Clip, until: Any) -> Iterator[Any]:
            count = 0
            for step in self.walk(source, given, until) if self.walk is not None else ():
                points = getattr(step[0], "points", None)
                if points is not None:
                    self._points[clip + (f"#{count}" if count else "")] = points
                    count += 1
                yield step

        return walk

    def points_of(self, feed: str) -> Points | None:
        """Where a joint was evaluated in a feed of that name; None if it is none of a joint."""
        return self._points.get(feed) if self.path == "joint" else None

    # -------------------------------------------------------------- running

    def outline(self, feed: Feed) -> Outline:
        """The module's structure on a feed; names are relative to the model."""
        return self._source.outline(feed)

    def stream(self, feed: Feed, sink: Sink, wanted: Collection[str] | None = None) -> None:
        """Runs the module once and hands its tensors to `sink`; see `TensorSource.stream`."""
        self._source.stream(feed, sink, wanted)

    @cached_property
    def _source(self) -> TorchSource:
        # alone under its own path: so tensors are named from the model down, and weights of other components stay out
        return TorchSource.from_module(shell(self.module, self.path), name=self.path, call=self._call)

    def _call(self, _: torch.nn.Module, feed: Mapping[str, torch.Tensor]) -> Any:
        """The module's answer: called by its contract, or as it was last called with arguments of these names."""
        form = CONTRACTS.get(self.path)
        if form is not None and set(feed) == set(slot_paths(form).values()):
            args, kwargs = form.filled({name: _as_nemo_takes(value) for name, value in feed.items()})
        else:
            args, kwargs = self._form(feed).filled(feed)
        is_prediction = self.path == "decoder" and hasattr(self.module, "_rnnt_export")
        with without_start_symbol(self.module) if is_prediction else nullcontext():
            return self.module(*args, **kwargs)

    def _form(self, feed: Mapping[str, Any]) -> CallForm:
        """The form of the last call with tensors of these names; by keywords, if there was none.

        Raises:
            FeedError: the module has no such arguments.
        """
        known = argument_names(self.module)
        form = self._forms.get(frozenset(feed))
        unknown = next((name for name in feed if name not in known), None)
        if form is None and unknown is not None:
            raise FeedError(
                f"the module '{self.path}' takes no '{unknown}'.",
                where=str(self.about.get("name", type(self.model).__name__)),
                detail=known_names("it takes", unknown, known),
                action="Give a feed of the module's own inputs.",
            )
        return form or CallForm((), {name: Slot(name) for name in feed})


# ------------------------------------------------------------------ opening


def open_component(
    name: str | Path, component: str, *, walk: Walk | None = None, progress: Progress | None = None
) -> NemoComponent:
    """Restores a checkpoint of any NeMo speech model and takes one module of it.

    Args:
        name: a bundled name, the path of a `.nemo` file, or a name on the Hugging Face hub.
        component: a component's name or any module's dotted path.
        walk: see `NemoComponent.walk`.
        progress: told about the import of NeMo and the restoring; None for silence.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, unsafe, or no speech model.
        ConfigError: the model has no such module.
        MissingExtraError: NeMo is not installed.
    """
    model = restore_kind(name, SPEECH_MODEL, progress=progress)
    with quiet.third_party():
        checksum = sha256_file(locate(name))
    return _taken(model, component, about={"name": str(name), "sha256": checksum}, walk=walk)


def component_of(model: Any, component: str, *, name: str = "model", walk: Walk | None = None) -> NemoComponent:
    """One module of a model that is already built; the model is put in the reference's state, in place.

    Raises:
        ConfigError: the model has no such module.
    """
    return _taken(to_reference_state(model), component, about={"name": name}, walk=walk)


def _taken(model: Any, component: str, *, about: Mapping[str, Any], walk: Walk | None) -> NemoComponent:
    paths = component_paths(model)
    if component not in paths:
        raise ConfigError(
            f"the model has no component '{component}'.",
            where=f"{about['name']}, {type(model).__name__}",
            detail=known_names("its modules", component, paths),
            action="Name one of its components, or a module's dotted path.",
        )
    return NemoComponent(model, component, about, walk)


def component_paths(model: torch.nn.Module) -> tuple[str, ...]:
    """The paths of all modules that can be called, components first."""
    modules = model.named_modules(remove_duplicate=False)
    paths = [path for path, module in modules if path and not isinstance(module, CONTAINERS)]
    return tuple(sorted(paths, key=lambda path: "." in path))


def shell(module: torch.nn.Module, path: str) -> torch.nn.Module:
    """A module that holds nothing but `module`, under its path."""
    for name in reversed(path.split(".")):
        outer = torch.nn.Module()
        outer.add_module(name, module)
        module = outer
    return module.eval()


# ------------------------------------------------------------------ contracts


def contract_feed(path: str, caught: Mapping[str, Array]) -> dict[str, Array]:
    """The feed of a caught call, under the contract's names and with int32 for integers if there is a contract."""
    names = slot_paths(CONTRACTS[path]) if path in CONTRACTS else {}
    if set(caught) != set(names):
        return dict(caught)
    return {names[name]: _as_packages_take(value) for name, value in caught.items()}


def slot_paths(form: CallForm) -> dict[str, str]:
    """Name of an argument → name in the feed, of a form that is called with keywords only."""
    found: dict[str, str] = {}
    for name, value in form.kwargs.items():
        if isinstance(value, Slot):
            found[name] = value.name
        else:
            found |= {f"{name}.{index}": slot.name for index, slot in enumerate(value)}
    return found


def _as_packages_take(value: Array) -> Array:
    return value.astype(np.int32) if value.dtype.kind == "i" else value


def _as_nemo_takes(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.float32 if value.dtype.is_floating_point else torch.int64)
