"""Packages for the tests of the engine, built by coremltools: from its program builder, and from torch."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerdiff import mil, quiet
from layerdiff.mil import schema

Build = Callable[..., Path]
Convert = Callable[..., Path]
SPECIFICATION = Path("Data/com.apple.CoreML/model.mlmodel")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`build(function, x=array, …)`: the package of a program written with coremltools' builder.

    The function gets one placeholder per array; `precision` and `opset` are keywords of it.
    """
    folder, serial = tmp_path_factory.mktemp("built"), itertools.count()

    def built(function: Any, *, precision: str = "float32", opset: str = "iOS17", **feed: Any) -> Path:
        with quiet.third_party():
            import coremltools as ct
            from coremltools.converters.mil import Builder as mb
            from coremltools.converters.mil.mil import types

            kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32, "bool": types.bool}
            specs = [mb.TensorSpec(shape=a.shape, dtype=kinds[str(a.dtype)]) for a in feed.values()]
            target = getattr(ct.target, opset)
            names = list(feed)
            scope: dict[str, Any] = {"function": function}
            exec(f"def program({', '.join(names)}): return function({', '.join(names)})", scope)
            program = mb.program(input_specs=specs, opset_version=target)(scope["program"])
            model = ct.convert(
                program,
                source="milinternal",
                convert_to="mlprogram",
                minimum_deployment_target=target,
                compute_precision=getattr(ct.precision, precision.upper()),
                skip_model_load=True,
            )
            path = folder / f"{next(serial)}.mlpackage"
            model.save(str(path))
        return path

    return built


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """`convert(module, example, …, inputs=lambda ct: […])`: the package of a torch module.

    `inputs` and the other functions of `ct` among the keywords are called with coremltools; the target is iOS17 unless
    one is named.
    """
    folder, serial = tmp_path_factory.mktemp("converted"), itertools.count()

    def converted(module: Any, *examples: Any, **keywords: Any) -> Path:
        with quiet.third_party():
            import coremltools as ct
            import torch

            options = {"minimum_deployment_target": "iOS17", "compute_precision": "FLOAT32"} | keywords
            options["minimum_deployment_target"] = getattr(ct.target, options["minimum_deployment_target"])
            options["compute_precision"] = getattr(ct.precision, options["compute_precision"])
            options = {name: value(ct) if callable(value) else value for name, value in options.items()}
            traced = torch.jit.trace(module.eval(), examples, check_trace=False)
            path = folder / f"{next(serial)}.mlpackage"
            ct.convert(traced, skip_model_load=True, **options).save(str(path))
        return path

    return converted


class Joint:
    """A joint network of Parakeet's shape, small, with the package and a feed."""

    def __init__(self, package: Path, module: Any, feed: dict[str, Any]) -> None:
        self.package, self.module, self.feed = package, module, feed

    def reference(self) -> Any:
        """The module's logits for the feed."""
        import torch

        with torch.no_grad():
            return self.module(*map(torch.from_numpy, self.feed.values())).numpy()


def _joint_module() -> Any:
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc, self.pred = torch.nn.Linear(24, 16), torch.nn.Linear(20, 16)
            self.out = torch.nn.Linear(16, 13)

        def forward(self, encoder: Any, decoder: Any) -> Any:
            f, g = self.enc(encoder.transpose(1, 2)), self.pred(decoder.transpose(1, 2))
            return torch.log_softmax(self.out(torch.relu(f.unsqueeze(2) + g.unsqueeze(1))), -1)

    torch.manual_seed(0)
    return Module().eval()


@pytest.fixture(scope="session")
def joints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Joint]:
    """`float32` and `float16`: a small joint with log-softmax, 1 to 9 frames and 1 to 5 steps."""
    folder = tmp_path_factory.mktemp("joints")
    module, rng = _joint_module(), np.random.default_rng(0)
    feed = {
        "encoder": rng.standard_normal((1, 24, 7)).astype(np.float32),
        "decoder": rng.standard_normal((1, 20, 3)).astype(np.float32),
    }
    with quiet.third_party():
        import coremltools as ct
        import torch

        traced = torch.jit.trace(module, tuple(map(torch.from_numpy, feed.values())), check_trace=False)
        inputs = [
            ct.TensorType(name="encoder", shape=(1, 24, ct.RangeDim(1, 9, 7)), dtype=np.float32),
            ct.TensorType(name="decoder", shape=(1, 20, ct.RangeDim(1, 5, 3)), dtype=np.float32),
        ]
        for precision in ("float32", "float16"):
            model = ct.convert(
                traced,
                inputs=inputs,
                outputs=[ct.TensorType(name="logits")],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=getattr(ct.precision, precision.upper()),
                skip_model_load=True,
            )
            model.save(str(folder / f"{precision}.mlpackage"))
    return {p: Joint(folder / f"{p}.mlpackage", module, feed) for p in ("float32", "float16")}


@pytest.fixture(scope="session")
def joint(joints: dict[str, Joint]) -> Joint:
    """The float32 joint."""
    return joints["float32"]


@pytest.fixture
def edited(joint: Joint, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """`edited(change)`: a copy of the float32 joint whose specification went through `change`."""

    def edit(change: Callable[[Any], None]) -> Path:
        package = tmp_path / "edited.mlpackage"
        shutil.copytree(joint.package, package)
        spec = schema.model_module().Model()
        spec.ParseFromString((package / SPECIFICATION).read_bytes())
        change(spec)
        (package / SPECIFICATION).write_bytes(spec.SerializeToString())
        return package

    return edit


@pytest.fixture(scope="session")
def model(joint: Joint) -> mil.Model:
    """The float32 joint, loaded."""
    return mil.load(joint.package)
