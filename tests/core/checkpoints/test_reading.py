import json
import random
from pathlib import Path

import pytest
import torch

from sae_core.checkpoints import load
from sae_core.checkpoints.reading import listed, read_json, read_pickle, read_safetensors
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import assert_refused, copy_of, edit_json, edit_tensors


def test_a_config_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "cfg.json"
    path.write_text('{"k": 32}', encoding="utf-8-sig")
    assert read_json(path) == {"k": 32}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"W_enc": torch.ones(3, 3).to_sparse()}, "W_enc in a form other than plain numbers"),
        ({"W_enc": torch.ones(3, 3, device="meta")}, "W_enc in a form other than plain numbers"),
        ({0: torch.ones(3), "W_dec": torch.ones(3)}, "no dictionary of tensors by name"),
        ({"W_enc": torch.ones(1).expand(10**9)}, "tensors larger than the file"),
    ],
)
def test_a_pickle_of_anything_but_plain_tensors_is_refused(
    tmp_path: Path, content: dict[object, torch.Tensor], message: str
) -> None:
    torch.save(content, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match=message):
        read_pickle(tmp_path / "ae.pt")


@pytest.mark.parametrize(
    ("case", "leaf", "name"),
    [
        ("dictionary_learning-topk", "", "ae.pt"),
        ("gemma_scope-jumprelu", "layer_3/width_16k/average_l0_20", "params.npz"),
        ("sparsify-topk", "layers.3", "sae.safetensors"),
    ],
)
def test_changed_bytes_are_refused_or_read(tmp_path: Path, case: str, leaf: str, name: str) -> None:
    """Bytes of the parsers' own structures: their errors are of many kinds, and none reaches the user as ours."""
    folder = copy_of(case, tmp_path, leaf=leaf)
    whole = (folder / name).read_bytes()
    chance = random.Random(0)  # the same damage each time
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        (folder / name).write_bytes(content)
        try:
            load(folder)
        except CheckpointError as error:
            assert len(str(error)) < 1000
            assert "\n" not in str(error)


def test_of_many_unknown_tensors_a_few_are_named(tmp_path: Path) -> None:
    folder = copy_of("sparsify-topk", tmp_path, leaf="layers.3")
    edit_tensors(folder / "sae.safetensors", **{f"extra_{number:04}": torch.ones(1) for number in range(5000)})
    assert len(read_safetensors(folder / "sae.safetensors")) > 5000
    with pytest.raises(CheckpointError, match=r"holds extra_0000, .*extra_0019 and 4980 more too"):
        load(folder)
    assert listed(["a" * 100, "b"]) == "a" * 79 + "…, b"


@pytest.mark.parametrize("k", [-5, 0, 1000, 2**31, 10**30])
def test_a_k_that_nothing_is_computed_with_is_checked_too(tmp_path: Path, k: int) -> None:
    """It is shown, and stored in a column of 32 bits."""
    saelens = copy_of("saelens-jumprelu", tmp_path / "saelens")
    edit_json(saelens / "cfg.json", k=k)
    assert_refused(saelens, f"k is {k}, ")
    dictionary = copy_of("dictionary_learning-jumprelu", tmp_path / "dictionary")
    trainer = json.loads((dictionary / "config.json").read_text())["trainer"]
    edit_json(dictionary / "config.json", trainer=trainer | {"k": k})
    assert_refused(dictionary, f"k is {k}, ")


@pytest.mark.parametrize(
    ("case", "file", "name"),
    [
        ("saelens-standard", "cfg.json", "apply_b_dec_to_input"),
        ("saelens-topk-rescaled", "cfg.json", "rescale_acts_by_decoder_norm"),
        ("sparsify-topk", "layers.3/cfg.json", "transcode"),
        ("sparsify-topk", "layers.3/cfg.json", "skip_connection"),
        ("llama_scope-jumprelu", "hyperparams.json", "apply_decoder_bias_to_pre_encoder"),
        ("gemma_scope_2-jumprelu", "resid_post/layer_3_width_16k_l0_small/config.json", "affine_connection"),
    ],
)
def test_what_is_true_or_false_is_no_text(tmp_path: Path, case: str, file: str, name: str) -> None:
    path = copy_of(case, tmp_path, leaf=file)
    edit_json(path, **{name: "false"})
    assert_refused(path.parent, f"{name} is 'false', not true or false")
