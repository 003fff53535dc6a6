"""Packages have the contract's names and shapes, are built once, and leave the model as it was."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from layerdiff import convert, mil, quiet
from layerdiff.config import ConvertConfig
from layerdiff.convert.identity import identity
from layerdiff.errors import ConversionError, OutputError
from layerdiff.sources.nemo import NemoSource
from layerdiff.store import Cache

with quiet.third_party():
    import coremltools as ct

Package = Callable[..., Path]

DTYPES = {65568: "float32", 131104: "int32", 65552: "float16"}
JOINT_INPUTS = {
    "encoder": ("float32", [(1, 65536), (96, 96), (1, 4096)]),
    "decoder": ("float32", [(1, 65536), (64, 64), (1, 4096)]),
}
ENCODER_INPUTS = {"mel": ("float32", [(1, 1), (128, 128), (10, 3000)]), "mel_length": ("int32", [1])}
ENCODER_OUTPUTS = {"encoder": "float32", "encoder_length": "int32"}
TAPS = dict.fromkeys(("enc_proj", "dec_proj", "pre_activation", "relu_hidden"), "float32")
DEBUG_JOINT = TAPS | dict.fromkeys(("logits", "vocab_logits", "duration_logits"), "float32")
DEBUG_ENCODER = ENCODER_OUTPUTS | dict.fromkeys(("pre_encode", "layer_0", "layer_1", "layer_2"), "float32")

CONTRACTS: list[tuple[str, str, bool, dict[str, Any], dict[str, str]]] = [
    ("joint", "raw_logits", False, JOINT_INPUTS, {"logits": "float32"}),
    ("joint", "raw_logits", True, JOINT_INPUTS, DEBUG_JOINT),
    ("joint", "cpu_traced", True, JOINT_INPUTS, DEBUG_JOINT),
    (
        "joint",
        "decision",
        False,
        {"encoder": ("float32", [1, 96, 1]), "decoder": ("float32", [1, 64, 1])},
        {"token_id": "int32", "token_prob": "float32", "duration": "int32"},
    ),
    (
        "decoder",
        "raw_logits",
        False,
        {
            "targets": ("int32", [1, 1]),
            "target_length": ("int32", [1]),
            "h_in": ("float32", [2, 1, 64]),
            "c_in": ("float32", [2, 1, 64]),
        },
        {"decoder": "float32", "h_out": "float32", "c_out": "float32"},
    ),
    (
        "preprocessor",
        "raw_logits",
        False,
        {"audio_signal": ("float32", [(1, 1), (1, 480000)]), "audio_length": ("int32", [1])},
        {"mel": "float32", "mel_length": "int32"},
    ),
    ("encoder", "raw_logits", True, ENCODER_INPUTS, DEBUG_ENCODER),
]


def features(described: Any) -> dict[str, tuple[str, list[Any]]]:
    """Name → dtype and shape, or its bounds where it is flexible."""
    found = {}
    for feature in described:
        array = feature.type.multiArrayType
        bounds = [(part.lowerBound, part.upperBound) for part in array.shapeRange.sizeRanges]
        found[feature.name] = (DTYPES[array.dataType], bounds or list(array.shape))
    return found


def operations(path: Path) -> list[Any]:
    spec = ct.utils.load_spec(str(path))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)


def tensor_names(path: Path) -> list[str]:
    return [output.name for operation in operations(path) for output in operation.outputs]


@pytest.mark.parametrize(("component", "recipe", "debug", "inputs", "outputs"), CONTRACTS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_names_and_shapes_are_the_contracts(
    package: Package,
    component: str,
    recipe: str,
    debug: bool,
    inputs: dict[str, Any],
    outputs: dict[str, str],
    precision: str,
) -> None:
    path = package(component, recipe, precision, debug)
    spec = ct.utils.load_spec(str(path))
    assert features(spec.description.input) == inputs
    declared = {name: dtype for name, (dtype, _) in features(spec.description.output).items()}
    assert declared == outputs
    names = tensor_names(path)
    assert len(names) == len(set(names))
    used = {output.type.tensorType.dataType for op in operations(path) for output in op.outputs}
    kind = ct.proto.MIL_pb2.DataType
    assert (kind.FLOAT16 in used) == (precision == "float16")
    assert not used & {kind.INT16, kind.UINT16}  # a length beyond 32767 would wrap around
    metadata = dict(spec.description.metadata.userDefined)
    assert metadata["layerdiff.precision"] == precision
    assert {"layerdiff.torch", "layerdiff.coremltools", "layerdiff.recipe"} <= set(metadata)


def state(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that an export could change."""
    flags = ("training", "inplace", "log_softmax", "_rnnt_export", "_fuse_loss_wer", "max_audio_length")
    kept: dict[str, Any] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for path, part in model.named_modules():
        kept |= {f"{path}#{flag}": getattr(part, flag) for flag in flags if hasattr(part, flag)}
        kept[f"{path}#hooks"] = (len(part._forward_hooks), len(part._forward_pre_hooks))
        kept |= {f"{path}.{name}": buffer.clone() for name, buffer in part.named_buffers(recurse=False)}
    return kept


@pytest.mark.parametrize("component", ["preprocessor", "decoder", "joint", "encoder"])
def test_the_model_is_unchanged_to_the_bit(reference: Any, tmp_path: Path, component: str) -> None:
    before = state(reference.model)
    convert.build(reference, component, ConvertConfig(precision="float32", debug=True), cache=Cache(tmp_path))
    after = state(reference.model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name]
        assert same, name


def test_two_builds_give_the_same_program(reference: Any, tmp_path: Path) -> None:
    config = ConvertConfig(precision="float16", debug=True)
    first, second = (convert.build(reference, "joint", config, cache=Cache(tmp_path / name)) for name in "ab")
    assert tensor_names(first) == tensor_names(second)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()


class Recorded:
    """A progress that remembers its titles."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        self.titles.append(title)
        yield lambda step: None


def small_joint(seed: int = 0) -> SimpleNamespace:
    """A joint of NeMo's own class, 16 → 12 → 9 + 5."""
    return SimpleNamespace(joint=nemo_joint(encoder=16, decoder=8, hidden=12, vocabulary=8, seed=seed))


def nemo_joint(*, encoder: int, decoder: int, hidden: int, vocabulary: int, seed: int = 0) -> nn.Module:
    with quiet.third_party():
        from nemo.collections.asr.modules import RNNTJoint
    torch.manual_seed(seed)
    sizes = {"encoder_hidden": encoder, "pred_hidden": decoder, "joint_hidden": hidden}
    with quiet.third_party():
        joint: nn.Module = RNNTJoint(
            jointnet={**sizes, "activation": "relu", "dropout": 0.2}, num_classes=vocabulary, num_extra_outputs=5
        )
    return joint.eval()


def test_a_package_is_built_once_and_what_changes_it_builds_another(tmp_path: Path) -> None:
    source, cache, progress = small_joint(), Cache(tmp_path), Recorded()

    def build(**changes: Any) -> Path:
        config = ConvertConfig.model_construct(
            **({"recipe": "raw_logits", "precision": "float32", "debug": False} | changes)
        )
        return convert.build(source, "joint", config, cache=cache, progress=progress)

    first = build()
    assert build() == first
    assert progress.titles == ["converting joint (raw_logits, float32)"]
    others = [build(recipe="cpu_traced"), build(precision="float16"), build(debug=True)]
    source.joint.temperature = 2.0
    others.append(build())
    source.joint.temperature = 1.0
    assert build() == first
    with torch.no_grad():
        source.joint.enc.bias[3] += 1e-6
    others.append(build())
    assert len({first, *others}) == 6
    assert len(progress.titles) == 6
    assert progress.titles[1] == "converting joint (cpu_traced, float32)"


def test_restored_twice_is_the_same_model(reference: Any) -> None:
    again = NemoSource.open("parakeet-tdt-mini")
    with torch.no_grad():  # what a module grows while it runs does not count
        mel, length = again.preprocessor(input_signal=torch.zeros(1, 16000), length=torch.tensor([16000]))
        again.encoder(audio_signal=mel, length=length)
    for component in ("preprocessor", "encoder", "decoder", "joint"):
        assert identity(getattr(again, component)) == identity(getattr(reference, component))


def test_a_damaged_package_is_rebuilt(tmp_path: Path) -> None:
    source, cache = small_joint(), Cache(tmp_path)
    path = convert.build(source, "joint", ConvertConfig(), cache=cache)
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    whole = weights.read_bytes()
    os.truncate(weights, len(whole) // 2)
    assert convert.build(source, "joint", ConvertConfig(), cache=cache) == path
    assert weights.read_bytes() == whole


def test_the_users_cache_is_used_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERDIFF_CACHE", str(tmp_path / "mine"))
    path = convert.build(small_joint(), "joint", ConvertConfig())
    assert path.is_relative_to(tmp_path / "mine")
    assert path.name == "joint_raw_logits_float16_debug.mlpackage"


def test_a_fixed_joint_is_a_single_step(tmp_path: Path) -> None:
    config = ConvertConfig(precision="float32", debug=False)
    path = convert.build(small_joint(), "joint", config, cache=Cache(tmp_path), fixed=True)
    spec = ct.utils.load_spec(str(path))
    assert features(spec.description.input) == {"encoder": ("float32", [1, 16, 1]), "decoder": ("float32", [1, 8, 1])}


def test_conversion_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    convert.build(small_joint(), "joint", ConvertConfig(), cache=Cache(tmp_path))
    assert capfd.readouterr() == ("", "")


class Unconvertible(nn.Module):
    """Looks like a joint and uses an op that Core ML lacks."""

    num_extra_outputs = 5
    log_softmax = None
    _fuse_loss_wer = False

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.pred = nn.Linear(16, 4), nn.Linear(8, 4)

    def forward(self, encoder_outputs: torch.Tensor, decoder_outputs: torch.Tensor) -> torch.Tensor:
        print("something third parties say")
        return torch.special.bessel_j0(encoder_outputs)


def test_a_failed_conversion_says_what_and_leaves_nothing(tmp_path: Path) -> None:
    source = SimpleNamespace(joint=Unconvertible())
    with pytest.raises(ConversionError) as caught:
        convert.build(source, "joint", ConvertConfig(debug=False), cache=Cache(tmp_path))
    lines = str(caught.value).splitlines()
    assert lines[0] == "coremltools could not convert the component 'joint'."
    assert lines[1] == "  in recipe 'raw_logits', float16"
    assert any("special_bessel_j0" in line for line in lines[2:])
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_joint_without_durations_has_no_decision(tmp_path: Path) -> None:
    source = small_joint()
    source.joint._num_extra_outputs = 0
    config = ConvertConfig.model_construct(recipe="decision", precision="float32", debug=False)
    with pytest.raises(ConversionError, match="no duration outputs"):
        convert.build(source, "joint", config, cache=Cache(tmp_path))


def test_a_debug_joint_without_durations_has_no_slices(tmp_path: Path) -> None:
    source = small_joint()
    source.joint._num_extra_outputs = 0
    path = convert.build(source, "joint", ConvertConfig(precision="float32"), cache=Cache(tmp_path))
    assert list(mil.load(path).outputs) == ["enc_proj", "dec_proj", "pre_activation", "relu_hidden", "logits"]


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="LAYERDIFF_CACHE"):
        convert.build(small_joint(), "joint", ConvertConfig(), cache=Cache(tmp_path / "file" / "x"))


def test_a_full_size_joint_converts(tmp_path: Path) -> None:
    joint = nemo_joint(encoder=1024, decoder=640, hidden=640, vocabulary=8192)
    source = SimpleNamespace(joint=joint)
    path = convert.build(source, "joint", ConvertConfig(precision="float16"), cache=Cache(tmp_path))
    spec = ct.utils.load_spec(str(path))
    assert features(spec.description.input)["encoder"][1][1] == (1024, 1024)
    parameters = sum(parameter.numel() for parameter in joint.parameters())
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    assert 0 <= weights.stat().st_size - 2 * parameters < 4096
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
