"""Decisions of a CTC head: the frames at which the best token is another one."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import config, convert, quiet, run
from layerdiff.config import ConvertConfig
from layerdiff.mil import load
from layerdiff.progress import SILENT
from layerdiff.run.aligned import compare_feed, result_of
from layerdiff.run.aligned_decisions import Decisions
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.runs import PackageRuns
from layerdiff.sources.nemo import NemoSource
from layerdiff.sources.torch_source import TorchSource

CLIPS = sorted(str(path) for path in (Path(__file__).parents[2] / "audio").glob("*.wav"))
ABOUT = {"module": "ConvASRDecoder", "blank": 12, "frame_s": 0.08}


class Head(torch.nn.Module):
    """A CTC head of NeMo's, from float32[1, 16, T] to log-probabilities float32[1, T, 13]."""

    def __init__(self) -> None:
        super().__init__()
        with quiet.third_party():
            from nemo.collections.asr.modules import ConvASRDecoder

        torch.manual_seed(1)
        self.head = ConvASRDecoder(feat_in=16, num_classes=12, vocabulary=[str(index) for index in range(12)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(encoder_output=x)  # type: ignore[no-any-return]


class Described:
    """A torch source that says of itself what one of a NeMo model does."""

    def __init__(self, source: TorchSource) -> None:
        self._source = source
        self.description = {**source.description, **ABOUT}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def converted(module: torch.nn.Module, x: np.ndarray, path: Path) -> Path:
    import coremltools as ct

    with quiet.third_party(), torch.no_grad():
        traced = torch.jit.trace(module, (torch.from_numpy(x),), check_trace=False)
        ct.convert(
            traced,
            inputs=[ct.TensorType(name="x", shape=x.shape)],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(path))
    return path


def test_frames_that_decide_for_another_token_are_counted(tmp_path: Path) -> None:
    right = Head().eval()
    wrong = copy.deepcopy(right)
    wrong.head.decoder_layers[0].bias.data[12] += 0.4  # the blank is a little too likely
    x = np.random.default_rng(0).standard_normal((1, 16, 60)).astype(np.float32)
    model: Any = load(converted(wrong, x, tmp_path / "head.mlpackage"))
    trial = AlignedTrial("it", "decoder", Described(TorchSource.from_module(right, name="head")), PackageRuns(model))
    compare_feed([trial], {"x": x}, "a.wav")
    result = result_of("it", [trial], parts=["decoder"])
    with torch.no_grad():
        ours, theirs = (net(torch.from_numpy(x))[0].argmax(-1).numpy() for net in (right, wrong))
    assert result.tdt is not None
    assert result.tdt.points == 60
    assert result.tdt.token_flips == int((ours != theirs).sum()) > 0
    first = int(np.flatnonzero(ours != theirs)[0])
    assert (result.tdt.flips[0].frame, result.tdt.flips[0].time_s) == (first, pytest.approx(0.08 * first))
    assert (result.tdt.frame_advance_flips, result.tdt.durations) == (0, ())
    assert result.tdt.summary.startswith(f"decisions that change: {result.tdt.token_flips} token")


def test_other_references_have_none() -> None:
    assert Decisions.of(SimpleNamespace(description={"module": "Linear", "blank": 12})) is None
    assert Decisions.of(SimpleNamespace(description={})) is None
    lens = Decisions.of(SimpleNamespace(description=ABOUT))
    assert lens is not None
    lens.take("encoder", reference=np.zeros((1, 5, 16)), candidate=np.zeros((1, 5, 16)), clip="a.wav")
    assert lens.result() is None


def test_an_aligned_joint_decides_as_it_does_along_its_path(reference: NemoSource, tmp_path: Path) -> None:
    """Without a stage map the same decisions are counted as with one."""
    package = convert.build(reference, "joint", ConvertConfig(precision="float32", recipe="cpu_traced"))
    copied = tmp_path / "Joint.mlpackage"
    shutil.copytree(package, copied)
    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "joint"},
        "candidates": {"it": {"coreml": str(copied)}},
        "inputs": {"audio": CLIPS[:2]},
    }
    found = run.execute(config.from_mapping(values), progress=SILENT).candidates["it"].tdt
    stages = convert.default_stages("joint", source=reference)
    walked = run.execute(config.from_mapping({**values, "stages": stages}), progress=SILENT, reference=reference)
    expected = walked.candidates["it"].tdt
    assert found is not None
    assert expected is not None
    assert (found.points, found.candidate_all_negative) == (expected.points, expected.candidate_all_negative)
    assert found.summary == expected.summary
    assert (found.first_all_negative.clip, found.first_all_negative.frame) == (  # type: ignore[union-attr]
        expected.first_all_negative.clip,  # type: ignore[union-attr]
        expected.first_all_negative.frame,  # type: ignore[union-attr]
    )
