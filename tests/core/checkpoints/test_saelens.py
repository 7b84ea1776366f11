import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.checkpoints import saelens
from sae_core.errors import CheckpointError
from sae_core.saes import SAE, BatchTopK, JumpReLU, Standard, TopK
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

METADATA = {
    "model_name": "smollm2-135m",
    "hook_name": "blocks.9.hook_resid_post",
    "context_size": 128,
    "prepend_bos": True,
    "seesae": {"training": {"samples": 1000}},
}
X = 5 + 3 * torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def trained(cls, config):
    """An SAE whose parameters are all different from zero."""
    sae = cls(config)
    sae.initialise(X, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).abs())
    sae.losses(X * sae.input_scale, torch.tensor([], dtype=torch.long), 1.0)
    return sae


ALL = {
    "standard": trained(Standard, StandardConfig(d_in=6, d_sae=20)),
    "topk": trained(TopK, TopKConfig(d_in=6, d_sae=20, k=3)),
    "batchtopk": trained(BatchTopK, TopKConfig(d_in=6, d_sae=20, k=3)),
}


def saelens_forward(folder, x):
    """What SAELens 6 computes from a folder, written out from its source: features and reconstruction."""
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    pre = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    norms = w["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(config["d_sae"])
    pre = pre * norms
    f = pre.relu()
    if config["architecture"] == "jumprelu":
        f = f * (pre > w["threshold"])
    if config["architecture"] == "topk":
        largest = f.topk(config["k"], dim=1)
        f = torch.zeros_like(f).scatter(1, largest.indices, largest.values)
    return f, (f / norms) @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("name", ALL)
def test_saelens_computes_what_we_do(tmp_path, name):
    ALL[name].save(tmp_path, METADATA)
    inference = ALL[name].for_inference()
    f, reconstruction = saelens_forward(tmp_path, X)
    torch.testing.assert_close(inference.encode(X), f)
    torch.testing.assert_close(inference(X), reconstruction)


@pytest.mark.parametrize("name", ALL)
def test_round_trip_is_exact(tmp_path, name):
    ALL[name].save(tmp_path, METADATA)
    inference, read = ALL[name].for_inference(), SAE.load(tmp_path)
    assert type(read) is type(inference)
    assert read.k == inference.k
    for key, tensor in inference.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor), key
    assert read.W_enc.stride() == inference.W_enc.stride()


def test_what_the_config_says(tmp_path):
    ALL["topk"].save(tmp_path / "topk", METADATA)
    config = saelens.read_config(tmp_path / "topk")
    sha256 = config["metadata"]["seesae"].pop("weights_sha256")
    assert len(sha256) == 64
    assert config == {
        "architecture": "topk",
        "d_in": 6,
        "d_sae": 20,
        "k": 3,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": METADATA,
    }
    ALL["batchtopk"].save(tmp_path / "batchtopk", METADATA)
    assert saelens.read_config(tmp_path / "batchtopk")["architecture"] == "jumprelu"
    weights = load_file(tmp_path / "batchtopk" / "sae_weights.safetensors")
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == {
        "W_enc": [6, 20],
        "b_enc": [20],
        "W_dec": [20, 6],
        "b_dec": [6],
        "threshold": [20],
    }


def foreign(folder, architecture, *, dtype=torch.float32, **config):
    """A folder as SAELens itself would write it: no hash, decoder rows of any norm."""
    generator = torch.Generator().manual_seed(4)
    shapes = {"W_enc": (6, 20), "b_enc": (20,), "W_dec": (20, 6), "b_dec": (6,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (20,)
    weights = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    plain = {"architecture": architecture, "d_in": 6, "d_sae": 20, "apply_b_dec_to_input": True, "metadata": {}}
    (folder / "cfg.json").write_text(json.dumps(plain | config))
    return folder


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("standard", {"apply_b_dec_to_input": False}),
        ("jumprelu", {"apply_b_dec_to_input": False, "normalize_activations": "none"}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    ],
)
def test_what_saelens_computes_as_it_runs_is_folded_in(tmp_path, architecture, config):
    folder = foreign(tmp_path / "sae", architecture, **config)
    sae = SAE.load(folder)
    f, reconstruction = saelens_forward(folder, X)
    torch.testing.assert_close(sae.encode(X), f.clamp(min=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(X), reconstruction, rtol=1e-4, atol=1e-4)


def test_half_precision_is_read_as_float32(tmp_path):
    sae = SAE.load(foreign(tmp_path / "sae", "jumprelu", dtype=torch.bfloat16))
    assert isinstance(sae, JumpReLU)
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}


def edit_config(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def edit_weights(folder, **changes):
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(
        {key: tensor for key, tensor in (weights | changes).items() if tensor is not None},
        folder / "sae_weights.safetensors",
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cfg.json").unlink(), "holds no cfg.json"),
        (lambda folder: (folder / "cfg.json").write_text("{"), "cfg.json cannot be read"),
        (lambda folder: (folder / "cfg.json").write_bytes(b"\xff\xfe{}"), "cfg.json cannot be read"),
        (lambda folder: (folder / "cfg.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "sae_weights.safetensors").unlink(), "holds no sae_weights.safetensors"),
        (lambda folder: (folder / "sae_weights.safetensors").write_bytes(b"not tensors"), "cannot be read"),
        (lambda folder: edit_config(folder, architecture="gated"), "architecture 'gated'"),
        (lambda folder: edit_config(folder, architecture="batchtopk"), "standard, topk, jumprelu"),
        (lambda folder: edit_config(folder, architecture=["topk"]), "cannot be read"),
        (lambda folder: edit_config(folder, d_sae=21), r"W_enc with shape \[6, 20\] where .* says \[6, 21\]"),
        (lambda folder: edit_config(folder, d_in="6"), "d_in is '6'"),
        (lambda folder: edit_config(folder, d_in=True), "d_in is True"),
        (lambda folder: edit_config(folder, d_sae=-1), "d_sae is -1"),
        (lambda folder: edit_config(folder, architecture="topk"), "k is None"),
        (lambda folder: edit_config(folder, d_out=12), "transcoder"),
        (lambda folder: edit_config(folder, normalize_activations="layer_norm"), "layer_norm"),
        (lambda folder: edit_config(folder, d_sae=10**15), r"says \[6, 1000000000000000\]"),
        (lambda folder: edit_config(folder, metadata={"seesae": {"weights_sha256": "0"}}), "not the file"),
        (lambda folder: edit_weights(folder, threshold=None), "holds no threshold"),
        (lambda folder: edit_weights(folder, b_enc=torch.full((20,), torch.nan)), "NaN or infinite values in b_enc"),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = foreign(tmp_path / "sae", "jumprelu")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        SAE.load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("metadata", [None, {"seesae": "?"}, {}])
def test_metadata_of_any_shape_is_no_obstacle(tmp_path, metadata):
    folder = foreign(tmp_path / "sae", "jumprelu", metadata=metadata)
    assert SAE.load(folder).d_sae == 20


def test_a_write_that_was_cut_short_is_noticed(tmp_path):
    ALL["topk"].save(tmp_path, METADATA)
    other = {name: tensor * 2 for name, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    save_file(other, tmp_path / "sae_weights.safetensors")  # as if killed before the config was written
    with pytest.raises(CheckpointError, match=r"not the file that cfg\.json was written with"):
        SAE.load(tmp_path)
