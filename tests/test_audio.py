"""Recordings are read to float32 mono at the wanted rate, and what cannot be used is refused by name."""

from __future__ import annotations

import json
import string
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from layerdiff import audio
from layerdiff.errors import AudioError

RATE_HZ = 16000
AUDIO_FOLDER = Path(__file__).parents[1] / "audio"


def tone(*, frequency_hz: float, rate_hz: int, duration_s: float = 1.0, amplitude: float = 0.5) -> NDArray[np.float64]:
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    return amplitude * np.sin(2 * np.pi * frequency_hz * time_s)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes samples below `tmp_path`, one second of noise by default; returns the path."""

    def write(name: str, samples: Any = None, *, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if samples is None:
            samples = np.random.default_rng(0).uniform(-0.5, 0.5, rate_hz)
        soundfile.write(path, np.asarray(samples), rate_hz, subtype=subtype)
        return path

    return write


def refusal(call: Any, *args: Any, **options: Any) -> AudioError:
    with pytest.raises(AudioError) as caught:
        call(*args, **options)
    assert caught.value.what.endswith("."), "the first line is a sentence"
    assert caught.value.action, "the last line says what to do"
    return caught.value


# ------------------------------------------------------------------ samples


def test_integers_become_exact_fractions_of_full_scale(write: Any) -> None:
    values = np.array([-32768, -1, 0, 1, 32767] * 100, dtype=np.int16)
    clip = audio.load(write("x.wav", values), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(clip.samples, (values / 32768).astype(np.float32))
    assert clip.samples.dtype == np.float32
    assert (clip.name, clip.notes, clip.text, clip.duration_s) == ("x.wav", (), None, 500 / RATE_HZ)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_channels_are_averaged(write: Any, channels: int) -> None:
    frames = np.random.default_rng(channels).integers(-32768, 32767, (800, channels), dtype=np.int16)
    clip = audio.load(write("x.wav", frames), sample_rate_hz=RATE_HZ)
    oracle = (frames.astype(np.int64).sum(axis=1) / channels / 32768).astype(np.float32)
    np.testing.assert_allclose(clip.samples, oracle, rtol=0, atol=2**-24)
    assert clip.notes == (f"mixed from {channels} channels",)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_a_tone(write: Any, rate_hz: int) -> None:
    """Against the tone computed in float64 at the new rate, away from the ends where the filter rings."""
    path = write("x.wav", tone(frequency_hz=1000, rate_hz=rate_hz), rate_hz=rate_hz, subtype="FLOAT")
    clip = audio.load(path, sample_rate_hz=RATE_HZ)
    oracle = tone(frequency_hz=1000, rate_hz=RATE_HZ)
    assert abs(len(clip.samples) - len(oracle)) <= 1
    inner = slice(1600, RATE_HZ - 1600)
    np.testing.assert_allclose(clip.samples[inner], oracle[inner], rtol=0, atol=1e-5)
    assert clip.notes == (f"resampled from {rate_hz} Hz",)


def test_resampling_removes_what_the_new_rate_cannot_hold(write: Any) -> None:
    samples = tone(frequency_hz=1000, rate_hz=48000) + tone(frequency_hz=10000, rate_hz=48000)
    clip = audio.load(write("x.wav", samples / 2, rate_hz=48000, subtype="FLOAT"), sample_rate_hz=RATE_HZ)
    energy = np.mean(clip.samples[1600:-1600].astype(np.float64) ** 2)
    assert energy == pytest.approx(0.25**2 / 2, rel=1e-4)


def test_mixing_and_resampling_are_both_said_in_order(write: Any) -> None:
    left = tone(frequency_hz=440, rate_hz=44100)
    clip = audio.load(write("x.flac", np.stack([left, -left], axis=1), rate_hz=44100), sample_rate_hz=RATE_HZ)
    assert clip.notes == ("mixed from 2 channels", "resampled from 44100 Hz", "every sample is zero")


def test_samples_beyond_full_scale_are_clipped_and_counted(write: Any) -> None:
    samples = np.full(1000, 0.5)
    samples[[3, 5]] = 1.5, -2.0
    clip = audio.load(write("x.wav", samples, subtype="FLOAT"), sample_rate_hz=RATE_HZ)
    assert (clip.samples[3], clip.samples[5], clip.samples[0]) == (1.0, -1.0, 0.5)
    assert clip.notes == ("2 samples beyond full scale clipped",)


def test_a_wav_that_ends_before_its_header_says_so_is_noted(write: Any) -> None:
    path = write("x.wav")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 8000])
    clip = audio.load(path, sample_rate_hz=RATE_HZ)
    assert clip.duration_s == 0.5
    assert clip.notes == ("shorter than its header announces: streamed, or cut short",)


@pytest.mark.parametrize("name", ["x.flac", "x.ogg", "x.aiff", "misnamed.raw"])
def test_the_content_decides_the_format(write: Any, tmp_path: Path, name: str) -> None:
    suffix = "wav" if name.endswith("raw") else name.split(".")[1]
    subtype = "VORBIS" if suffix == "ogg" else "PCM_16"
    path = write(f"written.{suffix}", subtype=subtype).rename(tmp_path / name)
    assert audio.load(path, sample_rate_hz=RATE_HZ).duration_s == 1.0


# ------------------------------------------------------------------ bad input


def test_missing_file(tmp_path: Path) -> None:
    error = refusal(audio.load, tmp_path / "gone.wav", sample_rate_hz=RATE_HZ)
    assert f"'{tmp_path / 'gone.wav'}' does not exist" in error.what


def test_folder(tmp_path: Path) -> None:
    error = refusal(audio.load, tmp_path, sample_rate_hz=RATE_HZ)
    assert "is a folder" in error.what
    assert f"{tmp_path}/*.wav" in str(error.action)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(audio.load, tmp_path / "x.wav", sample_rate_hz=RATE_HZ).what


def test_zero_samples(write: Any) -> None:
    assert "holds no samples" in refusal(audio.load, write("x.wav", []), sample_rate_hz=RATE_HZ).what


@pytest.mark.parametrize("content", [b"hello", b"RIFF", bytes(5000)], ids=["text", "a torn header", "zeros"])
def test_not_audio(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    error = refusal(audio.load, tmp_path / "x.wav", sample_rate_hz=RATE_HZ)
    assert "'" + str(tmp_path / "x.wav") + "' is not audio" in error.what
    assert error.detail


def test_a_header_that_announces_terabytes(write: Any) -> None:
    path = write("x.flac")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the highest bits of the number of samples
    path.write_bytes(content)
    assert str(path) in refusal(audio.load, path, sample_rate_hz=RATE_HZ).what


def test_a_header_that_announces_a_rate_of_a_few_hertz(write: Any) -> None:
    path = write("x.wav", rate_hz=8)
    for call in (audio.list_clips, lambda name: audio.load(name, sample_rate_hz=RATE_HZ)):
        assert "has a sample rate of 8 Hz" in refusal(call, str(path)).what


def test_bare_samples_are_not_audio_whatever_their_ending(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(b"\1\2" * 4000)
    assert "is not audio" in refusal(audio.load, tmp_path / "x.raw", sample_rate_hz=RATE_HZ).what


def test_truncated_flac(write: Any) -> None:
    path = write("x.flac")
    path.write_bytes(path.read_bytes()[:6000])
    assert str(path) in refusal(audio.load, path, sample_rate_hz=RATE_HZ).what


@pytest.mark.parametrize("name", ["q" * 300 + ".wav", "zero\0byte.wav"], ids=["long", "zero byte"])
def test_a_path_that_the_system_refuses(tmp_path: Path, name: str) -> None:
    error = refusal(audio.load, tmp_path / name, sample_rate_hz=RATE_HZ)
    assert "cannot be read" in error.what
    assert error.detail


def test_a_path_through_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    assert "cannot be read" in refusal(audio.load, tmp_path / "loop.wav", sample_rate_hz=RATE_HZ).what


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such device")
def test_a_device_is_not_a_file() -> None:
    assert "is not a regular file" in refusal(audio.load, "/dev/null", sample_rate_hz=RATE_HZ).what


@pytest.mark.parametrize(("samples", "is_long_enough"), [(399, False), (400, True)])
def test_one_analysis_window_is_the_least(write: Any, samples: int, is_long_enough: bool) -> None:
    path = write("x.wav", np.full(samples, 0.1))
    if is_long_enough:
        assert len(audio.load(path, sample_rate_hz=RATE_HZ).samples) == samples
    else:
        error = refusal(audio.load, path, sample_rate_hz=RATE_HZ)
        assert "too short: 0.0249375 s" in error.what
        assert "expected at least 0.025 s" in str(error.detail)


def test_samples_that_are_not_finite_are_counted_and_placed(write: Any) -> None:
    frames = np.zeros((RATE_HZ, 2))
    frames[8000, 1], frames[9000, 0], frames[9001] = np.nan, np.inf, -np.inf
    error = refusal(audio.load, write("x.wav", frames, subtype="FLOAT"), sample_rate_hz=RATE_HZ)
    assert "holds 4 samples that are not finite, the first at 0.500 s" in error.what
    assert error.detail == "NaN: 1, Inf: 3, of 32000 samples"


def test_integers_stored_as_floats(write: Any) -> None:
    error = refusal(audio.load, write("x.wav", np.arange(1000.0), subtype="DOUBLE"), sample_rate_hz=RATE_HZ)
    assert "reach 999" in error.what


# ------------------------------------------------------------------ lists


def names(recordings: list[audio.Recording]) -> list[str]:
    return [recording.name for recording in recordings]


def test_globs_are_sorted_and_a_file_is_listed_once(write: Any, tmp_path: Path) -> None:
    for name in ("c.wav", "a.wav", "b.wav", "z.flac"):
        write(name)
    (tmp_path / "folder.wav").mkdir()
    listed = audio.list_clips([f"{tmp_path}/[b]*", f"{tmp_path}/*.wav", f"{tmp_path}/?.flac", f"{tmp_path}/a.wav"])
    assert names(listed) == ["b.wav", "a.wav", "c.wav", "z.flac"]


def test_two_stars_search_below(write: Any, tmp_path: Path) -> None:
    for name in ("a.wav", "one/b.wav", "one/two/c.wav"):
        write(name)
    assert names(audio.list_clips(f"{tmp_path}/**/*.wav")) == ["a.wav", "b.wav", "c.wav"]


def test_a_file_whose_name_looks_like_a_glob(write: Any) -> None:
    assert names(audio.list_clips(str(write("take[1].wav")))) == ["take[1].wav"]


def test_equal_names_get_as_many_parents_as_they_need(write: Any, tmp_path: Path) -> None:
    for name in ("x/1/a.wav", "y/1/a.wav", "y/2/a.wav", "y/2/b.wav"):
        write(name)
    assert names(audio.list_clips(f"{tmp_path}/**/*.wav")) == ["x/1/a.wav", "y/1/a.wav", "y/2/a.wav", "b.wav"]


@pytest.mark.parametrize("patterns", ["*.nope", ["*.wav", "gone/*.wav"]])
def test_a_pattern_that_matches_nothing_is_named(write: Any, tmp_path: Path, patterns: str | list[str]) -> None:
    write("a.wav")
    full = [f"{tmp_path}/{pattern}" for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    assert f"'{full[-1]}'" in refusal(audio.list_clips, full).what


def test_a_pattern_that_matches_folders_only(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert f"'{tmp_path / 'one'}'" in str(refusal(audio.list_clips, f"{tmp_path}/*").detail)


def test_no_pattern_at_all() -> None:
    assert "No audio is given" in refusal(audio.list_clips, []).what


@pytest.mark.parametrize("bad", ["missing", "empty", "text", "short"])
def test_listing_refuses_before_anything_is_decoded(write: Any, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "bad.wav"
    if bad == "short":
        write("bad.wav", np.zeros(100))
    elif bad != "missing":
        path.write_bytes(b"" if bad == "empty" else b"hello")
    assert f"'{path}'" in refusal(audio.list_clips, [str(write("good.wav")), str(path)]).what


def test_clips_are_decoded_one_by_one_and_freed(write: Any, tmp_path: Path) -> None:
    for index in range(5):
        write(f"{index}.wav")
    clips = audio.read(audio.list_clips(f"{tmp_path}/*.wav"), sample_rate_hz=RATE_HZ)
    (tmp_path / "4.wav").unlink()
    first = next(clips)
    freed = weakref.ref(first.samples)
    del first
    assert next(clips).name == "1.wav"
    assert freed() is None
    assert [next(clips).name, next(clips).name] == ["2.wav", "3.wav"]
    assert "4.wav' does not exist" in refusal(next, clips).what


# ------------------------------------------------------------------ manifests


def manifest_of(folder: Path, *lines: Any) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def test_paths_are_relative_to_the_manifest_then_to_the_working_directory(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = write("data/a.wav", np.full(800, 0.25)), write("here/a.wav", np.full(800, 0.75))
    other = write("here/b.wav")
    monkeypatch.chdir(tmp_path / "here")
    manifest = manifest_of(beside.parent, *({"audio_filepath": name} for name in ("a.wav", "b.wav", str(here))))
    found = audio.read_manifest(manifest)
    assert [recording.path.resolve() for recording in found] == [beside, other, here]
    assert names(found) == ["data/a.wav", "b.wav", "here/a.wav"]


def test_a_part_of_a_recording(write: Any, tmp_path: Path) -> None:
    samples = np.arange(16000, dtype=np.int16)
    write("a.wav", samples)
    manifest = manifest_of(tmp_path, {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "text": "two"})
    (clip,) = audio.read(audio.read_manifest(manifest), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(clip.samples, (samples[4000:12000] / 32768).astype(np.float32))
    assert (clip.text, clip.notes) == ("two", ("0.25 s to 0.75 s of 1 s",))


def test_a_rounded_duration_reads_to_the_end_and_a_wrong_one_is_refused(write: Any, tmp_path: Path) -> None:
    write("a.wav")
    for duration_s, fits in ((1.04, True), (1.2, False)):
        recordings = audio.read_manifest(manifest_of(tmp_path, {"audio_filepath": "a.wav", "duration": duration_s}))
        clips = audio.read(recordings, sample_rate_hz=RATE_HZ)
        if fits:
            assert next(clips).duration_s == 1.0
        else:
            assert "from 0 s to 1.2 s lies outside" in refusal(next, clips).what


def test_parts_of_one_file_get_their_offset_and_equal_lines_a_count(write: Any, tmp_path: Path) -> None:
    write("a.wav")
    lines = [{"audio_filepath": "a.wav", "offset": offset, "duration": 0.2} for offset in (0, 0.5, 0.5)]
    assert names(audio.read_manifest(manifest_of(tmp_path, *lines))) == ["a.wav@0s", "a.wav@0.5s#1", "a.wav@0.5s#2"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "is not a JSON object"),
        ({"audio_file_path": "a.wav"}, "no 'audio_filepath'"),
        ({"audio_filepath": 3}, "'audio_filepath' is '3'"),
        ({"audio_filepath": "a.wav", "text": 3}, "'text' is '3'"),
        ({"audio_filepath": "a.wav", "duration": "1.0"}, "'duration' is '1.0'"),
        ({"audio_filepath": "a.wav", "duration": 0}, "'duration' is '0'"),
        ({"audio_filepath": "a.wav", "duration": float("nan")}, "'duration' is 'nan'"),
        ({"audio_filepath": "a.wav", "duration": True}, "'duration' is 'True'"),
        ({"audio_filepath": "a.wav", "offset": -1}, "'offset' is '-1'"),
        ({"audio_filepath": "gone.wav"}, "does not exist"),
        ({"audio_filepath": "zero\0byte.wav"}, "cannot be read"),
        ({"audio_filepath": "."}, "is a folder"),
        ({"audio_filepath": "manifest.jsonl"}, "is not audio"),
    ],
)
def test_a_bad_line_is_named_by_its_number(write: Any, tmp_path: Path, line: Any, expected: str) -> None:
    write("a.wav")
    manifest = manifest_of(tmp_path, {"audio_filepath": "a.wav"}, "", line)
    error = refusal(audio.read_manifest, manifest)
    assert expected in error.what
    assert error.where == f"{manifest}, line 3"


def test_the_nearest_key_is_suggested(tmp_path: Path) -> None:
    error = refusal(audio.read_manifest, manifest_of(tmp_path, {"audio_file_path": "a.wav"}))
    assert "did you mean 'audio_file_path'?" in str(error.detail)


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "is empty"), (b"\n\n", "has no lines"), (b"RIFF\xff\xfe", "is not UTF-8")]
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "m.jsonl").write_bytes(content)
    assert expected in refusal(audio.read_manifest, tmp_path / "m.jsonl").what


def test_a_missing_manifest(tmp_path: Path) -> None:
    assert "does not exist" in refusal(audio.read_manifest, tmp_path / "m.jsonl").what


@settings(max_examples=40, deadline=None)
@given(
    entries=st.lists(
        st.tuples(
            st.text(string.ascii_letters + string.digits + " äé日[]*?", min_size=1, max_size=12).map(str.strip),
            st.none() | st.text(max_size=20),
            st.none() | st.floats(0, 0.5),
            st.none() | st.floats(0.1, 0.5),
        ).filter(lambda entry: bool(entry[0])),
        min_size=1,
        max_size=5,
        unique_by=lambda entry: entry[0].casefold(),
    )
)
def test_what_is_written_to_a_manifest_is_read_from_it(tmp_path_factory: Any, entries: Any) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    lines = []
    for name, text, offset_s, duration_s in entries:
        soundfile.write(folder / f"{name}.wav", np.zeros(RATE_HZ), RATE_HZ)
        line = {"audio_filepath": f"{name}.wav", "text": text, "offset": offset_s, "duration": duration_s}
        lines.append({key: value for key, value in line.items() if value is not None})
    found = audio.read_manifest(manifest_of(folder, *lines))
    assert [(r.name, r.text, r.offset_s, r.duration_s) for r in found] == [
        (f"{name}.wav", text, offset_s or 0.0, duration_s) for name, text, offset_s, duration_s in entries
    ]


# ------------------------------------------------------------------ the clips of the repository


def test_the_manifest_of_the_repository_describes_its_clips() -> None:
    recordings = audio.read_manifest(AUDIO_FOLDER / "manifest.jsonl")
    assert names(recordings) == names(audio.list_clips(f"{AUDIO_FOLDER}/*.wav"))
    assert len(recordings) >= 12
    for recording in recordings:
        info = soundfile.info(recording.path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE_HZ, 1, "PCM_16")
        assert info.duration == recording.duration_s
        assert recording.text


def test_the_clips_hold_the_cases_they_are_there_for() -> None:
    recordings = audio.list_clips(f"{AUDIO_FOLDER}/*.wav")
    clips = {clip.name: clip for clip in audio.read(recordings, sample_rate_hz=RATE_HZ)}
    assert all(clip.notes == () for clip in clips.values())
    assert clips["five_sentences.wav"].duration_s > 10
    assert not clips["leading_silence.wav"].samples[:RATE_HZ].any()
    quiet = clips["quiet_trailing_silence.wav"].samples
    assert np.abs(quiet).max() < 0.1
    assert np.abs(quiet[-RATE_HZ:]).max() < 1e-3
