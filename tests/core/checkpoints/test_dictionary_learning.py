import json
import os
import pickle

import pytest
import torch

from sae_core.checkpoints import dictionary_learning, load
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import (
    EXAMPLES,
    METADATA,
    X,
    assert_computes,
    assert_refused,
    assert_same,
    copy_of,
    edit_json,
    keep_largest,
)

WRITABLE = [
    "standard-autoencoder",
    "standard-off-centre",
    "standard-unit-rows",
    "standard-off-centre-unit-rows",
    "jumprelu-autoencoder",
    "jumprelu-off-centre",
    "topk-autoencoder",
    "topk-off-centre",
    "gated-autoencoder",
    "batchtopk-autoencoder",
    "matryoshka-autoencoder",
]
EXACT = ["standard-unit-rows", "jumprelu-off-centre", "topk-autoencoder"]


def dictionary_forward(folder, x):
    """What `load_dictionary` and the class it loads compute, written out from the package's source."""
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    w = torch.load(folder / "ae.pt", weights_only=True)
    if name == "JumpReluAutoEncoder":
        assert set(w) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
        pre = x @ w["W_enc"] + w["b_enc"]
        f = (pre * (pre > w["threshold"])).relu()
        return f, f @ w["W_dec"] + w["b_dec"]
    encoder, decoder, bias = w.pop("encoder.weight").T, w.pop("decoder.weight").T, w.pop("encoder.bias")
    if name == "AutoEncoderNew":
        assert set(w) == {"decoder.bias"}
        f = (x @ encoder + bias).relu()
        return f, f @ decoder + w["decoder.bias"]
    if name == "AutoEncoder":
        assert set(w) == {"bias"}
        norms = decoder.norm(dim=1)
        f = ((x - w["bias"]) @ encoder + bias).relu() * norms
        return f, f @ (decoder / norms[:, None]) + w["bias"]
    assert name == "AutoEncoderTopK"
    assert set(w) == {"b_dec", "k", "threshold"}
    assert w["k"].shape == w["threshold"].shape == ()
    f = keep_largest(((x - w["b_dec"]) @ encoder + bias).relu(), int(w["k"]))
    return f, f @ decoder + w["b_dec"]


@pytest.mark.parametrize("name", WRITABLE)
def test_the_package_computes_what_we_do(tmp_path, name):
    dictionary_learning.write(EXAMPLES[name], tmp_path, METADATA)
    assert_computes(EXAMPLES[name].for_inference(), *dictionary_forward(tmp_path, X))


@pytest.mark.parametrize("name", WRITABLE)
def test_a_written_sae_is_read_again(tmp_path, name):
    sae = EXAMPLES[name].for_inference()
    dictionary_learning.write(sae, tmp_path, METADATA)
    read = load(tmp_path)
    assert read.format == "dictionary_learning"
    assert read.metadata == METADATA
    assert_computes(read.sae, sae.encode(X), sae(X))


@pytest.mark.parametrize("name", EXACT)
def test_the_round_trip_is_exact_if_nothing_is_folded(tmp_path, name):
    sae = EXAMPLES[name].for_inference()
    dictionary_learning.write(sae, tmp_path, METADATA)
    assert_same(load(tmp_path).sae, sae)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.3.hook_resid_post", ("resid_post_layer_3", 3, "out")),
        ("blocks.3.hook_resid_pre", ("resid_post_layer_3", 3, "in")),
        ("blocks.3.mlp.hook_out", ("mlp_layer_3", 3, "out")),
        ("blocks.11.attn.hook_z", ("blocks.11.attn.hook_z", 11, "out")),
        ("hook_embed", ("hook_embed", None, "out")),
        (None, (None, None, "out")),
    ],
)
def test_the_config_says_where_the_sae_reads(tmp_path, hook, said):
    dictionary_learning.write(EXAMPLES["topk-autoencoder"], tmp_path, {**METADATA, "hook_name": hook})
    config = json.loads((tmp_path / "config.json").read_text())
    trainer, buffer = config["trainer"], config["buffer"]
    assert (trainer["submodule_name"], trainer["layer"], buffer["io"]) == said
    assert trainer["lm_name"] == "EleutherAI/pythia-70m-deduped"
    assert buffer["ctx_len"] == 128
    edit_json(tmp_path / "config.json", metadata=None)  # as the package itself writes it
    assert load(tmp_path).metadata.get("hook_name") == hook


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("standard-transcoder", "has no transcoders. Export this one as saelens"),
        ("topk-layer-norm", "cannot normalise"),
    ],
)
def test_saes_without_a_class_in_the_format_are_not_written(tmp_path, name, message):
    with pytest.raises(CheckpointError, match=message):
        dictionary_learning.write(EXAMPLES[name], tmp_path, METADATA)
    assert not any(tmp_path.iterdir())


def trainer(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        edit_json(folder / "config.json", trainer=config["trainer"] | changes)

    return damage


def tensors(**changes):
    """Dots of names are written `__`; None removes a tensor."""

    def damage(folder):
        state = torch.load(folder / "ae.pt", weights_only=True)
        state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
        torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, folder / "ae.pt")

    return damage


class RunsCode:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "ae.pt").unlink(), "holds no ae.pt"),
        (lambda folder: (folder / "ae.pt").write_bytes(b""), "cannot be read: it ends too early"),
        (lambda folder: (folder / "ae.pt").write_bytes(b"not a pickle"), "cannot be read: it is not what torch.save"),
        (lambda folder: os.truncate(folder / "ae.pt", 500), "ae.pt cannot be read"),
        (lambda folder: torch.save([1], folder / "ae.pt"), "no dictionary of tensors"),
        (lambda folder: torch.save({"a": RunsCode()}, folder / "ae.pt"), "a pickle that runs code when it is read"),
        (lambda folder: torch.save(torch.nn.Linear(6, 12), folder / "ae.pt"), "a pickle that runs code"),
        (lambda folder: (folder / "ae.pt").write_bytes(pickle.dumps(RunsCode(), protocol=2)), "runs code"),
        (lambda folder: edit_json(folder / "config.json", trainer="?"), "dict_class is None"),
        (
            trainer(dict_class="CrossCoder"),
            "dict_class is 'CrossCoder', which cannot be read. Give one of AutoEncoder,",
        ),
        (trainer(dict_class=["AutoEncoderTopK"]), "dict_class is"),
        (trainer(dict_class="BatchTopKSAE"), None),
        (trainer(dict_class="MatryoshkaBatchTopKSAE"), "holds no matrix W_enc"),
        (trainer(dict_class="GatedAutoEncoder"), "holds no gate_bias"),
        (trainer(dict_size=13), r"encoder.weight with shape \[12, 6\] where \[13, 6\] is expected"),
        (trainer(activation_dim="6"), "activation_dim is '6'"),
        (trainer(k=4), "k is 4, but ae.pt says 3"),
        (trainer(k=13), "k is 13, more than its 12 features"),
        (tensors(encoder__weight=torch.ones(72)), "holds no matrix encoder.weight"),
        (tensors(encoder__weight=None), "holds no matrix encoder.weight"),
        (tensors(decoder__weight=torch.ones(5, 12)), r"decoder.weight with shape \[5, 12\] where \[6, 12\]"),
        (tensors(b_dec=torch.full((6,), torch.nan)), "NaN or infinite values in b_dec"),
        (tensors(b_dec="?"), "holds no b_dec"),
        (tensors(bias=torch.ones(6)), "holds bias too"),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = copy_of("dictionary_learning-topk", tmp_path)
    damage(folder)
    if message is None:  # the two classes have the same tensors
        assert load(folder).sae.architecture == "jumprelu"
    else:
        assert_refused(folder, message)


def test_a_threshold_of_many_numbers_is_refused(tmp_path):
    folder = copy_of("dictionary_learning-batchtopk", tmp_path)
    tensors(threshold=torch.ones(12))(folder)
    assert_refused(folder, "holds no threshold, or more than one")


def test_a_config_without_submodule_means_the_residual_stream(tmp_path):
    folder = copy_of("dictionary_learning-jumprelu", tmp_path)
    trainer(submodule_name=None)(folder)
    checkpoint = load(folder)
    assert checkpoint.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert checkpoint.notes == ["The config names no submodule; it was taken to be the output of layer 3."]
    edit_json(folder / "config.json", buffer=None)
    assert "context_size" not in load(folder).metadata
