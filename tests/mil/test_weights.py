"""`weight.bin`: records written here by the description of the format, then read, damaged and cut."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerdiff.errors import PackageError, UnsupportedOpError
from layerdiff.mil.weights import DTYPES, WeightFile, bits_per_value, size_in_bytes, unpack

CODES = {name: code for code, name in DTYPES.items()}


def written(path: Path, *arrays: np.ndarray) -> list[int]:
    """Writes a weight file; the offsets of the records."""
    content, offsets = bytearray(struct.pack("<II56x", len(arrays), 2)), []
    for array in arrays:
        content += bytes(-len(content) % 64)
        offsets.append(len(content))
        content += struct.pack("<IIQQQ32x", 0xDEADBEEF, CODES[str(array.dtype)], array.nbytes, len(content) + 64, 0)
        content += array.tobytes()
    path.write_bytes(content)
    return offsets


@pytest.fixture
def two(tmp_path) -> tuple[Path, list[int], list[np.ndarray]]:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1.5, -2, 6e-8], np.float16)]
    path = tmp_path / "weight.bin"
    return path, written(path, *arrays), arrays


def test_arrays_come_back_as_views_of_the_file(two):
    path, offsets, arrays = two
    file = WeightFile(path)
    for offset, array in zip(offsets, arrays, strict=True):
        read = file.array(offset, str(array.dtype), array.shape)
        np.testing.assert_array_equal(read, array)
        assert read.base is not None
        assert read.dtype == array.dtype
    assert [record.offset for record in file.records()] == offsets


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["float16", "float32", "int8", "uint8", "int16", "int32"]), st.integers(1, 90)),
        min_size=1,
        max_size=6,
    )
)
def test_any_sequence_of_blobs_is_found_again(tmp_path, blobs):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-100, 100, size).astype(dtype) for dtype, size in blobs]
    offsets = written(tmp_path / "weight.bin", *arrays)
    file = WeightFile(tmp_path / "weight.bin")
    assert [(r.offset, r.dtype, r.size_bytes) for r in file.records()] == [
        (o, str(a.dtype), a.nbytes) for o, a in zip(offsets, arrays, strict=True)
    ]
    for offset, array in zip(offsets, arrays, strict=True):
        np.testing.assert_array_equal(file.array(offset, str(array.dtype), array.shape), array)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 100, 127, 128, 151])
def test_a_truncated_file_names_both_sizes(two, length):
    path, offsets, arrays = two
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(PackageError, match=r"weight.bin' is truncated") as raised:
        WeightFile(path).array(offsets[0], "float32", arrays[0].shape)
    assert f"got {length}" in str(raised.value)
    assert "expected at least" in str(raised.value)


def test_a_blob_cut_at_its_last_byte_is_refused(two):
    path, offsets, arrays = two
    path.write_bytes(path.read_bytes()[:-1])
    file = WeightFile(path)
    file.check(offsets[0], "float32", arrays[0].shape)
    with pytest.raises(PackageError, match="truncated"):
        file.check(offsets[1], "float16", arrays[1].shape)
    with pytest.raises(PackageError, match="truncated"):
        file.records()


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, struct.pack("<I", 0xDEADBEEE), "no record at offset '64'"),
        (4, struct.pack("<I", 99), "unknown dtype '99'"),
        (8, struct.pack("<Q", 2**63), "truncated"),
        (8, struct.pack("<Q", 20), "does not hold what the program declares"),
        (16, struct.pack("<Q", 0), "places its data at '0'"),
        (16, struct.pack("<Q", 2**62), "truncated"),
    ],
)
def test_a_damaged_record_is_refused(two, position, value, message):
    path, offsets, arrays = two
    content = bytearray(path.read_bytes())
    content[offsets[0] + position : offsets[0] + position + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(PackageError, match=message):
        WeightFile(path).array(offsets[0], "float32", arrays[0].shape)


@pytest.mark.parametrize("offset", [0, 1, 96, 2**40, 128])
def test_an_offset_that_is_no_record_is_refused(two, offset):
    path, _, _ = two
    with pytest.raises(PackageError):
        WeightFile(path).record(offset)


def test_another_version_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "weight.bin"
    with pytest.raises(PackageError, match="cannot be read"):
        WeightFile(path)
    path.write_bytes(struct.pack("<II56x", 0, 1))
    with pytest.raises(PackageError, match="version '1'"):
        WeightFile(path)


@pytest.mark.parametrize(("dtype", "width"), [("uint1", 1), ("uint2", 2), ("uint3", 3), ("uint4", 4), ("uint6", 6)])
def test_sub_byte_values_are_a_little_endian_bit_stream(dtype, width):
    values = np.random.default_rng(0).integers(0, 2**width, 21)
    stream = sum(int(v) << (i * width) for i, v in enumerate(values))
    raw = np.frombuffer(stream.to_bytes(size_in_bytes(dtype, (21,)), "little"), np.uint8)
    np.testing.assert_array_equal(unpack(raw, dtype, 21), values)


def test_int4_keeps_its_sign():
    values = np.arange(-8, 8)
    stream = sum((int(v) & 15) << (4 * i) for i, v in enumerate(values))
    read = unpack(np.frombuffer(stream.to_bytes(8, "little"), np.uint8), "int4", 16)
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.int8


def test_an_unknown_dtype_is_unsupported():
    with pytest.raises(UnsupportedOpError, match="float8_e5m2"):
        bits_per_value("float8_e5m2")
