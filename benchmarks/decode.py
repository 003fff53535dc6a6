"""Decoding: the engine beside NeMo's own greedy decoding, memory over a long manifest, two workers beside one, a sweep.

The bundled corpus has 200 clips. NeMo is given the same samples by `transcribe`, one clip at a time, with its unbatched
and its batched strategy; both sides use one thread. Workers of a Ray cluster are timed once all of them have opened
their models. A sweep of N variants is held against N sweeps of one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Measurement, in_turn, ratios
from benchmarks.memory import own_peak_bytes

CORPUS = Path("audio/corpus/manifest.jsonl")
ROUNDS = 5
LENGTHS = (10, 1000)
"""Clips of the manifests whose decoding's peak memory is compared."""
GROWTH = 1.10
WORKERS = 2
SPEEDUP = 1.8
VARIANTS = ("full", "int8", "palette_8", "palette_4")


def run() -> list[Measurement]:
    """All four."""
    return [*speed(), *memory(), *workers(), *sweep()]


# ------------------------------------------------------------------ speed


def speed() -> list[Measurement]:
    """The engine on float32 packages beside both of NeMo's greedy strategies."""
    found = json.loads(child("speed_child"))
    lines = []
    for strategy in ("greedy", "greedy_batch"):
        ratio, fastest = ratios(found[strategy], found["engine"])
        lines.append(
            Measurement(
                "decode",
                f"{found['clips']} clips on the engine",
                sorted(found["engine"])[len(found["engine"]) // 2],
                "s",
                fastest=min(found["engine"]),
                against=f"NeMo's {strategy}: its time over ours",
                ratio=ratio,
                ratio_of_fastest=fastest,
                target="≥ 1×" if strategy == "greedy" else "",
                ok=ratio >= 1 if strategy == "greedy" else None,
            )
        )
    return lines


def speed_child() -> None:
    """Seconds of every side in every round."""
    import soundfile
    import torch

    from layerdiff import quiet
    from layerdiff.config import ConvertConfig
    from layerdiff.convert import build
    from layerdiff.corpus.shards import GROUP
    from layerdiff.decode.nemo_parts import nemo_speech
    from layerdiff.decode.package_parts import package_parts
    from layerdiff.decode.parts import mixture
    from layerdiff.mil import load
    from layerdiff.records import COMPONENTS
    from layerdiff.sources.coreml_portable import PortableSource
    from layerdiff.sources.nemo import NemoSource

    torch.set_num_threads(1)
    paths = sorted(CORPUS.parent.glob("*.opus"))
    clips = [soundfile.read(path, dtype="float32")[0] for path in paths]
    with quiet.third_party():
        source = NemoSource.open("parakeet-tdt-mini")
        options = ConvertConfig(precision="float32", debug=False)
        packages = {name: load(build(source, name, options)) for name in COMPONENTS}
        speech = nemo_speech(source.model)
        given = package_parts(PortableSource(packages), speech.alphabet, is_ctc=False)
        parts: Any = mixture(speech.parts, given, COMPONENTS)

        def engine() -> list[str]:
            """As shards are decoded: some clips through one component after the other."""
            said = []
            for start in range(0, len(clips), GROUP):
                mels = [parts.preprocessor(samples, None) for samples in clips[start : start + GROUP]]
                frames = [parts.encoder(mel) for mel in mels]
                said += [speech.tokenizer.text(parts.search(each, speech.alphabet).tokens) for each in frames]
            return said

        sides: dict[str, Callable[[], Any]] = {"engine": engine}
        for strategy in ("greedy", "greedy_batch"):
            sides[strategy] = nemos(source.model, strategy, clips)
        said = {name: side() for name, side in sides.items()}
        if not said["engine"] == said["greedy"] == said["greedy_batch"]:
            raise SystemExit("the transcripts differ")
        spent = in_turn(sides, rounds=ROUNDS)
    print(json.dumps({**spent, "clips": len(clips)}))


def nemos(model: Any, strategy: str, clips: list[Any]) -> Callable[[], list[str]]:
    """NeMo's transcripts of the clips, one at a time, by one of its strategies."""
    from omegaconf import OmegaConf, open_dict

    chosen = OmegaConf.create(OmegaConf.to_container(model.cfg.decoding, resolve=True))
    with open_dict(chosen):
        chosen.strategy = strategy
        chosen.greedy = {**(chosen.get("greedy") or {}), "use_cuda_graph_decoder": False}

    def transcribe() -> list[str]:
        model.change_decoding_strategy(chosen, verbose=False)
        found = [hypothesis.text for hypothesis in model.transcribe(clips, batch_size=1, verbose=False)]
        model.eval()  # transcribe leaves parts of it in training
        return found

    return transcribe


# ------------------------------------------------------------------ memory


def memory() -> list[Measurement]:
    """The peak over a short manifest, and over one a hundred times as long."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = [json.loads(child("memory_child", write_manifest(Path(folder), count), folder)) for count in LENGTHS]
    ratio = peaks[1] / peaks[0]
    return [
        Measurement("decode", f"peak over {LENGTHS[0]} clips", peaks[0], "bytes"),
        Measurement(
            "decode",
            f"peak over {LENGTHS[1]} clips",
            peaks[1],
            "bytes",
            against=f"{LENGTHS[0]} clips",
            ratio=ratio,
            target=f"≤ {GROWTH}×",
            ok=ratio <= GROWTH,
        ),
    ]


def write_manifest(folder: Path, count: int) -> str:
    """A manifest of `count` lines: the corpus, the longest clip first, as often as it takes."""
    lines = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    lines.sort(key=lambda line: -line["duration"])
    for line in lines:
        line["audio_filepath"] = str((CORPUS.parent / line["audio_filepath"]).resolve())
    path = folder / f"{count}.jsonl"
    path.write_text("".join(json.dumps(lines[index % len(lines)]) + "\n" for index in range(count)))
    return str(path)


def configured(manifest: str, folder: str, **changes: Any) -> Any:
    """A configuration of the bundled model's float16 conversion."""
    from layerdiff import config

    values = {
        "reference": {"nemo": "parakeet-tdt-mini", "component": "whole"},
        "candidates": {"float16": {"convert": {"debug": False}}},
        "inputs": {"manifest": manifest},
        "outputs": {"dir": folder},
    }
    return config.from_mapping(values | changes)


def memory_child(manifest: str, folder: str) -> None:
    """Decodes the manifest, writes its files, and prints the peak of this process."""
    from layerdiff import quiet
    from layerdiff.corpus import decode
    from layerdiff.progress import SILENT
    from layerdiff.report.decoding_files import write_decoding

    config = configured(manifest, str(Path(folder) / Path(manifest).stem))
    with quiet.third_party():
        report, place = decode(config, progress=SILENT)
        write_decoding(report, place.rows, config.outputs)
    print(own_peak_bytes())


# ------------------------------------------------------------------ workers


def workers() -> list[Measurement]:
    """Two workers of a Ray cluster beside one, once they have opened their models."""
    with tempfile.TemporaryDirectory() as folder:
        rates = [float(child("workers_child", write_manifest(Path(folder), 600), str(n))) for n in (1, WORKERS)]
    ratio = rates[1] / rates[0]
    return [
        Measurement("decode", "one Ray worker", rates[0], "clips/s"),
        Measurement(
            "decode",
            f"{WORKERS} Ray workers",
            rates[1],
            "clips/s",
            against="one",
            ratio=ratio,
            target=f"≥ {SPEEDUP}×",
            ok=ratio >= SPEEDUP,
        ),
    ]


def workers_child(manifest: str, count: str) -> None:
    """Decodes on a cluster; prints clips per second from when every worker has finished its first shard."""
    from layerdiff import quiet
    from layerdiff.corpus.cluster import decode_on_cluster, weights_of
    from layerdiff.corpus.items import find_corpus
    from layerdiff.corpus.worker import Worker
    from layerdiff.progress import SILENT

    execution = {"ray": "auto", "workers": int(count), "shard": 10}
    config = configured(manifest, str(Path(manifest).parent), execution=execution)
    with quiet.third_party():
        weights = weights_of(Worker(config, progress=SILENT).models.module)
        jobs = list(enumerate(find_corpus(config.inputs).shards(10)))
        done, started, first = 0, 0.0, 2 * int(count)
        for position, (_, rows) in enumerate(decode_on_cluster(jobs, config, weights), start=1):
            if position == first:
                started = time.perf_counter()
            elif position > first:
                done += len(rows)
        spent = time.perf_counter() - started
    print(done / spent)


# ------------------------------------------------------------------ sweep


def sweep() -> list[Measurement]:
    """One sweep of several variants beside as many sweeps of one: the reference is decoded once."""
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(child("sweep_child", folder))
    ratio = found["apart"] / found["together"]
    return [
        Measurement(
            "decode",
            f"a sweep of {len(VARIANTS)} variants",
            found["together"],
            "s",
            against=f"{len(VARIANTS)} sweeps of one: their time over its",
            ratio=ratio,
            target="> 1×",
            ok=ratio > 1,
        ),
        Measurement("decode", "times that the reference decoded a clip", found["decoded"] / found["clips"], "per clip"),
    ]


def sweep_child(folder: str) -> None:
    """Seconds of both, packages being built before, and how often the reference decoded."""
    from layerdiff import quiet
    from layerdiff.config import from_mapping
    from layerdiff.corpus import decode
    from layerdiff.corpus.clips import REFERENCE, Hearing
    from layerdiff.progress import SILENT
    from layerdiff.sweep import as_candidates, built

    count = 60
    manifest = write_manifest(Path(folder), count)
    base = configured(manifest, folder).model_dump(exclude_none=True)
    base |= {"candidates": {}, "sweep": {"components": ["decoder", "joint"], "weights": list(VARIANTS)}}
    whole = from_mapping(base)
    heard: list[int] = []
    inner = Hearing.heard

    def counting(self: Any, listener: Any, taken: Any) -> Any:
        before = len(self._heard)
        found = inner(self, listener, taken)
        if taken == REFERENCE and len(self._heard) > before:
            heard.append(1)
        return found

    with quiet.third_party():
        assert whole.sweep is not None
        variants = {variant.name: variant for variant in built(whole, whole.sweep, progress=SILENT)}
        Hearing.heard = counting  # type: ignore[method-assign]
        spent = {}
        for title, groups in {"together": [variants], "apart": [{n: v} for n, v in variants.items()]}.items():
            spent[title] = 0.0
            for number, group in enumerate(groups):
                config = as_candidates(whole, group).model_dump(exclude_none=True)
                config["outputs"] = {"dir": str(Path(folder) / f"{title} {number}")}
                start = time.perf_counter()
                decode(from_mapping(config), progress=SILENT)
                spent[title] += time.perf_counter() - start
            if title == "together":
                decoded = len(heard)
    print(json.dumps({**spent, "decoded": decoded, "clips": count}))


# ------------------------------------------------------------------ processes


def child(what: str, *arguments: str) -> str:
    """Runs one of the functions above in a fresh process; the last line that it prints."""
    code = f"from benchmarks import decode; decode.{what}(*{list(arguments)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1]
