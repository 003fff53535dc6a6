"""Damaged models: whatever is wrong with one, it runs or a LayerdiffError says what; nothing else, and in time."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layerdiff.errors import LayerdiffError
from layerdiff.mil import schema
from tools.fuzz import mutations, seeds
from tools.fuzz.__main__ import Fuzzer, run

ROOT = Path(__file__).resolve().parents[2]
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    seeds.build(folder)
    return folder


def test_damaged_models_run_or_are_refused(models, tmp_path):
    """In a process of its own: its memory is limited, and a crash of it fails this test alone."""
    arguments = ["--seconds", "15", "--examples", "1500", "--models", str(models), "--work", str(tmp_path)]
    finished = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert " 0 findings" in finished.stdout


def test_every_seed_runs(models):
    for model in sorted(models.iterdir()):
        run(model)


@pytest.mark.parametrize(
    "mutation", [mutations.flip_bits, mutations.truncate, mutations.repeat_or_drop, mutations.change_fields]
)
def test_specifications_are_really_changed(models, tmp_path, mutation):
    original = (models / "dense.mlpackage" / SPECIFICATION).read_bytes()
    changed = set()
    for number in range(20):
        path = tmp_path / "model"
        path.write_bytes(original)
        mutation(random.Random(number), path)
        changed.add(path.read_bytes())
    assert len(changed - {original}) > 15


def test_what_is_no_layerdiff_error_is_a_finding(models, tmp_path, monkeypatch, capsys):
    def fail(path):
        raise ZeroDivisionError("as a defect would")

    monkeypatch.setattr("tools.fuzz.__main__.run", fail)
    fuzzer = Fuzzer(models, tmp_path)
    for number in range(3):
        fuzzer.one(random.Random(number))
    assert list(fuzzer.findings) == ["ZeroDivisionError at ?"]
    assert "FINDING: ZeroDivisionError" in capsys.readouterr().out


# ------------------------------------------------------------------ damage that fuzzing found, or might not


def changed(models, tmp_path, name, change):
    """A copy of a seed whose specification went through `change`."""
    package = shutil.copytree(models / f"{name}.mlpackage", tmp_path / "x.mlpackage")
    spec = schema.model_module().Model()
    spec.ParseFromString((package / SPECIFICATION).read_bytes())
    change(spec, *spec.mlProgram.functions["main"].block_specializations.values())
    (package / SPECIFICATION).write_bytes(spec.SerializeToString())
    return package


def operation(block, kind):
    return next(op for op in block.operations if op.type == kind)


def refusal(package) -> str:
    with pytest.raises(LayerdiffError) as raised:
        run(package)
    return str(raised.value)


def resize(operation, *lengths):
    dimensions = operation.outputs[0].type.tensorType.dimensions
    del dimensions[:]
    for length in lengths:
        dimensions.add().constant.size = length


def test_a_result_of_a_size_that_no_machine_has(models, tmp_path):
    package = changed(models, tmp_path, "dense", lambda spec, block: resize(operation(block, "linear"), 10**12))
    assert "does not fit into memory" in refusal(package)


def test_a_constant_of_a_size_that_its_file_has_not(models, tmp_path):
    def grow(spec, block):
        value = next(op for op in block.operations if op.attributes["val"].HasField("blobFileValue")).attributes["val"]
        value.type.tensorType.dimensions[0].constant.size = 10**12

    assert "does not hold what the program declares" in refusal(changed(models, tmp_path, "dense", grow))


@pytest.mark.parametrize("field", ["bytes", "floats"])
def test_an_empty_constant_with_absurd_lengths(models, tmp_path, field):
    def empty(spec, block):
        value = operation(block, "const").attributes["val"]
        value.Clear()
        value.type.tensorType.dataType = 11
        for size in (2**62, 2**62, 0):
            value.type.tensorType.dimensions.add().constant.size = size
        getattr(value.immediateValue.tensor, field).SetInParent()

    assert "does not hold what its type says" in refusal(changed(models, tmp_path, "dense", empty))


def test_a_branch_with_too_few_results(models, tmp_path):
    def drop(spec, block):
        branch = operation(operation(block, "while_loop").blocks[1], "cond").blocks[0]
        del branch.outputs[:]

    assert "op 'cond" in refusal(changed(models, tmp_path, "looping", drop))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_loop_with_another_number_of_blocks(models, tmp_path, count):
    def change(spec, block):
        loop = operation(block, "while_loop")
        blocks = [*loop.blocks, *loop.blocks][:count]
        copies = [schema.mil_module().Block.FromString(b.SerializeToString()) for b in blocks]
        del loop.blocks[:]
        loop.blocks.extend(copies)

    assert "while_loop" in refusal(changed(models, tmp_path, "looping", change))


def test_a_state_of_a_dtype_that_is_not_computed_with(models, tmp_path):
    def rename(spec, block):
        state = next(i for i in spec.mlProgram.functions["main"].inputs if i.type.HasField("stateType"))
        state.type.stateType.wrappedType.tensorType.dataType = 2

    assert "str" in refusal(changed(models, tmp_path, "stateful", rename))


def test_a_state_that_gets_a_value_of_another_shape(models, tmp_path):
    def reshape(spec, block):
        state = next(i for i in spec.mlProgram.functions["main"].inputs if i.type.HasField("stateType"))
        del state.type.stateType.wrappedType.tensorType.dimensions[0]

    assert "state" in refusal(changed(models, tmp_path, "stateful", reshape))


def nested(kind, levels):
    """A change that puts the loop of a program, or the branch in it, that many times into itself."""

    def nest(spec, block):
        loop = operation(block, "while_loop")
        host = loop.blocks[1] if kind == "while_loop" else operation(loop.blocks[1], "cond").blocks[0]
        outer = loop if kind == "while_loop" else operation(loop.blocks[1], "cond")
        pattern = type(outer).FromString(outer.SerializeToString())
        for level in range(levels):
            inner = host.operations.add()
            inner.CopyFrom(pattern)
            for index, output in enumerate(inner.outputs):
                output.name = f"inner_{level}_{index}"
            host = inner.blocks[1 if kind == "while_loop" else 0]

    return nest


@pytest.mark.parametrize("kind", ["cond", "while_loop"])
@pytest.mark.parametrize("levels", [25, 200])
def test_blocks_that_are_nested_without_end(models, tmp_path, kind, levels):
    message = refusal(changed(models, tmp_path, "looping", nested(kind, levels)))
    assert "nested" in message or "truncated or not a Core ML model" in message or "defined twice" in message


def test_a_state_of_a_size_that_no_machine_has(models, tmp_path):
    def grow(spec, block):
        state = next(i for i in spec.mlProgram.functions["main"].inputs if i.type.HasField("stateType"))
        state.type.stateType.wrappedType.tensorType.dimensions[0].constant.size = 10**12

    assert "would take 10000000000000 bytes" in refusal(changed(models, tmp_path, "stateful", grow))
