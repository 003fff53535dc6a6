"""Every fault of a configuration is one message that names the key, its line, and the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerdiff import config
from layerdiff.errors import ConfigError

GOOD = """\
reference:
  nemo: parakeet-tdt-mini
  component: joint
candidates:
  cpu_traced: {coreml: joint.mlpackage, engine: auto}
  raw_logits: {convert: {precision: float16}}
inputs:
  audio: audio/*.wav
stages:
  logits:             {reference: joint.joint_net.2, candidate: logits}
  vocab_logits:       {of: logits, slice: "..., :-5"}
  duration_logits:    {of: logits, slice: "..., -5:", expect: {some_positive: true}}
thresholds: {}
outputs: {csv: true}
"""


def written(folder: Path, text: str | bytes, name: str = "joint.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder: Path, text: str | bytes) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return str(caught.value).replace(str(folder) + "/", "")


def test_a_good_file_is_read_as_it_stands(tmp_path: Path) -> None:
    loaded = config.load(written(tmp_path, GOOD))
    assert loaded.path == str(tmp_path / "joint.yaml")
    assert loaded.reference == config.ReferenceConfig(nemo="parakeet-tdt-mini", component="joint")
    assert list(loaded.candidates) == ["cpu_traced", "raw_logits"]
    assert loaded.candidates["cpu_traced"].coreml == "joint.mlpackage"
    assert loaded.candidates["raw_logits"].convert == config.ConvertConfig(
        recipe="raw_logits", precision="float16", debug=True
    )
    assert loaded.inputs.audio == "audio/*.wav"
    assert loaded.inputs.points == "path"
    stages = loaded.stages or {}
    assert stages["logits"].index is None
    assert stages["duration_logits"].index == (..., slice(-5, None, None))
    assert [stage.expect.some_positive for stage in stages.values()] == [False, False, True]
    assert loaded.outputs == config.OutputsConfig(dir="outputs/joint", csv=True, json=True, markdown=True, html=True)


def test_a_byte_order_mark_and_keys_without_a_value_are_harmless(tmp_path: Path) -> None:
    text = GOOD.replace("thresholds: {}", "thresholds:").replace("outputs: {csv: true}", "outputs:")
    text = text[: text.index("stages:")] + "stages:\n" + text[text.index("thresholds:") :]
    loaded = config.load(written(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert (loaded.stages, loaded.thresholds, loaded.outputs.dir) == (None, {}, "outputs/joint")


def test_a_configuration_is_frozen() -> None:
    loaded = config.from_mapping(_minimal())
    with pytest.raises(ValueError, match="frozen"):
        loaded.inputs = config.InputsConfig(audio="b.wav")  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).splitlines()[:2] == ["The configuration is empty.", "  in joint.yaml"]


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="There is no configuration") as caught:
        config.load(tmp_path / "jiont.yaml")
    assert f"did you mean '{tmp_path / 'joint.yaml'}'?" in str(caught.value)


def test_a_folder_and_a_file_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder, not a file"):
        config.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(written(tmp_path, GOOD) / "x.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "line 2, column 1"),
        ("a: b: c", "line 1, column 5"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ("a:\n\t- 1\n", "Indent with spaces"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: 2024-99-99", "month must be in 1..12"),
        ("[" * 3000, "nested too deeply"),
        ("\x01", "special characters are not allowed"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        ("- 1\n", "is a list, not a mapping"),
        ("words", "is the text 'words', not a mapping"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' was already given in line 1"),
        ("on: 1\n", "the key 'on' is not text"),
        ("? [1, 2]\n: 3\n", "is not text"),
    ],
)
def test_text_that_is_not_a_configuration(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_aliases_that_multiply_or_refer_to_themselves_end_in_a_short_message(tmp_path: Path) -> None:
    bomb = "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert len(refusal(tmp_path, bomb)) < 1000
    assert "no key 'a'" in refusal(tmp_path, "a: &a [*a]\n")
    assert len(refusal(tmp_path, bomb + "inputs: {audio: *x29}\n")) < 1000


REPLACEMENTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": ("component:", "componnt:", ("no key 'componnt'", "reference.componnt (line 3)", "'component'?")),
    "unknown key at the top": ("reference:", "refrence:", ("no key 'refrence'", "did you mean 'reference'?")),
    "unknown key deep inside": ("precision:", "precison:", ("candidates.raw_logits.convert.precison (line 6)",)),
    "missing key": ("  nemo: parakeet-tdt-mini\n", "", ("The reference names no model.", "reference (line 1)")),
    "wrong type": ("nemo: parakeet-tdt-mini", "nemo: 5", ("the number '5'", "expected text", "Put it in quotes.")),
    "text for a truth value": ("some_positive: true", "some_positive: 'yes'", ("'yes'", "expected true or false")),
    "number for a mapping": ("thresholds: {}", "thresholds: 3", ("expected a mapping",)),
    "choice": ("engine: auto", "engine: portabel", ("'portabel'", "expected one of", "did you mean 'portable'?")),
    "engine": ("engine: auto", "engine: ane", ("expected one of auto, native, portable",)),
    "precision": ("precision: float16", "precision: int8", ("expected one of float32, float16",)),
    "no package": ("{convert: {precision: float16}}", "{}", ("names no package", "candidates.raw_logits (line 6)")),
    "two packages": ("engine: auto", "convert: {}", ("has both 'coreml' and 'convert'", "cpu_traced (line 5)")),
    "unknown component": ("coreml: joint.mlpackage", "coreml: {jiont: a}", ("component 'jiont'", "mean 'joint'?")),
    "other component": ("coreml: joint.mlpackage", "coreml: {encoder: a}", ("no package for the component 'joint'",)),
    "one package for all": (
        "component: joint",
        "component: whole",
        ("is one package, but the reference is the whole",),
    ),
    "no input": ("audio: audio/*.wav", "points: path", ("has no input", "exactly one of audio, manifest, tensors")),
    "two inputs": ("audio: audio/*.wav", "audio: a\n  manifest: b", ("more than one input: audio, manifest",)),
    "empty list": ("audio: audio/*.wav", "audio: []", ("The key 'audio' is empty.", "inputs.audio (line 8)")),
    "list of numbers": ("audio: audio/*.wav", "audio: [a, 1]", ("The key 'audio[1]' is the number '1'.",)),
    "unknown parent": ('{of: logits, slice: "..., :', '{of: logitz, slice: "..., :', ("'logitz'", "'logits'?")),
    "later parent": ('{of: logits, slice: "..., :', '{of: duration_logits, slice: "..., :', ("not above it",)),
    "slice": ('"..., :-5"', '"..., :-x"', ("holds ':-x'", "stages.vocab_logits.slice (line 11)", "NumPy")),
    "slice without quotes": ('"..., :-5"', "1:30", ("The key 'slice' is the number '90'.", "Put it in quotes.")),
    "pair and slice": ('{of: logits, slice: "..., :', '{reference: a, of: logits, slice: "..., :', ("got reference,",)),
    "half a pair": ("candidate: logits}", "component: joint}", ("expected reference and candidate, or of and slice",)),
    "stage of another component": ("candidate: logits}", "candidate: l, component: encoder}", ("'encoder'", "'joint'")),
    "unknown metric": ("thresholds: {}", "thresholds: {max_abs_eror: 1}", ("'max_abs_eror'", "'max_abs_error'?")),
    "threshold that is no number": ("thresholds: {}", "thresholds: {rmse: .nan}", ("expected a finite number",)),
    "duplicate key": ("thresholds: {}", "inputs: {audio: x}", ("'inputs' was already given in line 7", "line 13")),
    "stages that are a list": (GOOD[GOOD.index("stages:") : GOOD.index("thr")], "stages: [1]\n", ("is a list",)),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_each_fault_has_its_message(tmp_path: Path, name: str) -> None:
    old, new, expected = REPLACEMENTS[name]
    assert old in GOOD
    message = refusal(tmp_path, GOOD.replace(old, new, 1))
    assert message.splitlines()[1].startswith("  in joint.yaml, ")
    for part in expected:
        assert part in message


def test_without_candidates(tmp_path: Path) -> None:
    start, end = GOOD.index("candidates:"), GOOD.index("inputs:")
    assert "has no candidate" in refusal(tmp_path, GOOD[:start] + "candidates: {}\n" + GOOD[end:])


def test_further_faults_are_listed_by_their_keys(tmp_path: Path) -> None:
    text = GOOD.replace("nemo: parakeet-tdt-mini", "nemo: 5").replace("engine: auto", "engine: ane")
    assert "There are more faults, at: candidates.cpu_traced.engine" in refusal(tmp_path, text)


def _minimal() -> dict[str, Any]:
    return {
        "reference": {"nemo": "m"},
        "candidates": {"a": {"convert": {}}, "b": {"coreml": "p"}},
        "inputs": {"audio": "x"},
    }


def test_a_slice_may_name_the_candidates_own_tensor() -> None:
    stages = {
        "l": {"reference": "r", "candidate": "c"},
        "d": {"of": "l", "slice": "..., -5:", "candidate": "durations"},
    }
    loaded = config.from_mapping({**_minimal(), "stages": stages})
    assert (loaded.stages or {})["d"].candidate == "durations"


def test_options_replace_values_and_leave_the_rest(tmp_path: Path) -> None:
    loaded = config.load(written(tmp_path, GOOD))
    changed = config.override(loaded, candidates=["raw_logits"], audio=["a.wav", "b.wav"], points="lattice", dir="o")
    assert list(changed.candidates) == ["raw_logits"]
    assert changed.inputs == config.InputsConfig(audio=["a.wav", "b.wav"], points="lattice")
    assert changed.outputs.dir == "o"
    assert (changed.stages, changed.reference, changed.path) == (loaded.stages, loaded.reference, loaded.path)
    assert config.override(loaded) == loaded
    assert list(config.override(loaded, candidates=["raw_logits", "cpu_traced"]).candidates) == list(loaded.candidates)


def test_options_keep_the_points_of_the_file_and_replace_a_manifest() -> None:
    loaded = config.from_mapping({**_minimal(), "inputs": {"manifest": "m.jsonl", "points": "lattice"}})
    assert config.override(loaded, audio=["a.wav"]).inputs == config.InputsConfig(audio=["a.wav"], points="lattice")


def test_wrong_options_are_refused_like_wrong_keys() -> None:
    loaded = config.from_mapping(_minimal())
    with pytest.raises(ConfigError, match=r"no candidate 'c'(.|\n)*known candidates: a, b"):
        config.override(loaded, candidates=["c"])
    with pytest.raises(ConfigError, match=r"'latice'(.|\n)*command line(.|\n)*did you mean 'lattice'"):
        config.override(loaded, points="latice")


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'torch', 'pandas', 'nemo', 'coremltools'}"
    code = f"import sys, layerdiff.config; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
