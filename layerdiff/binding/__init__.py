"""coremltools' `predict` on any operating system: this package stands where coremltools has its binding to Core ML.

    import layerdiff

    layerdiff.enable_predict()
    coremltools.convert(...).predict(...)

`places` says which names of coremltools are replaced and puts them back, `proxy` holds what stands in their place,
`compiled` stands for what Core ML compiles, `script` runs somebody's unmodified script with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdiff.binding.places import enable_predict

__all__ = ["enable_predict"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from layerdiff.binding import places

    return getattr(places, name)
