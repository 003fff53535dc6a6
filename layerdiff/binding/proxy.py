"""What stands in the place of coremltools' binding to Core ML: one loaded model, with the methods coremltools calls.

A proxy takes what `MLModel.predict` hands on and returns what Core ML returns: every input is brought to the dtype
that the program declares, float16 outputs come back as float32, outputs of rank 0 as shape (1,), images as PIL
images. A model is loaded once, when its proxy is made: what happens to its files afterwards does not matter.
"""

from __future__ import annotations

import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from layerdiff import mil
from layerdiff.binding import compiled
from layerdiff.errors import EngineError, FeedError, LayerdiffError, known_names

Array = NDArray[Any]

NEWEST_SPECIFICATION = 10
"""Specification version of iOS 26, the newest that coremltools 9.0 writes."""

UNABLE = "Unable to compute the prediction using ML Program"
"""How Core ML begins when a prediction fails; scripts look for it."""


class CoreMLError(EngineError, RuntimeError):
    """What Core ML refuses; coremltools and its users catch RuntimeError."""


class UnavailableError(EngineError, RuntimeError):
    """Something that only Apple's Core ML can answer."""


def _refusal(what: str) -> Callable[..., NoReturn]:
    """A function that refuses what only Apple's Core ML can answer."""

    def refuse(*_arguments: Any, **_keywords: Any) -> NoReturn:
        raise UnavailableError(
            f"{what} is known to Apple's Core ML only; layerdiff's portable engine predicts, but has none.",
            action="run this part on a Mac",
        )

    return refuse


class Unavailable:
    """Stands for classes of the binding that only Apple's Core ML can fill: compute plans and compute devices."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        _refusal("A compute plan or device")()


class AssetProxy:
    """A model on disk or in memory that is loaded later.

    Args:
        path: the folder of a compiled model.
    """

    def __init__(self, path: str) -> None:
        self.path = path


class StateProxy:
    """The states of one model, which its predictions update."""

    def __init__(self, arrays: dict[str, Array], *, package: str) -> None:
        self.arrays, self.package = arrays, package

    def read_state(self, name: str) -> Array:
        """A copy of a state; float16 ones as float32, like outputs.

        Raises:
            CoreMLError: there is no state of that name.
        """
        array = self._array(name)
        return array.astype(np.float32) if array.dtype == np.float16 else array.copy()

    def write_state(self, name: str, value: Any) -> None:
        """Sets a state.

        Raises:
            CoreMLError: there is no state of that name, or the value has another shape.
        """
        array, given = self._array(name), np.asarray(value)
        if given.shape != array.shape:
            raise CoreMLError(
                f"the value given for the state '{name}' has another shape.",
                where=self.package,
                detail=f"expected {array.dtype}{list(array.shape)}, got {given.dtype}{list(given.shape)}",
            )
        with np.errstate(over="ignore", invalid="ignore"):
            array[...] = given

    def _array(self, name: str) -> Array:
        if name not in self.arrays:
            raise CoreMLError(
                f"the model has no state '{name}'.",
                where=self.package,
                detail=known_names("its states", name, self.arrays),
            )
        return self.arrays[name]


class ModelProxy:
    """A loaded model; takes the arguments that coremltools gives to its binding.

    Args:
        path: an `.mlpackage` folder, an `.mlmodel` file, or a folder made by `compileModel`.
        compute_units: without effect, there is one engine.
        function_name: which function; empty for the default one.
        optimization_hints: without effect.
        asset: takes the place of `path`.

    Raises:
        CoreMLError: the model cannot be loaded; coremltools makes a warning of it, and of `predict` an error.
    """

    def __init__(
        self,
        path: str,
        compute_units: str = "ALL",
        function_name: str = "",
        optimization_hints: Mapping[str, str] | None = None,
        asset: AssetProxy | None = None,
    ) -> None:
        self._source = Path(path if asset is None else asset.path).expanduser().absolute()
        started = time.perf_counter_ns()
        with _as_core_ml("The model cannot be loaded"):
            self._mark = compiled.fingerprint(self._source)
            self._model = mil.load(compiled.specification(self._source), function=function_name or None)
        self._load_ns = time.perf_counter_ns() - started
        self._predict_ns: int | None = None
        self._compiled: str | None = None

    # -------------------------------------------------------------- predictions

    def predict(self, data: Mapping[str, Any], state: StateProxy | None = None) -> dict[str, Any]:
        """Every output, from every input.

        Args:
            data: input name → array, number, list or PIL image.
            state: what `newState` gave; it is updated.

        Returns:
            Output name → array, PIL image, or what a classifier says.

        Raises:
            CoreMLError: the inputs do not fit, or an op failed.
        """
        started = time.perf_counter_ns()
        outputs = self._predict(data, state)
        self._predict_ns = time.perf_counter_ns() - started
        return outputs

    def batchPredict(self, data: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802
        """`predict` of each; Core ML's batches are of requests too, not of tensors."""
        started = time.perf_counter_ns()
        outputs = [self._predict(feed, None) for feed in data]
        self._predict_ns = time.perf_counter_ns() - started
        return outputs

    def newState(self) -> StateProxy:  # noqa: N802
        """Fresh states, all zero."""
        with _as_core_ml("The states cannot be made"):
            return StateProxy(self._model.make_state(), package=self._model.package.name)

    def _predict(self, data: Mapping[str, Any], state: StateProxy | None) -> dict[str, Any]:
        with _as_core_ml(UNABLE):
            feed = {name: self._given(name, value) for name, value in data.items()}
            outputs = self._model.predict(feed, state=None if state is None else state.arrays)
            return {name: _returned(value) for name, value in outputs.items()}

    def _given(self, name: str, value: Any) -> Any:
        """An input as the program declares it; what does not fit is left to the model to refuse."""
        spec = self._model.inputs.get(name)
        if spec is None or spec.kind != "tensor":
            return value
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError):
            return value
        if array.dtype.kind not in "fiub":
            return value
        if array.ndim == 0 and spec.accepts((1,)):
            array = array.reshape(1)
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(spec.dtype)

    # -------------------------------------------------------------- files and times

    def compiled_model_path(self) -> str:
        """A folder that `CompiledMLModel` takes; it is removed together with this proxy.

        Raises:
            CoreMLError: the package has gone or was changed since it was loaded.
        """
        if self._compiled is None:
            with _as_core_ml("The model cannot be compiled"):
                if compiled.fingerprint(self._source) != self._mark:
                    raise FeedError(
                        f"'{self._source.name}' was changed since it was loaded.",
                        where=str(self._source),
                        action="load it again",
                    )
                self._compiled = compiled.compile_package(self._source)
            weakref.finalize(self, shutil.rmtree, self._compiled, ignore_errors=True)
        return self._compiled

    def load_duration_ns(self) -> int:
        return self._load_ns

    def last_predict_duration_ns(self) -> int | None:
        return self._predict_ns

    # -------------------------------------------------------------- what needs no model

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return NEWEST_SPECIFICATION

    @staticmethod
    def compileModel(path: str) -> str:  # noqa: N802
        """A new folder that `CompiledMLModel` takes; the caller removes it.

        Raises:
            CoreMLError: `path` is no model.
        """
        with _as_core_ml("The model cannot be compiled"):
            return compiled.compile_package(Path(path).expanduser())

    @staticmethod
    def create_model_asset_from_path(path: str) -> Any:
        """coremltools' `MLModelAsset` of a compiled model."""
        return _asset(path)

    @staticmethod
    def create_model_asset_from_memory(spec_data: bytes, blob_mapping: Mapping[str, bytes]) -> Any:
        """coremltools' `MLModelAsset` of a specification and its weight files; they are written to a new folder."""
        with _as_core_ml("The model cannot be written"):
            path = compiled.write_model(spec_data, blob_mapping)
        asset = _asset(path)
        weakref.finalize(asset, shutil.rmtree, path, ignore_errors=True)
        return asset

    # the names by which coremltools calls

    get_compiled_model_path = compiled_model_path
    get_load_duration_in_nano_seconds = load_duration_ns
    get_last_predict_duration_in_nano_seconds = last_predict_duration_ns
    auto_set_specification_version = staticmethod(_refusal("The lowest specification version of a model"))
    get_compute_plan = staticmethod(_refusal("A compute plan"))
    get_model_structure = staticmethod(_refusal("The structure of a compiled model"))
    get_all_compute_devices = staticmethod(_refusal("The list of compute devices"))
    get_available_compute_devices = staticmethod(_refusal("The list of compute devices"))


OFFERED: dict[str, type] = {
    "_MLModelProxy": ModelProxy,
    "_MLModelAssetProxy": AssetProxy,
    "_MLComputePlanProxy": Unavailable,
    "_MLCPUComputeDeviceProxy": Unavailable,
    "_MLGPUComputeDeviceProxy": Unavailable,
    "_MLNeuralEngineComputeDeviceProxy": Unavailable,
}
"""The classes by the names that coremltools' binding has for them."""


@contextmanager
def _as_core_ml(prefix: str) -> Iterator[None]:
    """Turns what the engine refuses into what Core ML's binding raises; the engine's own error is its cause."""
    try:
        yield
    except LayerdiffError as error:
        raise CoreMLError(
            f"{prefix}: {error.what}", where=error.where, detail=error.detail, action=error.action
        ) from error


def _returned(value: Any) -> Any:
    """An output as Core ML's binding returns it; images, labels and dictionaries are that already."""
    if not isinstance(value, np.ndarray):
        return value
    array = value.astype(np.float32) if value.dtype == np.float16 else value
    return array.reshape(1) if array.ndim == 0 else array


def _asset(path: str) -> Any:
    from coremltools.models.model import MLModelAsset

    return MLModelAsset(AssetProxy(path))
