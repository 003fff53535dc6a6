"""Checkpoints that NeMo itself would have to refuse, made from the bundled one by changing a part of it."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from layerdiff import quiet
from layerdiff.decode.greedy import greedy_path
from layerdiff.errors import CheckpointError, MissingExtraError
from layerdiff.sources.nemo import NemoSource
from layerdiff.sources.nemo_restore import restore

MINI = Path(str(resources.files("layerdiff") / "assets" / "parakeet-tdt-mini.nemo"))


def parts() -> dict[str, bytes]:
    with tarfile.open(MINI) as tar:
        files = {member.name.removeprefix("./"): tar.extractfile(member) for member in tar if member.isreg()}
        return {name: file.read() for name, file in files.items() if file is not None}


def packed(path: Path, files: Mapping[str, bytes], *, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def with_config(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    files = parts()
    config = yaml.safe_load(files["model_config.yaml"])
    change(config)
    return packed(path, {**files, "model_config.yaml": yaml.safe_dump(config, allow_unicode=True).encode()})


def with_weights(path: Path, weights: bytes) -> Path:
    return packed(path, {**parts(), "model_weights.ckpt": weights})


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def state_dict() -> dict[str, torch.Tensor]:
    return dict(torch.load(io.BytesIO(parts()["model_weights.ckpt"]), weights_only=True))


def refused(path: Path) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        restore(path)
    lines = str(caught.value).splitlines()
    assert path.name in lines[0]
    assert all(line.startswith("  ") for line in lines[1:])
    return lines


class Touch:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_pickled_code_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    evil = {"a": Touch(tmp_path / "executed")}
    zipped = form == "zip"
    weights = pickle.dumps(evil) if form == "bare" else saved(evil, _use_new_zipfile_serialization=zipped)
    lines = refused(with_weights(tmp_path / "evil.nemo", weights))
    assert "hold code instead of tensors" in lines[0]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("weights", [b"", b"garbage" * 100, b"PK\x03\x04garbage", pickle.dumps(3)])
def test_damaged_weights(tmp_path: Path, weights: bytes) -> None:
    refused(with_weights(tmp_path / "damaged.nemo", weights))


def test_truncated_weights(tmp_path: Path) -> None:
    refused(with_weights(tmp_path / "short.nemo", parts()["model_weights.ckpt"][:1_000_000]))


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"a": 1}, torch.zeros(1)])
def test_weights_that_are_no_state_dict(tmp_path: Path, value: Any) -> None:
    assert "not a mapping" in refused(with_weights(tmp_path / "other.nemo", saved(value)))[0]


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit(tmp_path: Path, change: str) -> None:
    state = state_dict()
    if change == "missing":
        del state["joint.enc.weight"]
    else:
        state["joint.extra" if change == "extra" else "joint.enc.weight"] = torch.zeros(3)
    lines = refused(with_weights(tmp_path / "other.nemo", saved(state)))
    assert "don't fit its configuration" in lines[0]
    assert "joint." in "".join(lines)


@pytest.mark.parametrize(
    "target",
    [
        "nemo.collections.asr.modules.conformer_encoder.torch.hub.load",
        "nemo.collections.asr.models.rnnt_models.os.makedirs",
        "nemo.collections.asr.parts.utils.manifest_utils.read_manifest",
        "nemo.collections.asr.absent.Thing",
        "nemo.collections.asr.modules.Absent",
        "torch.nn.functional.relu",
    ],
)
def test_allowed_prefixes_that_lead_elsewhere(tmp_path: Path, target: str) -> None:
    lines = refused(with_config(tmp_path / "evil.nemo", lambda config: config["encoder"].update(_target_=target)))
    assert f"would call '{target}'" in lines[0]


@pytest.mark.parametrize("target", ["torch.nn.Linear", "nemo.collections.asr.models.EncDecCTCModel"])
def test_what_is_no_transducer(tmp_path: Path, target: str) -> None:
    lines = refused(with_config(tmp_path / "other.nemo", lambda config: config.update(target=target)))
    assert "which is not a transducer" in lines[0]


def test_a_configuration_that_nemo_cannot_build(tmp_path: Path) -> None:
    lines = refused(with_config(tmp_path / "odd.nemo", lambda config: config["encoder"].update(n_heads=7)))
    assert "NeMo can't build the model" in lines[0]
    # NeMo's global state says again that nothing is being restored
    from nemo.utils.app_state import AppState

    assert AppState().is_model_being_restored is False
    assert AppState().nemo_file_folder is None


def test_a_model_with_another_number_of_durations(tmp_path: Path) -> None:
    path = with_config(tmp_path / "odd.nemo", lambda config: config["loss"]["tdt_kwargs"].update(durations=[0, 1]))
    with pytest.raises(CheckpointError, match="5 extra outputs and 2 durations"):
        NemoSource.open(path)


def test_a_gzipped_checkpoint_is_the_same_model(tmp_path: Path, nemo_model: Any) -> None:
    restored = restore(packed(tmp_path / "x.nemo", parts(), mode="w:gz"))
    for name, value in nemo_model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def test_it_is_the_model_that_nemo_restores(nemo_model: Any) -> None:
    from nemo.collections.asr.models import ASRModel

    with quiet.third_party():
        theirs = ASRModel.restore_from(str(MINI), map_location="cpu")
    assert type(theirs) is type(nemo_model)
    ours = nemo_model.state_dict()
    assert list(ours) == list(theirs.state_dict())
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())


def test_the_state_of_the_reference(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["preprocessor"].update(dither=0.5, pad_to=16)
        config["joint"].update(fuse_loss_wer=True)

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        source = NemoSource.open(with_config(tmp_path / "x.nemo", change))
        assert torch.backends.cuda.matmul.allow_tf32 is False
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    model = source.model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (model.preprocessor.featurizer.dither, model.preprocessor.featurizer.pad_to) == (0.0, 0)
    assert model.spec_augmentation is None
    assert model.joint.fuse_loss_wer is False
    assert model.decoding.decoding.decoding_computer.allow_cuda_graphs is False
    expected = {"eval": True, "dither": 0.0, "pad_to": 0, "spec_augment": False, "dtype": "float32", "tf32": False}
    expected |= {"fuse_loss_wer": False, "use_cuda_graph_decoder": False, "log_softmax": None}
    assert {name: source.description[name] for name in expected} == expected


@pytest.fixture(scope="module")
def rnnt(tmp_path_factory: pytest.TempPathFactory) -> NemoSource:
    """The bundled model without its durations."""
    files, state = parts(), state_dict()
    for name in ("joint.joint_net.2.weight", "joint.joint_net.2.bias"):
        state[name] = state[name][:97].clone()
    config = yaml.safe_load(files["model_config.yaml"])
    config["joint"]["num_extra_outputs"] = 0
    config["loss"] = {"loss_name": "default"}
    config["decoding"] = {"strategy": "greedy", "greedy": {"max_symbols": 3}}
    files |= {"model_config.yaml": yaml.safe_dump(config).encode(), "model_weights.ckpt": saved(state)}
    return NemoSource.open(packed(tmp_path_factory.mktemp("rnnt") / "rnnt.nemo", files))


def test_a_transducer_without_durations(rnnt: NemoSource) -> None:
    assert (rnnt.durations, rnnt.blank, rnnt.max_symbols) == ((), 96, 3)
    assert rnnt.description["vocabulary_size"] == 96


@pytest.mark.parametrize("seed", range(3))
def test_it_is_decoded_as_nemo_does(rnnt: NemoSource, seed: int) -> None:
    from nemo.collections.asr.parts.submodules.rnnt_greedy_decoding import GreedyBatchedRNNTInfer, GreedyRNNTInfer

    frames = np.random.default_rng(seed).standard_normal((30, 96)).astype(np.float32)
    path = greedy_path(
        frames,
        predict=rnnt.predict_step,
        joint=rnnt.joint_step,
        blank=rnnt.blank,
        durations=rnnt.durations,
        frame_s=rnnt.frame_s,
        max_symbols=rnnt.max_symbols,
    )
    assert len(path.emissions) > 3
    for decoding in (GreedyRNNTInfer, GreedyBatchedRNNTInfer):
        infer = decoding(rnnt.decoder, rnnt.joint, blank_index=rnnt.blank, max_symbols_per_step=rnnt.max_symbols)
        with torch.no_grad():
            (hypotheses,) = infer(encoder_output=torch.tensor(frames.T[None]), encoded_lengths=torch.tensor([30]))
        assert path.tokens == tuple(int(token) for token in hypotheses[0].y_sequence)
        assert [e.frame for e in path.emissions] == [int(frame) for frame in hypotheses[0].timestamp]


def test_the_user_sees_nothing_of_it() -> None:
    code = "from layerdiff.sources.nemo import NemoSource; print(NemoSource.open('parakeet-tdt-mini').blank)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "96\n", "")


def test_without_nemo_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo", None)
    with warnings.catch_warnings(), pytest.raises(MissingExtraError, match=r'pip install "layerdiff\[nemo\]"'):
        restore("parakeet-tdt-mini")
