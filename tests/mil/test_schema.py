"""The protobuf classes come without coremltools, and do not get in its way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from layerdiff.errors import EngineError
from layerdiff.mil import schema

CHILD = """
import sys
from layerdiff import mil
assert not {"torch", "coremltools", "numpy"} & set(sys.modules), "importing layerdiff.mil is not lazy"
package = mil.open_package(sys.argv[1])
model = mil.load(sys.argv[1])
assert "coremltools" not in sys.modules
if sys.argv[2] == "then coremltools":
    from layerdiff import quiet
    with quiet.third_party():
        import coremltools
    spec = coremltools.models.MLModel(sys.argv[1], skip_model_load=True).get_spec()
    assert spec.mlProgram.functions["main"].opset == model.opset
print(list(package.program.functions))
"""


@pytest.mark.parametrize("after", ["nothing else", "then coremltools"])
def test_a_package_opens_without_coremltools_and_coremltools_still_imports_later(joint, after):
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:google", "-c", CHILD, str(joint.package), after],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["['main']"]
    if after == "nothing else":
        assert result.stderr == ""


def test_a_missing_coremltools_is_said_in_one_message(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="'coremltools' is not installed") as raised:
        schema.proto_folder()
    assert raised.value.action == "pip install coremltools"


def test_the_classes_are_those_of_a_model():
    spec = schema.model_module().Model(specificationVersion=8)
    assert type(spec).FromString(spec.SerializeToString()).specificationVersion == 8
    assert "Program" in dir(schema.mil_module())
