"""From a component and a recipe to an `.mlpackage` in the cache: trace, convert, save.

A package is named by the hash of everything it depends on, so nothing is converted twice and a changed weight,
recipe or version is. The model that is given is as it was afterwards, to the bit. torch and coremltools are
imported when something has to be built.

Two defaults of coremltools break a float16 model whose length is flexible, and are not used here. It routes the
result of `shape` through INT16, which is wrong from 32 768 samples on (2.05 s of audio at 16 kHz): that pass is
left out. And it computes lengths and positions in float16, which holds integers up to 2 048 only: a FastConformer
then slices its table of 9 999 relative positions around 4 960 instead of 4 962, and the encoder is 10 % off.
Lengths and positions therefore stay float32.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import quiet, store
from layerdiff.convert import recipes
from layerdiff.convert.compression import compress, require_target
from layerdiff.convert.identity import identity, tools
from layerdiff.convert.recipes import Port, Range, Recipe
from layerdiff.errors import ConversionError, OutputError

if TYPE_CHECKING:
    import torch

    from layerdiff.config import ConvertConfig
    from layerdiff.progress import Progress

LEFT_OUT_PASSES = frozenset({"common::add_int16_cast"})

QUOTED_LINES = 6
"""How much of what coremltools printed an error quotes."""

TARGET = "iOS17"
"""The oldest system that runs a package, unless another one is asked for."""

SELECTABLE = "layerdiff.selectable_ops"
"""Metadata of a rebuilt float16 joint: its ops that can be float16 or float32, as a JSON list of `_described`."""

_TRACE_SEED = 0


@dataclass(frozen=True)
class Options:
    """What a package depends on besides its recipe, the module and the tools."""

    component: str
    recipe: str
    precision: str
    debug: bool = False
    fixed: bool = False
    """Whether every flexible dimension is 1."""
    float32_ops: tuple[str, ...] = ()
    target: str = TARGET
    weights: str = "full"
    """As converted, or a name of `compression.COMPRESSIONS`."""

    @property
    def title(self) -> str:
        """`joint (raw_logits, float16)`."""
        kept = [f"{len(self.float32_ops)} ops in float32"] if self.float32_ops else []
        weights = [self.weights] if self.weights != "full" else []
        return f"{self.component} ({', '.join([*self._recipe, self.precision, *weights, *kept])})"

    @property
    def file_name(self) -> str:
        """The name of the package in the cache."""
        flags = ["debug"] * self.debug + ["fixed"] * self.fixed + [self.weights] * (self.weights != "full")
        words = [self.component, *self._recipe, self.precision, *flags]
        return "_".join(words) + ".mlpackage"

    @property
    def _recipe(self) -> list[str]:
        """The recipe, where there is a choice."""
        return [self.recipe] if self.recipe != "plain" else []


def build(
    source: Any,
    component: str,
    config: ConvertConfig,
    *,
    cache: store.Cache | None = None,
    progress: Progress | None = None,
    fixed: bool = False,
) -> Path:
    """The package of one component, from the cache or newly converted.

    Args:
        source: has the modules `preprocessor`, `encoder`, `decoder` and `joint`; those that the component's
            recipe uses are enough. They are unchanged afterwards.
        component: preprocessor, encoder, decoder or joint.
        config: recipe, compute precision, and whether the inner tensors become outputs too.
        cache: where packages are kept; the user's own cache if None.
        progress: told while something is converted.
        fixed: every flexible dimension is 1: a single step of the joint.

    Returns:
        The path of the `.mlpackage`; read it, don't change it.

    Raises:
        ConversionError: there is no such recipe, or coremltools could not convert.
        OutputError: the cache cannot be written.
    """
    name, recipe = recipes.find(component, config.recipe)
    if config.weights != "full":
        require_target(config.weights, config.target)
    options = Options(
        component,
        name,
        config.precision,
        debug=config.debug,
        fixed=fixed,
        float32_ops=tuple(sorted(config.float32_ops)),
        target=config.target,
        weights=config.weights,
    )
    return _cached(source, recipe, options, cache=cache, progress=progress)


def rebuild_joint(
    source: Any,
    recipe: Recipe,
    *,
    precision: str,
    float32_ops: Collection[str] = (),
    target: str = TARGET,
    cache: store.Cache | None = None,
    progress: Progress | None = None,
) -> Path:
    """The package of a joint with the inputs and outputs that `recipe` names, from the cache or newly converted.

    The ops that can be kept in float32 stand in its metadata, see `SELECTABLE`.

    Args:
        source: has the module `joint`, which is unchanged afterwards.
        recipe: inputs, outputs and their `cuts`.
        precision: float32 or float16.
        float32_ops: ops that stay float32 in a float16 package, by name.
        target: the oldest system that has to run it, as `ct.target` names it.
        cache: where packages are kept; the user's own cache if None.
        progress: told while something is converted.

    Returns:
        The path of the `.mlpackage`; read it, don't change it.

    Raises:
        ConversionError: coremltools could not convert.
        OutputError: the cache cannot be written.
    """
    kept = tuple(sorted(float32_ops))
    options = Options("joint", "rebuilt", precision, float32_ops=kept, target=target)
    return _cached(source, recipe, options, cache=cache, progress=progress)


def _cached(
    source: Any, recipe: Recipe, options: Options, *, cache: store.Cache | None, progress: Progress | None
) -> Path:
    """The package in the cache, converted first if it isn't there."""
    module = identity(getattr(source, options.component))
    chosen = asdict(recipe) if recipe.cuts else {}
    key = {**asdict(options), "module": module, "tools": tools(), "interface": chosen}

    def convert(path: Path) -> None:
        if options.weights == "full":
            with _progress(progress, f"converting {options.title}"), _explained(options):
                _convert(source, recipe, options, path=path)
            return
        full = _cached(source, recipe, replace(options, weights="full"), cache=cache, progress=progress)
        with _progress(progress, f"compressing {options.title}"), _explained(options):
            compress(full, options.weights, path=path)

    return (cache or store.Cache.default()).entry(key, options.file_name, convert)


# ------------------------------------------------------------------ the conversion


def _convert(source: Any, recipe: Recipe, options: Options, *, path: Path) -> None:
    import coremltools as ct

    traced = _trace(source, recipe, options)
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(LEFT_OUT_PASSES)
    dims = {dim: _dim(dim, fixed=options.fixed) for port in recipe.inputs for dim in port.shape}
    sizes = _sizes(source, recipe)
    outputs = recipes.outputs(recipe, source, debug=options.debug)
    selectable: list[dict[str, Any]] = []
    model = ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[_tensor_type(port, sizes=sizes, dims=dims) for port in recipe.inputs],
        outputs=[ct.TensorType(name=name, dtype=_dtype(dtype)) for name, dtype in outputs.items()],
        minimum_deployment_target=getattr(ct.target, options.target),
        compute_precision=_compute_precision(options, selectable),
        pass_pipeline=pipeline,
        skip_model_load=True,
    )
    for key, value in {**asdict(options), **tools()}.items():
        model.user_defined_metadata[f"layerdiff.{key}"] = str(value)
    if recipe.cuts:
        model.user_defined_metadata[SELECTABLE] = json.dumps(selectable)
    _save(model, path)


def _compute_precision(options: Options, selectable: list[dict[str, Any]]) -> Any:
    """float16 for every op with a tensor of rank 2 or more; what is below is a length or a position.

    Args:
        options: the precision, and the ops that keep float32.
        selectable: filled, while the program is converted, with the ops that can be either.
    """
    import coremltools as ct

    if options.precision == "float32":
        return ct.precision.FLOAT32

    def becomes_float16(op: Any) -> bool:
        if not any(len(out.shape) > 1 for out in op.outputs):
            return False
        if op.op_type != "const":
            selectable.append(_described(op))
        return op.name not in options.float32_ops and op.op_type not in options.float32_ops

    return ct.transform.FP16ComputePrecision(op_selector=becomes_float16)


def _described(op: Any) -> dict[str, Any]:
    """Name and type of an op of coremltools, the ops that it reads, and how many values its constants have."""
    read = [value for bound in op.inputs.values() for value in (bound if isinstance(bound, tuple | list) else [bound])]
    constants = [value.val for value in read if value.val is not None]
    makers = [value.op.name for value in read if value.val is None and value.op is not None]
    # what became float16 before is read through a cast back to float32 at this point of the conversion
    after = [name.removesuffix("_to_fp32").removesuffix("_cast_fp16") for name in makers]
    return {
        "name": op.name,
        "type": op.op_type,
        "after": after,
        "values": sum(getattr(v, "size", 1) for v in constants),
    }


def _trace(source: Any, recipe: Recipe, options: Options) -> Any:
    import torch

    from layerdiff.convert import wrappers

    module = getattr(source, options.component)
    make = getattr(wrappers, recipe.wrapper)
    wrapper = make(source, recipe.cuts) if recipe.cuts else make(source, debug=options.debug)
    examples = _examples(source, recipe, fixed=options.fixed)
    with torch.no_grad(), wrappers.export_state(module, **recipe.attributes):
        wrapper.training = False
        return torch.jit.trace(wrapper, examples, strict=False, check_trace=False)


def _examples(source: Any, recipe: Recipe, *, fixed: bool) -> tuple[torch.Tensor, ...]:
    """What the module is traced with: noise, and lengths that fit it."""
    import torch

    sizes, generator = _sizes(source, recipe), torch.Generator().manual_seed(_TRACE_SEED)

    def size(dim: recipes.Dim) -> int:
        if isinstance(dim, Range):
            return 1 if fixed else dim.example
        return sizes[dim] if isinstance(dim, str) else dim

    def example(port: Port) -> torch.Tensor:
        shape = [size(dim) for dim in port.shape]
        if port.dtype == "int32":
            return torch.full(shape, size(port.example), dtype=torch.int32)
        return torch.randn(shape, generator=generator)

    return tuple(example(port) for port in recipe.inputs)


def _sizes(source: Any, recipe: Recipe) -> dict[str, int]:
    """The sizes that the recipe names, read from the modules."""
    named = {dim for port in recipe.inputs for dim in port.shape if isinstance(dim, str)}
    return {name: recipes.SIZES[name](source) for name in sorted(named)}


def _dim(dim: recipes.Dim, *, fixed: bool) -> Any:
    import coremltools as ct

    if not isinstance(dim, Range):
        return dim
    return 1 if fixed else ct.RangeDim(lower_bound=dim.lower, upper_bound=dim.upper, default=dim.example)


def _tensor_type(port: Port, *, sizes: Mapping[str, int], dims: Mapping[recipes.Dim, Any]) -> Any:
    import coremltools as ct

    shape = tuple(sizes[dim] if isinstance(dim, str) else dims[dim] for dim in port.shape)
    return ct.TensorType(name=port.name, shape=shape, dtype=_dtype(port.dtype))


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name).type


def _save(model: Any, path: Path) -> None:
    try:
        model.save(str(path))
    except OSError as error:
        raise OutputError(
            f"'{path.name}' cannot be written: {error.strerror or error}.",
            where=str(path.parent),
            action=f"free some space, or set {store.CACHE_VARIABLE} to a folder that can be written",
        ) from error


# ------------------------------------------------------------------ the border


@contextmanager
def _explained(options: Options) -> Iterator[None]:
    """Nothing that the converters print reaches the user, and what they raise becomes one message."""
    with quiet.third_party() as noise:
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # coremltools and torch raise every kind of exception on an unsupported graph
            said = "\n".join(
                line for line in (noise.last_lines(QUOTED_LINES), f"{type(error).__name__}: {error}") if line
            )
            raise ConversionError(
                f"coremltools could not convert the component '{options.component}'.",
                where=f"recipe '{options.recipe}', {options.precision}",
                detail=said,
                action="check that the model is of a kind that layerdiff knows; --debug shows all that was printed",
            ) from error


@contextmanager
def _progress(progress: Progress | None, title: str) -> Iterator[None]:
    if progress is None:
        yield
        return
    with progress.task(title, total=None):
        yield
