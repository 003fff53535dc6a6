"""How torch dispatches while a capture is active, and how it would without one.

A dispatch mode runs with most dispatch keys switched off. Two things must not notice: the ops of the model, some of
which choose their kernel by what they find (matmul folds its first factor only if the second, a transposed weight,
still says that it wants a gradient, and then rounds differently), and the sink, which may run a model of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes, _pop_mode_temporarily

_AUTOCAST = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}
"""Devices whose autocast a model may switch while it runs."""


class OpState:
    """`with state(): …` inside of a mode runs a composite op as it runs without the mode.

    Made where the mode is about to begin. Other ops come to the mode when torch is done with the keys in question.
    """

    def __init__(self) -> None:
        self._excluded = torch._C._dispatch_tls_local_exclude_set()
        self._masked: Any = None
        """The keys that only the mode has switched off."""

    def __call__(self) -> Any:
        excluded = torch._C._dispatch_tls_local_exclude_set()
        if self._masked is None:
            self._masked = excluded - self._excluded
            for key in _AUTOCAST.values():
                self._masked = self._masked.remove(key)
        excluded = excluded - self._masked
        for device, key in _AUTOCAST.items():
            if torch.is_autocast_enabled(device):
                excluded = excluded.remove(key)
        return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


class Outside:
    """`with outside(): …` in the midst of a model's run runs as if it stood where the `Outside` was made."""

    def __init__(self) -> None:
        self._inference, self._gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        self._included = torch._C._dispatch_tls_local_include_set()
        self._excluded = torch._C._dispatch_tls_local_exclude_set()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        modes = torch._C._len_torch_dispatch_stack()  # none inside of an op, the capture's own inside of a hook
        without: Any = (nullcontext, _pop_mode_temporarily)[modes] if modes < 2 else _disable_current_modes
        with without(), torch.inference_mode(self._inference):
            torch.set_grad_enabled(self._gradients)  # inference_mode restores it
            with torch._C._ForceDispatchKeyGuard(self._included, self._excluded):
                yield
