"""Reading GGUF files quickly gives what `gguf` and `transformers` give by themselves."""

import gc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from sae_core.models import LanguageModel, gguf_files, load_model
from sae_core.models.gguf_files import FastReader, dequantize, parse_value, read_once
from tests.tiny import tiny_gguf


@pytest.mark.parametrize("quantised", [None, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0])
def test_the_converted_model_is_equal_to_the_bit_to_what_transformers_reads(
    tmp_path: Path, quantised: gguf.GGMLQuantizationType | None
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", quantised=quantised)
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=file.name, dtype=torch.float32)
    AutoTokenizer.from_pretrained(str(tmp_path), gguf_file=file.name).save_pretrained(tmp_path / "plain")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(tmp_path / "plain")

    ours = load_model(file, device="cpu", cache=tmp_path / "cache")

    again = load_model(file, device="cpu", cache=tmp_path / "cache")  # from the folder that the first load made
    ids = torch.tensor([ours.tokenize("It was the best of times")])
    for read in (ours, again):
        loaded = read.hf_model.state_dict()
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
        assert not read.hf_model.training
        assert torch.equal(read.logits(ids), ours.logits(ids))
    assert _config(ours) == _config(again)
    assert (ours.tokenizer_sha256, ours.special_token_ids) == (again.tokenizer_sha256, again.special_token_ids)
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert _files(folder) == _files(tmp_path / "plain")


def test_a_model_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    mapped: list[object] = []
    name_map = gguf.get_tensor_name_map

    class Counted(FastReader):
        def __init__(self, path: str | Path) -> None:
            read.append(path)
            super().__init__(path)

    def counted(*of: Any) -> Any:
        mapped.append(of)
        return name_map(*of)

    monkeypatch.setattr(gguf_files, "FastReader", Counted)
    monkeypatch.setattr(gguf, "get_tensor_name_map", counted)
    load_model(tiny_gguf(tmp_path / "tiny.gguf"), device="cpu")
    assert (len(read), len(mapped)) == (1, 1 + 1)  # one of them writes the file
    assert gguf.GGUFReader is GGUFReader
    assert gguf.get_tensor_name_map is counted
    assert gguf.dequantize is gguf.quants.dequantize
    assert modeling_gguf_pytorch_utils._gguf_parse_value is not parse_value
    assert gc.isenabled()


@pytest.mark.parametrize("kind", list(gguf.quants._type_traits), ids=lambda kind: kind.name)
@pytest.mark.parametrize("leading", [(), (37,), (2, 5)])
def test_weights_are_dequantised_as_gguf_does(
    kind: GGMLQuantizationType, leading: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    monkeypatch.setattr(gguf_files, "_CHUNK", 9 * block)  # four rows of two blocks, and the last chunk has one
    data = np.random.default_rng(0).integers(0, 256, (*leading, 2 * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        ours, theirs = dequantize(data, kind), gguf.dequantize(data, kind)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


def test_every_kind_of_field_is_what_gguf_reads(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "fields.gguf", "llama")
    writer.add_array("words", ["", "naïve", "a" * 1000, "日本"])
    writer.add_array("whole", [1, -2, 3])
    writer.add_array("real", [0.5, -1e30])
    writer.add_array("flags", [True, False])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_string("word", "alone")
    writer.add_uint64("number", 2**40)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = FastReader(tmp_path / "fields.gguf"), GGUFReader(tmp_path / "fields.gguf")
    assert ours.fields.keys() == theirs.fields.keys()
    for name, field in theirs.fields.items():
        assert ours.fields[name].types == field.types
        assert _values(ours.fields[name]) == _values(field)
        parse = modeling_gguf_pytorch_utils._gguf_parse_value
        parsed = [parse(field.parts[index], field.types) for index in field.data if name != "nested"]
        quickly = [parse_value(ours.fields[name].parts[index], field.types) for index in field.data if name != "nested"]
        assert quickly == parsed


def test_what_is_kept_is_dropped_where_reading_fails() -> None:
    with pytest.raises(OSError, match="nowhere"), read_once():
        gguf.GGUFReader("/nowhere")
    assert gguf.GGUFReader is GGUFReader


def _config(model: LanguageModel) -> dict[str, Any]:
    config: dict[str, Any] = model.hf_model.config.to_dict()
    del config["_name_or_path"]
    return config


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _values(field: gguf.ReaderField) -> list[bytes]:
    return [bytes(field.parts[index]) for index in field.data]
