"""The names of coremltools that are replaced: all of them, only while it is wanted, and nothing else."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import layerdiff
from layerdiff.binding import enable_predict, places

ROOT = Path(__file__).resolve().parents[2]


def state_of_coremltools() -> dict[tuple[str, str], Any]:
    """Every name that is replaced, with what it holds."""
    held = {(module.__name__, name): vars(module)[name] for module, name in places._copies()}
    held["sys.modules", places.BINDING] = sys.modules.get(places.BINDING)
    held["coremltools", "libcoremlpython"] = vars(sys.modules["coremltools"]).get("libcoremlpython")
    return held


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def sources() -> dict[Path, str]:
    """coremltools' modules that are not tests."""
    spec = importlib.util.find_spec("coremltools")
    assert spec is not None
    folder = Path(str(spec.origin)).parent
    paths = [p for p in folder.rglob("*.py") if not re.search(r"tests?/|test_|testing", str(p.relative_to(folder)))]
    return {path.relative_to(folder): path.read_text(encoding="utf-8") for path in paths}


class TestTable:
    def test_every_class_of_the_binding_that_coremltools_imports_is_offered(self) -> None:
        imported = {name for text in sources().values() for name in re.findall(r"libcoremlpython import (\w+)", text)}
        assert imported == set(places.CLASSES)

    def test_the_operating_system_is_asked_for_in_no_other_way(self) -> None:
        asking = {str(path) for path, text in sources().items() if re.search(r"sys\.platform|mac_ver\(", text)}
        assert asking == {"_deps/__init__.py", "models/utils.py"}

    def test_the_version_of_macos_takes_every_deployment_target(self, ct: Any) -> None:
        from coremltools.converters.mil.testing_utils import IOS_TO_MINIMUM_MACOS_VERSION

        from layerdiff.binding.proxy import NEWEST_SPECIFICATION

        assert max(IOS_TO_MINIMUM_MACOS_VERSION.values()) <= places.MACOS_VERSION[0]
        assert max(ct._OPSET) == NEWEST_SPECIFICATION


class TestEnabling:
    def test_coremltools_is_told_that_it_can_predict(self, ct: Any) -> None:
        from coremltools.models import model, utils

        assert utils._macos_version() == ()
        with enable_predict():
            assert utils._is_macos()
            assert model._macos_version() == places.MACOS_VERSION
            assert model._MLModelProxy.__module__ == "layerdiff.binding.proxy"
            assert ct._deps._IS_MACOS is True

    def test_every_name_is_put_back(self, ct: Any) -> None:
        before = state_of_coremltools()
        assert len(before) > 15
        with enable_predict():
            during = state_of_coremltools()
            changed = {key for key in before if during[key] is not before[key]}
            assert changed == set(before)
        assert state_of_coremltools() == before

    def test_every_name_is_put_back_after_an_exception(self, ct: Any) -> None:
        before = state_of_coremltools()
        with pytest.raises(KeyError, match="mine"), enable_predict():
            raise KeyError("mine")
        assert state_of_coremltools() == before

    def test_nested_blocks_end_with_the_outermost(self, ct: Any) -> None:
        from coremltools.models import utils

        before = state_of_coremltools()
        with enable_predict():
            with enable_predict():
                assert utils._is_macos()
            assert utils._is_macos()
        assert state_of_coremltools() == before

    def test_blocks_may_end_in_any_order(self, ct: Any) -> None:
        before = state_of_coremltools()
        first, second = enable_predict(), enable_predict()
        first.__exit__(None, None, None)
        first.__exit__(None, None, None)  # a second end of the same block counts for nothing
        from coremltools.models import utils

        assert utils._is_macos()
        second.__exit__(None, None, None)
        assert state_of_coremltools() == before

    def test_a_plain_call_within_a_block_outlasts_it(self, ct: Any) -> None:
        from coremltools.models import utils

        before = state_of_coremltools()
        with enable_predict():
            permanent = enable_predict()
        assert utils._is_macos()
        permanent.__exit__(None, None, None)
        assert state_of_coremltools() == before

    def test_a_block_can_be_entered_again(self, ct: Any) -> None:
        from coremltools.models import utils

        block = enable_predict()
        with block:
            pass
        assert not utils._is_macos()
        with block:
            assert utils._is_macos()
        assert not utils._is_macos()

    def test_nothing_happens_on_macos(self, ct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        before = state_of_coremltools()
        monkeypatch.setattr(sys, "platform", "darwin")
        with enable_predict():
            assert state_of_coremltools() == before

    def test_on_macos_it_can_be_forced(self, ct: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from coremltools.models import model

        before = state_of_coremltools()
        monkeypatch.setattr(sys, "platform", "darwin")
        with enable_predict(force=True):
            assert model._MLModelProxy.__module__ == "layerdiff.binding.proxy"
        assert state_of_coremltools() == before

    def test_what_was_there_before_is_put_back_even_if_it_is_a_binding(
        self, ct: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from coremltools.models import model

        native = type("Native", (), {})
        monkeypatch.setattr(model, "_MLModelProxy", native)
        with enable_predict():
            assert model._MLModelProxy is not native
        assert model._MLModelProxy is native

    def test_it_is_a_name_of_the_package(self) -> None:
        assert layerdiff.enable_predict is enable_predict


class TestBeforeCoremltoolsIsImported:
    def test_nothing_is_imported_by_enabling(self) -> None:
        heavy = ("coremltools", "torch", "numpy")
        done = run_python(
            f"import layerdiff, sys; layerdiff.enable_predict(); print(sorted(set(sys.modules) & set({heavy})))"
        )
        assert done.stdout.strip() == "[]", done.stderr

    def test_it_is_enabled_once_imported_and_put_back_afterwards(self) -> None:
        done = run_python(
            "import importlib, sys, layerdiff\n"
            "with layerdiff.enable_predict():\n"
            "    import coremltools as ct\n"
            "    from coremltools.models import model, utils\n"
            "    from coremltools.models.ml_program.experimental import compute_plan_utils as later\n"
            "    print(utils._is_macos(), model._is_macos(), model._MLModelProxy is not None, later._IS_MACOS)\n"
            "    print(type(ct.__spec__.loader).__name__, type(ct.__loader__).__name__)\n"
            "print(utils._is_macos(), model._is_macos(), model._MLModelProxy, later._IS_MACOS)\n"
            "binding = 'coremltools.libcoremlpython'\n"
            "print(later._MLComputePlanProxy, hasattr(ct, 'libcoremlpython'), binding in sys.modules)\n"
            "print(sum(type(f).__module__.startswith('layerdiff') for f in sys.meta_path))\n"
        )
        assert done.stdout.splitlines() == [
            "True True True True",
            "SourceFileLoader SourceFileLoader",
            "False False None False",
            "None False False",
            "0",
        ], done.stderr
        assert "Failed to load" not in done.stderr
