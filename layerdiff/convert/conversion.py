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

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import quiet, store
from layerdiff.convert import recipes
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

_TRACE_SEED = 0


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
    title = f"{component} ({name}, {config.precision})" if name != "plain" else f"{component} ({config.precision})"
    options = {"component": component, "recipe": name, "precision": config.precision, "debug": config.debug}
    key = {**options, "fixed": fixed, "module": identity(getattr(source, component)), "tools": tools()}

    def convert(path: Path) -> None:
        with _progress(progress, f"converting {title}"), _explained(component, name, config.precision):
            _convert(source, component, recipe, options={**options, "fixed": fixed}, path=path)

    return (cache or store.Cache.default()).entry(key, _file_name(options, fixed=fixed), convert)


def _file_name(options: Mapping[str, Any], *, fixed: bool) -> str:
    words = [options["component"], options["recipe"], options["precision"]]
    words += ["debug"] * bool(options["debug"]) + ["fixed"] * fixed
    return "_".join(word for word in words if word != "plain") + ".mlpackage"


# ------------------------------------------------------------------ the conversion


def _convert(source: Any, component: str, recipe: Recipe, *, options: Mapping[str, Any], path: Path) -> None:
    import coremltools as ct

    traced = _trace(source, component, recipe, options=options)
    pipeline = ct.PassPipeline()
    pipeline.remove_passes(LEFT_OUT_PASSES)
    dims = {dim: _dim(dim, fixed=options["fixed"]) for port in recipe.inputs for dim in port.shape}
    sizes = _sizes(source, recipe)
    outputs = recipes.outputs(recipe, source, debug=options["debug"])
    model = ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[_tensor_type(port, sizes=sizes, dims=dims) for port in recipe.inputs],
        outputs=[ct.TensorType(name=name, dtype=_dtype(dtype)) for name, dtype in outputs.items()],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=_compute_precision(options["precision"]),
        pass_pipeline=pipeline,
        skip_model_load=True,
    )
    for key, value in {**options, **tools()}.items():
        model.user_defined_metadata[f"layerdiff.{key}"] = str(value)
    _save(model, path)


def _compute_precision(name: str) -> Any:
    """float16 for every op with a tensor of rank 2 or more; what is below is a length or a position."""
    import coremltools as ct

    if name == "float32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda op: any(len(out.shape) > 1 for out in op.outputs))


def _trace(source: Any, component: str, recipe: Recipe, *, options: Mapping[str, Any]) -> Any:
    import torch

    from layerdiff.convert import wrappers

    module = getattr(source, component)
    wrapper = getattr(wrappers, recipe.wrapper)(source, debug=options["debug"])
    examples = _examples(source, recipe, fixed=options["fixed"])
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
def _explained(component: str, recipe: str, precision: str) -> Iterator[None]:
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
                f"coremltools could not convert the component '{component}'.",
                where=f"recipe '{recipe}', {precision}",
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
