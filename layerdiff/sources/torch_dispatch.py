"""How torch dispatches while a capture is active, and how it would without one.

A dispatch mode runs with most dispatch keys switched off. Two things must not notice: the ops of the model, some of
which choose their kernel by what they find (matmul folds its first factor only if the second, a transposed weight,
still says that it wants a gradient, and then rounds differently), and the sink, which may run a model of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import enable_reentrant_dispatch


def as_called() -> Any:
    """`with as_called(): …` inside of a mode runs a composite op as it runs without the mode.

    Only composite ops: others come to the mode when torch is done with the keys in question.
    """
    with enable_reentrant_dispatch():  # as it was when the op was called, autocast included
        excluded = torch._C._dispatch_tls_local_exclude_set()
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


class Outside:
    """`with outside: …` in the midst of a model's run runs as if it stood where the `Outside` was made; not nested."""

    def __init__(self) -> None:
        self._inference, self._gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        included = torch._C._dispatch_tls_local_include_set()  # as far as no mode is active
        keys = torch._C.DispatchKey
        self._included = included.remove(keys.Python).remove(keys.PythonTLSSnapshot)
        self._excluded = torch._C._dispatch_tls_local_exclude_set()
        self._modes: list[Any] = []
        self._guards: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        # none is active inside of an op, the capture's own inside of a hook, and the model may have brought others
        self._modes = [torch._C._pop_torch_dispatch_stack(None) for _ in range(torch._C._len_torch_dispatch_stack())]
        inference = torch._C._InferenceMode(self._inference)
        inference.__enter__()
        torch._C._set_grad_enabled(self._gradients)  # the guard before it restores it
        keys = torch._C._ForceDispatchKeyGuard(self._included, self._excluded)
        keys.__enter__()
        self._guards = keys, inference

    def __exit__(self, *raised: Any) -> None:
        for guard in self._guards:
            guard.__exit__(*raised)
        self._guards = ()
        for mode in reversed(self._modes):
            torch._C._push_on_torch_dispatch_stack(mode)
        self._modes = []
