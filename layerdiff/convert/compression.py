"""Makes the weights of a finished package smaller: linear quantisation, palettes, pruning, by coremltools.

A registry: name → the optimiser, its configuration, and the oldest system that can run the result. Weights of fewer
than 2048 values stay as they are, which is coremltools' own default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerdiff.errors import ConversionError

BLOCK = 32
"""Values of a block that share a scale."""

SYSTEMS = ("iOS15", "iOS16", "iOS17", "iOS18")


@dataclass(frozen=True)
class Compression:
    """One way of storing weights."""

    optimiser: str
    """Name of the function of `coremltools.optimize.coreml`."""
    config: str
    """Name of the class of its configuration."""
    options: Mapping[str, Any]
    needs: str = "iOS16"
    """The oldest system that runs the result."""


def _linear(dtype: str, granularity: str, needs: str) -> Compression:
    options = {"mode": "linear_symmetric", "dtype": dtype, "granularity": granularity}
    block = {"block_size": BLOCK} if granularity == "per_block" else {}
    return Compression("linear_quantize_weights", "OpLinearQuantizerConfig", {**options, **block}, needs)


def _palette(bits: int) -> Compression:
    return Compression("palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", "nbits": bits})


def _pruned(percent: int) -> Compression:
    return Compression("prune_weights", "OpMagnitudePrunerConfig", {"target_sparsity": percent / 100})


COMPRESSIONS: Mapping[str, Compression] = {
    "int8": _linear("int8", "per_channel", "iOS16"),
    "int4": _linear("int4", "per_channel", "iOS18"),
    "int8_block": _linear("int8", "per_block", "iOS18"),
    "int4_block": _linear("int4", "per_block", "iOS18"),
    "palette_8": _palette(8),
    "palette_6": _palette(6),
    "palette_4": _palette(4),
    "palette_2": _palette(2),
    "pruned_50": _pruned(50),
    "pruned_75": _pruned(75),
}
"""Name of `convert.weights` → how it is done."""


def require_target(weights: str, target: str) -> None:
    """Refuses weights that the oldest system of a package can't read.

    Raises:
        ConversionError: they need a later one.
    """
    needs = COMPRESSIONS[weights].needs
    if SYSTEMS.index(target) < SYSTEMS.index(needs):
        raise ConversionError(
            f"weights '{weights}' need {needs}, and the package is to run on {target}.",
            where="convert.weights",
            action=f"Set 'target: {needs}', or choose other weights.",
        )


def compress(package: Path, weights: str, *, path: Path) -> None:
    """A package with its weights compressed, saved at `path`.

    Args:
        package: as it was converted; it is read only.
        weights: a name of `COMPRESSIONS`.
        path: of the new package.
    """
    import coremltools as ct
    import coremltools.optimize.coreml as optimisers

    chosen = COMPRESSIONS[weights]
    config = getattr(optimisers, chosen.config)(**chosen.options)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    metadata = dict(model.user_defined_metadata)
    smaller = getattr(optimisers, chosen.optimiser)(model, optimisers.OptimizationConfig(global_config=config))
    smaller.user_defined_metadata.update({**metadata, "layerdiff.weights": weights})
    smaller.save(str(path))
