import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.checkpoints import load, load_sae, save_sae
from sae_core.errors import CheckpointError
from sae_core.saes import JumpReLU, TopK
from sae_core.saes.standard import Standard, StandardConfig
from sae_core.saes.topk import TopKConfig
from tests.core.checkpoints.cases import CONFIGS, case
from tests.core.checkpoints.examples import (
    EXAMPLES,
    FIXTURES,
    METADATA,
    X,
    assert_computes,
    assert_refused,
    assert_same,
    copy_of,
    edit_json,
    edit_tensors,
    keep_largest,
)


def saelens_forward(folder, x):
    """What SAELens 6 computes from a folder, written out from its source: features and reconstruction."""
    config, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae_weights.safetensors")
    y, mean, scale = x, 0.0, 1.0
    if config["normalize_activations"] == "layer_norm":
        mean = x.mean(dim=1, keepdim=True)
        scale = (x - mean).std(dim=1, keepdim=True)
        y = (x - mean) / (scale + 1e-5)
    if config["normalize_activations"] == "constant_norm_rescale":
        scale = x.norm(dim=1, keepdim=True) / config["d_in"] ** 0.5
        y = x / scale
    if config["apply_b_dec_to_input"]:
        y = y - w["b_dec"]
    pre = y @ w["W_enc"] + w["b_enc"]
    norms = w["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(config["d_sae"])
    pre = pre * norms
    f = pre.relu()
    if "jumprelu" in config["architecture"]:
        f = f * (pre > w["threshold"])
    if "topk" in config["architecture"]:
        f = keep_largest(pre, config["k"])
    out = ((f / norms) @ w["W_dec"] + w["b_dec"]) * scale + mean
    return f, out + x @ w["W_skip"].T if "W_skip" in w else out


@pytest.mark.parametrize("name", EXAMPLES)
def test_saelens_computes_what_we_do(tmp_path, name):
    save_sae(EXAMPLES[name], tmp_path, METADATA)
    assert_computes(EXAMPLES[name].for_inference(), *saelens_forward(tmp_path, X))


@pytest.mark.parametrize("name", EXAMPLES)
def test_round_trip_is_exact(tmp_path, name):
    save_sae(EXAMPLES[name], tmp_path, METADATA)
    read = load(tmp_path)
    assert_same(read.sae, EXAMPLES[name].for_inference())
    assert read.format == "saelens"
    assert {key: read.metadata[key] for key in METADATA if key != "seesae"} == {
        key: value for key, value in METADATA.items() if key != "seesae"
    }
    assert read.metadata["seesae"].items() >= METADATA["seesae"].items()


def test_metadata_of_the_sae_itself_is_the_default(tmp_path):
    sae = load_sae(FIXTURES / "saelens-topk")
    save_sae(sae, tmp_path)
    assert load_sae(tmp_path).metadata["hook_name"] == "blocks.3.hook_resid_post"


def test_the_written_config_has_saelens_fields(tmp_path):
    save_sae(EXAMPLES["topk-autoencoder"], tmp_path / "topk", METADATA)
    config = json.loads((tmp_path / "topk" / "cfg.json").read_text())
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
        "metadata": {**METADATA, "sae_lens_version": "6.0.0"},
    }
    save_sae(EXAMPLES["batchtopk-skip-transcoder"], tmp_path / "batchtopk", METADATA)
    config = json.loads((tmp_path / "batchtopk" / "cfg.json").read_text())
    assert (
        config.items()
        >= {
            "architecture": "jumprelu_skip_transcoder",
            "d_out": 5,
            "apply_b_dec_to_input": False,
            "k": 3,
        }.items()
    )
    weights = load_file(tmp_path / "batchtopk" / "sae_weights.safetensors")
    assert {name: list(tensor.shape) for name, tensor in weights.items()} == {
        "W_enc": [6, 20],
        "b_enc": [20],
        "W_dec": [20, 5],
        "b_dec": [5],
        "threshold": [20],
        "W_skip": [5, 6],
    }


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("standard-transcoder", "transcoder"),
        ("standard-skip-transcoder", "skip_transcoder"),
        ("jumprelu-transcoder", "jumprelu_transcoder"),
        ("gated-skip-transcoder", "jumprelu_skip_transcoder"),
        ("topk-transcoder", "topk_transcoder"),
        ("matryoshka-autoencoder", "jumprelu"),
    ],
)
def test_architectures_have_saelens_names(tmp_path, name, architecture):
    save_sae(EXAMPLES[name], tmp_path, METADATA)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == architecture


def test_a_transcoder_that_normalises_is_not_written(tmp_path):
    sae = Standard(StandardConfig(d_in=6, d_sae=20, d_out=5, normalize_activations="layer_norm"))
    with pytest.raises(CheckpointError, match="no transcoder that normalises"):
        save_sae(sae, tmp_path, METADATA)
    assert not any(tmp_path.iterdir())


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
    plain["normalize_activations"] = "none"
    (folder / "cfg.json").write_text(json.dumps(plain | config))
    return folder


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("standard", {"apply_b_dec_to_input": False}),
        ("jumprelu", {"apply_b_dec_to_input": False, "normalize_activations": "none"}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    ],
)
def test_operations_that_saelens_applies_at_run_time_are_folded_in(tmp_path, architecture, values):
    folder = foreign(tmp_path / "sae", architecture, **values)
    sae = load_sae(folder)
    assert_computes(sae, *saelens_forward(folder, X))


def test_half_precision_is_read_as_float32(tmp_path):
    sae = load_sae(foreign(tmp_path / "sae", "jumprelu", dtype=torch.bfloat16))
    assert isinstance(sae, JumpReLU)
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}


def config(**changes):
    return lambda folder: edit_json(folder / "cfg.json", **changes)


def tensors(**changes):
    return lambda folder: edit_tensors(folder / "sae_weights.safetensors", **changes)


def scaler(**values):
    return lambda folder: (folder / "activation_scaler.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cfg.json").unlink(), "holds no cfg.json"),
        (lambda folder: (folder / "cfg.json").write_text("{"), "cfg.json cannot be read"),
        (lambda folder: (folder / "cfg.json").write_text("[" * 100_000), "cfg.json cannot be read"),
        (lambda folder: (folder / "cfg.json").write_bytes(b"\xff\xfe{}"), "cfg.json cannot be read"),
        (lambda folder: (folder / "cfg.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "sae_weights.safetensors").unlink(), "holds no sae_weights.safetensors"),
        (lambda folder: (folder / "sae_weights.safetensors").write_bytes(b"not tensors"), "cannot be read"),
        (lambda folder: os.truncate(folder / "sae_weights.safetensors", 500), "cannot be read"),
        (config(architecture="temporal"), "the architecture is 'temporal', which cannot be read. Give one of standard"),
        (config(architecture=["topk"]), "cannot be read"),
        (config(architecture=None), "the architecture is None"),
        (config(architecture="standard"), "holds threshold too, which this kind of SAE does not have"),
        (config(architecture="jumprelu_skip_transcoder"), "holds no W_skip"),
        (config(architecture="jumprelu_transcoder", d_out=5), r"W_dec with shape \[20, 6\] where \[20, 5\]"),
        (config(architecture="topk"), "k is 100, more than its 20 features"),
        (config(architecture="topk", k=21), "k is 21, more than its 20 features"),
        (config(architecture="topk", k=2.5), "k is 2.5"),
        (config(d_sae=21), r"W_enc with shape \[6, 20\] where \[6, 21\] is expected"),
        (config(d_sae=10**15), r"where \[6, 1000000000000000\] is expected"),
        (config(d_in="6"), "d_in is '6'"),
        (config(d_in=True), "d_in is True"),
        (config(d_sae=-1), "d_sae is -1"),
        (config(d_out=12), "not a transcoder"),
        (config(normalize_activations="batch_norm"), "normalize_activations is 'batch_norm'"),
        (config(normalize_activations=["none"]), "normalize_activations is"),
        (
            config(architecture="jumprelu_transcoder", normalize_activations="layer_norm"),
            "a transcoder's normalize_activations is 'layer_norm'",
        ),
        (config(normalize_activations="covariance_whitening"), "normalize_activations is 'covariance_whitening'"),
        (config(metadata={"hook_head_index": 3}), "metadata.hook_head_index is 3: SeeSAE reads all heads"),
        (config(metadata={"context_size": "64"}), "context_size is '64'"),
        (config(metadata={"context_size": 0}), "context_size is 0"),
        (config(metadata={"context_size": True}), "context_size is True"),
        (config(metadata={"prepend_bos": "no"}), "prepend_bos is 'no', not true or false"),
        (scaler(scaling_factor=True), "scaling_factor is True"),
        (config(reshape_activations="heads"), "reshape_activations is 'heads'"),
        (config(metadata={"seesae": {"weights_sha256": "0"}}), "not the file"),
        (tensors(threshold=None), "holds no threshold"),
        (tensors(extra=torch.ones(3)), "holds extra too"),
        (tensors(b_enc=torch.full((20,), torch.nan)), "NaN or infinite values in b_enc"),
        (tensors(W_dec=torch.full((20, 6), torch.inf)), "NaN or infinite values in W_dec"),
        (tensors(W_enc=torch.ones(6, 20, dtype=torch.int8)), "W_enc as torch.int8"),
        (tensors(scaling_factor=torch.full((20,), 2.0)), "scaling_factor that is not 1"),
        (scaler(scaling_factor=-1), "scaling_factor is -1"),
        (scaler(scaling_factor="2"), "scaling_factor is '2'"),
        (scaler(scaling_factor=1e-39), "gives infinite values"),
        (scaler(scaling_factor=None, has_whitening=True), "whitened"),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, damage, message):
    folder = foreign(tmp_path / "sae", "jumprelu")
    damage(folder)
    assert_refused(folder, message)


@pytest.mark.parametrize("metadata", [None, {"seesae": "?"}, {}])
def test_metadata_of_any_shape_is_accepted(tmp_path, metadata):
    folder = foreign(tmp_path / "sae", "jumprelu", metadata=metadata)
    assert load_sae(folder).d_sae == 20


def test_a_write_that_was_cut_short_is_noticed(tmp_path):
    save_sae(EXAMPLES["topk-autoencoder"], tmp_path, METADATA)
    other = {name: tensor * 2 for name, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    save_file(other, tmp_path / "sae_weights.safetensors")  # as if killed before the config was written
    assert_refused(tmp_path, r"not the file that cfg\.json was written with")


def test_a_feature_that_decodes_to_nothing_is_read_as_off(tmp_path):
    folder = foreign(tmp_path / "sae", "topk", k=4, rescale_acts_by_decoder_norm=True)
    w = load_file(folder / "sae_weights.safetensors")
    w["W_dec"][3] = 0
    save_file(w, folder / "sae_weights.safetensors")
    sae = load_sae(folder)
    assert not sae.encode(X)[:, 3].any()
    assert sae(X).isfinite().all()


@pytest.mark.parametrize("rescale", [False, True])
def test_a_batchtopk_from_the_middle_of_a_training_is_read_at_its_threshold(tmp_path, rescale):
    folder = foreign(tmp_path / "sae", "batchtopk", k=2.5, rescale_acts_by_decoder_norm=rescale)
    edit_tensors(folder / "sae_weights.safetensors", topk_threshold=torch.tensor(1.5, dtype=torch.float64))
    checkpoint, w = load(folder), load_file(folder / "sae_weights.safetensors")
    norms = w["W_dec"].norm(dim=1) if rescale else torch.ones(20)
    pre = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norms
    f = pre * (pre > 1.5)
    assert_computes(checkpoint.sae, f, (f / norms) @ w["W_dec"] + w["b_dec"])
    assert "All features got the one threshold that BatchTopK had learned." in checkpoint.notes


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_an_unfolded_scale_is_folded(tmp_path, architecture):
    folder = foreign(tmp_path / "sae", architecture, k=4, rescale_acts_by_decoder_norm=architecture == "topk")
    scaler(scaling_factor=1.83)(folder)
    checkpoint = load(folder)
    f, out = saelens_forward(folder, 1.83 * X)
    assert_computes(checkpoint.sae, f, out / 1.83)
    assert checkpoint.notes[-1].endswith("divided, by 1.83, the scale of the activations.")
    scaler(scaling_factor=None, has_whitening=False)(folder)
    assert_computes(load_sae(folder), *saelens_forward(folder, X))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        ({"activation_fn_kwargs": {}}, "k is None"),
        ({"activation_fn_kwargs": None}, "k is None"),
        ({"architecture": "gated", "activation_fn_str": "relu"}, "holds b_enc too|holds no b_gate"),
    ],
)
def test_an_invalid_old_config_is_refused(tmp_path, changes, message):
    edit_json(copy_of("saelens_pre6-topk", tmp_path) / "cfg.json", **changes)
    assert_refused(tmp_path, message)


def test_topk_with_unit_rows_says_so_in_the_way_that_saedashboard_needs(tmp_path):
    sae = TopK(TopKConfig(d_in=6, d_sae=20, k=3))
    sae.initialise(X, seed=0)
    save_sae(sae, tmp_path, METADATA)
    assert json.loads((tmp_path / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is True
    assert torch.equal(load_sae(tmp_path).W_enc, sae.for_inference().W_enc)


def test_a_scale_that_only_the_user_knows_is_asked_for(tmp_path):
    folder, folded = case("flat_unfolded", tmp_path), load(case("flat_folded", tmp_path))
    assert_refused(folder, r"normalize_activations is 'expected_average_only_in', .*`activation_scale`")
    checkpoint = load(folder, activation_scale=0.25)
    assert_same_weights(checkpoint.sae, folded.sae)
    assert [note for note in checkpoint.notes if "scale" in note] == [
        "The encoder was multiplied, and the decoder divided, by 0.25, the scale of the activations."
    ]
    assert_same_weights(load_sae(folder, activation_scale=0.25), folded.sae)


def assert_same_weights(sae, expected):
    for name, tensor in expected.state_dict().items():
        assert torch.equal(sae.state_dict()[name], tensor), name


def test_a_scale_that_the_files_have_is_said_once(tmp_path):
    checkpoint, unscaled = load(case("scaler", tmp_path)), load_file(CONFIGS / "weights.safetensors")
    assert len([note for note in checkpoint.notes if "scale" in note or "expected_average" in note]) == 1
    torch.testing.assert_close(checkpoint.sae.b_dec, unscaled["b_dec"] / 2)


@pytest.mark.parametrize("name", ["flat_folded", "scaler", "context64"])
def test_a_scale_that_is_not_missing_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="Leave `activation_scale` out"):
        load(case(name, tmp_path), activation_scale=2.0)


def test_a_scale_is_refused_for_formats_that_have_it():
    with pytest.raises(CheckpointError, match="An SAE of openai has its scale in its files"):
        load(FIXTURES / "openai-topk", activation_scale=2.0)


def test_a_model_that_was_changed_before_training_is_refused_by_name(tmp_path):
    assert_refused(
        case("kwargs_center", tmp_path), r"metadata\.model_from_pretrained_kwargs\.center_writing_weights is True"
    )


def test_an_sae_without_bos_says_so_and_keeps_it(tmp_path):
    checkpoint = load(case("no_bos", tmp_path))
    assert checkpoint.notes == ["No BOS token is put in front of texts, because the config says prepend_bos: false."]
    assert not checkpoint.sae.prepend_bos
    assert not checkpoint.sae.for_inference().prepend_bos
    save_sae(checkpoint.sae, tmp_path / "saved")
    assert not load_sae(tmp_path / "saved").prepend_bos
    assert load_sae(case("context64", tmp_path)).prepend_bos
    assert load_sae(tmp_path / "context64").context_size == 64


def test_metadata_under_its_name_before_the_release_of_version_6_is_read(tmp_path):
    folder = foreign(tmp_path / "sae", "jumprelu", meta={"model_name": "tiny", "prepend_bos": False})
    edit_json(folder / "cfg.json", metadata=None)
    checkpoint = load(folder)
    assert checkpoint.metadata["model_name"] == "tiny"
    assert not checkpoint.sae.prepend_bos
