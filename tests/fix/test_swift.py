"""The constant in an app's source: exactly the literals that name the model, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdiff.errors import ConfigError, OutputError
from layerdiff.fix.swift import renamed

SOURCE = """\
import CoreML

public enum ModelNames {
    // the joint of v3, see "RNNTJoint notes"
    public static let joint = "RNNTJoint"
    public static let jointFile = "RNNTJoint.mlmodelc"
    public static let jointPackage = "models/RNNTJoint.mlpackage"
    public static let jointDecision = "RNNTJointDecision"
    public static let greeting = "say \\"RNNTJoint\\""
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "AsrModels.swift"
    path.write_text(SOURCE)
    return path


def test_only_literals_that_are_the_name_change(file: Path) -> None:
    change = renamed(file, old="RNNTJoint", new="RNNTJoint_fixed")
    assert file.read_text() == SOURCE
    changed = [line[1:].strip() for line in change.diff if line.startswith("+ ")]
    assert changed == [
        'public static let joint = "RNNTJoint_fixed"',
        'public static let jointFile = "RNNTJoint_fixed.mlmodelc"',
        'public static let jointPackage = "models/RNNTJoint_fixed.mlpackage"',
    ]
    change.write()
    assert file.read_text() == change.after
    assert 'say \\"RNNTJoint\\"' in change.after
    assert '"RNNTJointDecision"' in change.after
    assert 'see "RNNTJoint notes"' in change.after


def test_line_ends_and_mode_are_kept(file: Path) -> None:
    file.write_bytes(SOURCE.replace("\n", "\r\n").encode())
    file.chmod(0o640)
    renamed(file, old="RNNTJoint", new="New").write()
    assert file.read_bytes().count(b"\r\n") == SOURCE.count("\n")
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_file_that_does_not_name_it_is_refused_with_what_it_names(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not name the model 'Joint'") as refusal:
        renamed(file, old="Joint", new="New")
    assert "RNNTJointDecision" in str(refusal.value)


def test_a_file_that_was_edited_meanwhile_is_not_overwritten(file: Path) -> None:
    change = renamed(file, old="RNNTJoint", new="New")
    file.write_text(SOURCE + "// more\n")
    with pytest.raises(OutputError, match="has changed"):
        change.write()
    assert file.read_text().endswith("// more\n")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_what_can_not_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.swift"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="can't be read"):
        renamed(path, old="a", new="b")
