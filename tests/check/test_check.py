from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerdiff import check, config
from layerdiff.config import Config
from layerdiff.progress import SILENT
from layerdiff.regressions import compared
from layerdiff.report.regressions import counts, junit, sentence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Packages are converted for these tests, not found in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The joint's configuration, on two clips."""
    values = config.load(ROOT / "configs" / "joint.yaml").model_dump(exclude_none=True)
    clips = [str(ROOT / "audio" / name) for name in ("nine_seven_three.wav", "eight_one_seven.wav")]
    folder = tmp_path_factory.mktemp("check")
    return config.from_mapping(values | {"inputs": {"audio": clips}, "outputs": {"dir": str(folder)}})


@pytest.fixture(scope="module")
def now(shipped: Config) -> Any:
    return check.results(shipped, with_decoding=True, progress=SILENT)


def test_a_result_holds_stages_and_decoding(now: Any) -> None:
    assert list(now) == ["cpu_traced", "raw_logits"]
    assert now["raw_logits"]["logits"]["status"] == "pass"
    assert now["cpu_traced"]["logits"]["status"] == "fail"
    assert now["cpu_traced"]["logits"]["relative_l2_error"] > 0.1
    assert now["raw_logits"]["decode"] == {
        "status": "pass", "wer": 0.0, "wer_text": None, "flips": 0.0, "end_shift_ms": 0.0,
    }  # fmt: skip


def test_against_itself_nothing_changes_and_against_the_other_all_does(shipped: Config, now: Any) -> None:
    same = compared(now, now, shipped.check)
    assert same.exit_code == 0
    assert {found.verdict for found in same.comparisons} == {"same"}
    broken = {"raw_logits": now["cpu_traced"]}
    found = compared({"raw_logits": now["raw_logits"]}, broken, shipped.check)
    assert found.exit_code == 1
    assert {one.subject for one in found.of("regression")} == {"logits", "vocab_logits", "duration_logits"}
    repaired = compared(broken, {"raw_logits": now["raw_logits"]}, shipped.check)
    assert repaired.exit_code == 0
    assert len(repaired.of("improvement")) == len(found.of("regression"))


def test_junit_as_another_reader_sees_it(shipped: Config, now: Any, tmp_path: Path) -> None:
    from junitparser import JUnitXml

    worse = {"raw_logits": {**now["cpu_traced"]}, "cpu_traced": {**now["cpu_traced"]}}
    del worse["cpu_traced"]["decode"]
    found = compared(now, worse, shipped.check)
    file = tmp_path / "j.xml"
    file.write_text(junit(found))
    suites = JUnitXml.fromfile(str(file))
    assert suites.tests == len(found.comparisons)
    assert suites.failures == len(found.of("regression")) > 0
    assert suites.skipped == len(found.of("missing")) == 4
    assert {suite.name for suite in suites} == {"raw_logits", "cpu_traced"}
    assert f"{len(found.of('regression'))} regressions" in counts(found)
    assert "at most" in sentence(next(one for one in found.of("regression") if one.limit is not None))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"inputs": {"tensors": "x.safetensors"}}, False),
        ({"reference": {"nemo": "parakeet-tdt-mini", "component": "encoder.layers.0"}}, False),
        ({"candidates": {"a": {"torch": "m.pt2"}}, "stages": None}, False),
    ],
)
def test_what_can_be_decoded(shipped: Config, changes: dict[str, Any], expected: bool) -> None:
    values = {**shipped.model_dump(exclude_none=True), **changes}
    assert check.is_decodable(config.from_mapping({k: v for k, v in values.items() if v is not None})) == expected
