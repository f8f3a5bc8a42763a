#!/usr/bin/env python3
"""Makes tests/data/io with the PyPI packages safetensors and gguf, and checks with them what our writer wrote.

    io_fixtures.py          writes the fixtures
    io_fixtures.py --check  reads tests/data/io/written.safetensors, which `test_io` compares with our writer's output
                            (to renew it, copy the file that the failing test names)
Tested with numpy 2.4, safetensors 0.8, gguf 0.19.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
import safetensors
import safetensors.numpy

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "io"


def write_safetensors():
    tensors = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3) / 2,
        "f16": np.array([1, -2, 0.5], dtype=np.float16),
        "i64": np.array([-1, 2**40], dtype=np.int64),
        "u8": np.array([7], dtype=np.uint8),
        "bool": np.array([True, False, True]),
        "scalar": np.array(2.5, dtype=np.float64),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "näme": np.array([1], dtype=np.int32),
    }
    safetensors.numpy.save_file(tensors, DATA / "pypi.safetensors", metadata={"format": "np", "note": 'a "quoted" text'})
    shards = DATA / "sharded"
    shards.mkdir(exist_ok=True)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    safetensors.numpy.save_file({"a": np.arange(4, dtype=np.float32)}, shards / names[0], metadata={"format": "pt"})
    safetensors.numpy.save_file({"b": np.arange(3, dtype=np.int16), "c": np.ones((2, 2), dtype=np.float16)}, shards / names[1])
    index = {"metadata": {"total_size": 30, "more": [1, {"x": None}]}, "weight_map": {"c": names[1], "a": names[0], "b": names[1]}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def fill(writer):
    """All value types, and tensors of plain and of block types."""
    writer.add_uint8("v.u8", 255)
    writer.add_int8("v.i8", -128)
    writer.add_uint16("v.u16", 65535)
    writer.add_int16("v.i16", -32768)
    writer.add_uint32("v.u32", 4294967295)
    writer.add_int32("v.i32", -2147483648)
    writer.add_uint64("v.u64", 2**64 - 1)
    writer.add_int64("v.i64", -(2**63))
    writer.add_float32("v.f32", 1e-5)
    writer.add_float64("v.f64", 0.1)
    writer.add_bool("v.true", True)
    writer.add_bool("v.false", False)
    writer.add_string("v.string", "Grüße")
    writer.add_array("a.strings", ["<s>", "", "▁the", "line\nbreak"])
    writer.add_array("a.i32", [3, -4, 5])
    writer.add_array("a.f32", [0.5, -1.25])
    writer.add_array("a.bools", [True, False])
    writer.add_tensor("plain", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("half", np.arange(4, dtype=np.float16))
    blocks = gguf.quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)


def write_gguf(path, alignment=None, **options):
    writer = gguf.GGUFWriter(path, "llama", **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_ggufs():
    write_gguf(DATA / "pypi.gguf")
    write_gguf(DATA / "aligned64.gguf", alignment=64)
    write_gguf(DATA / "big_endian.gguf", endianess=gguf.GGUFEndian.BIG)
    data = bytearray((DATA / "pypi.gguf").read_bytes())
    data[4:8] = (2).to_bytes(4, "little")  # version 2 differs from 3 in nothing but this number and the lack of big endian
    (DATA / "version2.gguf").write_bytes(data)
    gguf.GGUFReader(DATA / "version2.gguf")
    write_gguf(DATA / "split.gguf", split_max_tensors=1)
    assert len(list(DATA.glob("split-*-of-00003.gguf"))) == 3


def check_written():
    """The list is that of tests/io/safetensors_writer_test.cpp."""
    path = DATA / "written.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "quote": '"\\\n'}, file.metadata()
        assert set(file.keys()) == {"weight", "bias", "vide", "scale"}
        weight = file.get_tensor("weight")
        assert weight.dtype == np.float32 and weight.shape == (4, 8) and (weight.ravel() == np.arange(32)).all()
        assert file.get_tensor("bias").dtype == np.int16 and file.get_tensor("bias").tolist() == [-1, 0, 1]
        vide = file.get_slice("vide")  # numpy has no bfloat16
        assert vide.get_dtype() == "BF16" and vide.get_shape() == [0, 2]
        assert file.get_tensor("scale").shape == () and file.get_tensor("scale") == 0.5
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + length) % 64 == 0
    print("written.safetensors reads well")


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    if sys.argv[1:] == ["--check"]:
        check_written()
    else:
        write_safetensors()
        write_ggufs()
