"""The runs of a candidate that a comparison needs: one program under several precision policies, or one model as it is.

Every run is an iterator of tensors. A package on the portable engine has all of them; whatever else a candidate is
(Core ML itself, a torch module, an ONNX graph, a trace) has the one that it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from layerdiff.compare import DITHER_SEEDS
from layerdiff.errors import EngineError, FeedError, known_names
from layerdiff.run.lockstep import Cursor, expected_of
from layerdiff.sources.coreml_calls import pad_to_declared
from layerdiff.sources.coreml_model import PackageSource
from layerdiff.sources.coreml_portable import declared_dtype

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.outline import Node, Outline
    from layerdiff.records import Array
    from layerdiff.sources import Feed, TraceSource
    from layerdiff.sources.coreml_native_model import NativeModel


class Runs(Protocol):
    """One model of a candidate, ready to be run beside the reference."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What it is, for the report."""

    @property
    def inputs(self) -> Mapping[str, Node | None]:
        """Name → what is known of the input; None if nothing is. Only those that have to be fed."""

    def outline(self, feed: Feed) -> Outline:
        """Its structure on a feed."""

    def fitted(self, feed: Feed) -> tuple[Feed, str]:
        """The feed as the model takes it, and what was done to it, in words.

        Raises:
            FeedError: it can't be made to fit.
        """

    def cursors(self, feed: Feed, wanted: Collection[str]) -> dict[str, Cursor]:
        """Variant → a run that shows the wanted tensors; a name that is given n times is taken n times."""

    def probe(self, feed: Feed, wanted: Collection[str]) -> Iterator[tuple[str, Array]]:
        """The tensors as they would be without loss of precision, for alignment; each good until the next one."""

    def dtype(self, tensor: str) -> str:
        """numpy name of the dtype in which a tensor is computed."""


@dataclass(frozen=True)
class PackageRuns:
    """A package on the portable engine."""

    model: Model
    is_measured: bool = True
    """Whether to run it under every policy; else only as declared."""
    native: NativeModel | None = None
    """The same package on Core ML, beside which the portable engine measures the error split."""

    @property
    def description(self) -> Mapping[str, Any]:
        """Of Core ML with the observer effect: how far more outputs move those that the package has anyway."""
        if self.native is None:
            return self._source.description
        effect = {name: found.relative_l2_error for name, found in self.native.observed.items()}
        return {**self.native.description, **({"observer_effect": effect} if effect else {})}

    @cached_property
    def placements(self) -> Mapping[str, str]:
        """Tensor → where Core ML plans to run its op; empty without Core ML, or where it has no compute plan."""
        if self.native is None:
            return {}
        try:
            return self.native.placement
        except EngineError:  # an older system: the comparison itself needs no plan
            return {}

    @cached_property
    def _source(self) -> PackageSource:
        return PackageSource(self.model)

    @property
    def inputs(self) -> Mapping[str, Node | None]:
        nodes = {node.name: node for node in self._source.outline({}).inputs}
        return {name: nodes[name] for name, spec in self.model.inputs.items() if not spec.optional}

    def outline(self, feed: Feed) -> Outline:
        return self._source.outline(feed)

    def fitted(self, feed: Feed) -> tuple[Feed, str]:
        """Integers in the declared dtype, and a window that is longer than the input filled up with zeros."""
        known = {name: value for name, value in feed.items() if name in self.model.inputs}
        return pad_to_declared(
            {name: _typed(v, self.model.inputs[name].dtype) for name, v in known.items()}, self.model
        )

    @cached_property
    def variants(self) -> dict[str, PackageSource]:
        """Variant → the program under its policy."""
        found = {"declared": self._source}
        if not self.is_measured:
            return found

        def under(policy: str, seed: int | None = None) -> PackageSource:
            return PackageSource(self.model.with_precision(policy, dither_seed=seed))

        found["float64"] = under("float64", DITHER_SEEDS[0])
        if self.model.declared_precision == "float32":
            return found
        found["float32"] = under("float32")
        for seed in DITHER_SEEDS:
            found[f"weights/{seed}"] = under("float32", seed)
            found[f"cost/{seed}"] = under("float16_unbounded", seed)
        return found

    def cursors(self, feed: Feed, wanted: Collection[str]) -> dict[str, Cursor]:
        counts, names = expected_of(wanted), list(dict.fromkeys(wanted))
        found = {
            variant: Cursor(source.trace(feed, names, lend=True), counts.copy())
            for variant, source in self.variants.items()
        }
        if self.is_measured:
            overrides: dict[str, Array] = {}
            forced = self._source.trace(feed, names, overrides=overrides, lend=True)
            found["own"] = Cursor(forced, counts.copy(), overrides)
        if self.native is not None:
            found["native"] = Cursor(self.native.trace(feed, names), counts.copy())
        return found

    def probe(self, feed: Feed, wanted: Collection[str]) -> Iterator[tuple[str, Array]]:
        wide = PackageSource(self.model.with_precision("float32"))
        return wide.trace(feed, list(dict.fromkeys(wanted)), lend=True)

    def dtype(self, tensor: str) -> str:
        return declared_dtype(self.model, tensor)


@dataclass(frozen=True)
class PlainRuns:
    """Any other model: it runs once."""

    source: TraceSource
    signature: tuple[str, ...] | None = None
    """The names of its inputs, where they are known without a feed."""
    _dtypes: dict[str, str] = field(default_factory=dict)
    """Tensor → the dtype in which it was computed, a final cast left out."""

    @property
    def description(self) -> Mapping[str, Any]:
        return self.source.description

    @property
    def inputs(self) -> Mapping[str, Node | None]:
        return dict.fromkeys(self.signature or ())

    def outline(self, feed: Feed) -> Outline:
        outline = self.source.outline(feed)
        for node in (*outline.inputs, *outline.nodes):
            renamed = node.kind == "cast" and len(node.inputs) == 1 and node.dtype.startswith("float")
            dtype = self._dtypes.get(node.inputs[0], node.dtype) if renamed else node.dtype
            self._dtypes.update(dict.fromkeys((node.name, *node.aliases), dtype))
        return outline

    def fitted(self, feed: Feed) -> tuple[Feed, str]:
        return feed, ""

    def cursors(self, feed: Feed, wanted: Collection[str]) -> dict[str, Cursor]:
        names = list(dict.fromkeys(wanted))
        return {"declared": Cursor(self.source.trace(feed, names), expected_of(wanted))}

    def probe(self, feed: Feed, wanted: Collection[str]) -> Iterator[tuple[str, Array]]:
        return self.source.trace(feed, list(dict.fromkeys(wanted)))

    def dtype(self, tensor: str) -> str:
        return self._dtypes.get(tensor, "float32")


def _typed(value: Array, dtype: str) -> Array:
    """Whole numbers in the dtype that a package declares."""
    return value.astype(dtype) if value.dtype.kind in "iub" and "int" in dtype else value


def paired_inputs(feed: Feed, runs: Runs, *, title: str) -> dict[str, str]:
    """Input of the reference → input of the candidate that is fed the same.

    By name; what is left over by what can be fed where, if that leaves one possibility. Inputs of the reference that
    the candidate does not have are dropped: a converter may have baked them in.

    Raises:
        FeedError: an input of the candidate can't be told to be one of the reference's.
    """
    wanted = runs.inputs
    pairs = {name: name for name in feed if name in wanted or not wanted}
    left = [name for name in wanted if name not in pairs]
    ours = [name for name in feed if name not in pairs]
    for name in left:
        fits = [one for one in ours if one not in pairs and _can_be(feed[one], wanted[name])]
        rivals = [
            other for other in left if other not in pairs.values() and fits and _can_be(feed[fits[0]], wanted[other])
        ]
        if len(fits) != 1 or len(rivals) != 1:
            raise FeedError(
                f"the inputs of {title} are not those of the reference: nothing is fed to '{name}'.",
                detail=f"{known_names('the reference is fed', name, feed)}\n{title} takes: {', '.join(wanted)}",
                action="name the inputs alike on both sides",
            )
        pairs[fits[0]] = name
    return pairs


def _can_be(value: Array, node: Node | None) -> bool:
    """Whether a value can be fed to an input: whole numbers to whole numbers, in its number of axes and lengths."""
    if node is None:
        return True
    alike = (value.dtype.kind in "iub") == ("int" in node.dtype or node.dtype == "bool")
    if node.shape is None or not alike:
        return alike
    if len(node.shape) != value.ndim:
        return False
    return all(dim is None or dim >= length for dim, length in zip(node.shape, value.shape, strict=True))
