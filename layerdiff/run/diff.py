"""`layerdiff.diff`: the comparison of two models from Python, without a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from layerdiff import progress, quiet
from layerdiff.config import stages_of
from layerdiff.environment import environment
from layerdiff.errors import ConfigError, FeedError, known_names
from layerdiff.installed import package_path
from layerdiff.records import METRICS, Report, worst_status
from layerdiff.run.aligned import Fed, compare_feeds
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.parts import WHOLE, Replayed, open_source
from layerdiff.run.runs import PackageRuns, PlainRuns, Runs
from layerdiff.run.stages import resolve
from layerdiff.sources.coreml_model import PackageSource

if TYPE_CHECKING:
    from layerdiff.records import Array
    from layerdiff.sources import TensorSource

Model = Any
"""A torch module, a loaded package (`layerdiff.load`), a path, `package.module:factory`, or a `TensorSource`."""

PACKAGES = (".mlpackage", ".mlmodelc", ".mlmodel")


def diff(
    *,
    reference: Model,
    candidates: Mapping[str, Model],
    feed: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    stages: Mapping[str, Mapping[str, Any]] | None = None,
    thresholds: Mapping[str, float] | None = None,
    limits: Literal["measured", "estimated"] = "measured",
) -> Report:
    """Compares candidates with a reference, tensor by tensor.

    Args:
        reference: the model that counts as right: a torch module in eval mode, or what `layerdiff run` takes as a file:
            an ML package, an ONNX file, a TorchScript file, an exported program, a trace, `package.module:factory`.
        candidates: name → model, of the same kinds; mostly the path of a Core ML package.
        feed: input name → array or tensor, by the names of the reference's inputs; or several such feeds.
        stages: name → `{reference, candidate}` or `{of, slice}`, as in a configuration; None aligns.
        thresholds: metric → limit, as in a configuration.
        limits: `measured` runs each package under several precisions to tell what it may be off by; `estimated` runs
            each side once.

    Returns:
        The report; a failed comparison is no error. It is `ok` if everything compared is within its limits.

    Raises:
        LayerdiffError: the comparison could not be made: a model is missing or damaged, a feed does not fit, the
            reference is in train mode, a stage does not exist.
    """
    if not candidates:
        raise ConfigError("there is no candidate to compare.", action="give candidates={'name': 'X.mlpackage'}")
    for metric in thresholds or {}:
        if metric not in METRICS:
            raise ConfigError(f"there is no metric '{metric}'.", detail=known_names("known metrics", metric, METRICS))
    feeds = list(labelled(feed))
    with quiet.third_party():
        source = as_source(reference)
        given = None if stages is None else resolve(stages_of(stages), component=WHOLE, parts=(WHOLE,))
        trials = {
            name: [
                AlignedTrial(
                    name,
                    WHOLE,
                    source,
                    as_runs(model, is_measured=limits == "measured"),
                    given=given,
                    thresholds=dict(thresholds or {}),
                    place="diff()",
                )
            ]
            for name, model in candidates.items()
        }
        shown = progress.SILENT
        results = compare_feeds(trials, iter(feeds), parts=(WHOLE,), total=len(feeds), progress=shown)
    return Report(
        status=worst_status([result.status for result in results.values()]),
        environment=environment(),
        reference=dict(source.description),
        inputs={"clips": [{"name": label} for _, label, _ in feeds]},
        candidates=results,
    )


def labelled(feed: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Iterator[Fed]:
    """The feeds as arrays, with a label each.

    Raises:
        FeedError: a feed is no mapping of names to arrays.
    """
    one_or_none = isinstance(feed, Mapping) or not isinstance(feed, Iterable)
    several = [feed] if one_or_none else list(feed)
    for index, one in enumerate(several):
        if not isinstance(one, Mapping):
            raise FeedError(
                f"a feed is a mapping of input names to arrays, not a '{type(one).__name__}'.",
                action='give feed={"x": array}',
            )
        yield WHOLE, f"feed {index}" if len(several) > 1 else "feed", {n: _array(v) for n, v in one.items()}


def _array(value: Any) -> Array:
    """An array of what a caller feeds; torch tensors without their gradients."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def as_source(model: Model) -> TensorSource:
    """A model as a reference."""
    if isinstance(model, str | Path):
        kind, text = kind_of(str(model)), str(model)
        return open_source(kind, text)
    if hasattr(model, "stream") and hasattr(model, "outline"):
        return model  # type: ignore[no-any-return]
    if hasattr(model, "with_precision"):
        return PackageSource(model.with_precision("float32"))
    from layerdiff.sources.torch_source import TorchSource

    return TorchSource.from_module(model, name=type(model).__name__)


def as_runs(model: Model, *, is_measured: bool) -> Runs:
    """A model as a candidate."""
    from layerdiff.run.candidates import load_program

    if isinstance(model, str | Path) and kind_of(str(model)) == "coreml":
        return PackageRuns(load_program(package_path(str(model))), is_measured)
    if hasattr(model, "with_precision"):
        return PackageRuns(model, is_measured)
    source: Any = as_source(model)
    signature = getattr(source, "signature", None)
    return PlainRuns(source if hasattr(source, "trace") else Replayed(source), signature)


def kind_of(text: str) -> str:
    """What kind of source a path or name is: `coreml`, `onnx`, `trace` or `torch`."""
    suffix = Path(text).suffix
    if suffix in PACKAGES:
        return "coreml"
    return {".onnx": "onnx", ".trace": "trace"}.get(suffix, "torch")
