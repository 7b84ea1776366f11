"""Every fixture, against what the package that wrote it computes."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sae_core.checkpoints import FORMATS, load, save_sae
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import FIXTURES

CASES = sorted(path.parent for path in FIXTURES.glob("*/expected.safetensors"))
READ = [case for case in CASES if case.name != "sparsify-groupmax"]
RESID = {"hook_name": "blocks.3.hook_resid_post"}
PYTHIA = {"model_name": "pythia-70m-deduped", **RESID, "context_size": 128, "prepend_bos": True}
TRANSCODED = {**PYTHIA, "hook_name": "blocks.3.hook_mlp_in", "hook_name_out": "blocks.3.hook_mlp_out"}
RUN = {"model_name": "EleutherAI/pythia-70m-deduped", "context_size": 128}
MODULE = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.mlp.hook_out"}
GEMMA = {"context_size": 1024, "prepend_bos": True}
METADATA = {  # the longest prefix of a case's name
    "saelens-": PYTHIA,
    "saelens_pre6-": PYTHIA,
    "saelens_pre6-hook-point": {**PYTHIA, "model_name": "gpt2-small", "hook_name": "blocks.3.hook_resid_pre"},
    "saelens-standard-hook-z": {**PYTHIA, "hook_name": "blocks.3.attn.hook_z"},
    "saelens-transcoder": TRANSCODED,
    "saelens-skip-transcoder": TRANSCODED,
    "saelens-jumprelu-transcoder": TRANSCODED,
    "saelens-jumprelu-skip-transcoder": TRANSCODED,
    "dictionary_learning-": {**RUN, **RESID},
    "sparsify-topk": {**RUN, **RESID},
    "sparsify-topk-expansion": RESID,
    "sparsify-transcoder": MODULE,
    "sparsify-skip-transcoder": {**RUN, **MODULE},
    "gemma_scope-": GEMMA,
    "gemma_scope_2-": {**GEMMA, "model_name": "google/gemma-3-1b-pt", **RESID},
    "gemma_scope_2-skip-transcoder": {
        **GEMMA,
        "model_name": "google/gemma-3-1b-pt",
        "hook_name": "blocks.3.mlp.hook_in",
        "hook_name_out": "blocks.3.hook_mlp_out",
    },
    "llama_scope-": {**GEMMA, **RESID},
    "openai-": {},
}
NOTES = {
    "saelens-standard": [],
    "saelens-topk-trained": [],
    "saelens-topk-rescaled": ["norm 1"],
    "saelens-gated": ["gate"],
    "saelens-topk-layer-norm": ["layer_norm"],
    "saelens-standard-unfolded-norm": ["multiplied, and the decoder divided, by 1, the scale"],
    "saelens_pre6-gated": ["before version 6", "gate"],
    "saelens-transcoder": ["hook_name is blocks.3.hook_mlp_in, which is not a hook point"],
    "dictionary_learning-autoencoder": ["transposed", "norm 1"],
    "dictionary_learning-batchtopk": ["one threshold that BatchTopK had learned, 0.83", "transposed"],
    "dictionary_learning-batchtopk-no-threshold": ["never learned", "transposed"],
    "sparsify-topk": ["encoder was transposed"],
    "gemma_scope-jumprelu": ["not known"],
    "llama_scope-jumprelu": ["transposed", "multiplied, and the decoder divided, by 1.7", "threshold", "decoder_norm"],
    "openai-topk": ["transposed", "layer_norm"],
}


SCALES = dict.fromkeys(("saelens-standard-unfolded-norm", "saelens_pre6-hook-point"), 1.0)
"""Of activations, for SAEs whose files do not have it; SAELens computes without any."""


def read(case):
    return load(leaf(case), activation_scale=SCALES.get(case.name))


def leaf(case):
    """The folder that a person would name."""
    folder = case
    while not any(path.is_file() and path.name != "expected.safetensors" for path in folder.iterdir()):
        folder = next(path for path in folder.iterdir() if path.is_dir())
    if case.name.startswith("sparsify"):  # the run's config lies in the case's own folder
        folder = next(case.glob("layers*"))
    return folder


def test_there_are_fixtures_of_all_formats():
    assert len(CASES) == 43
    assert {case.name.split("-")[0] for case in CASES} - {"saelens_pre6"} == set(FORMATS)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_we_compute_what_the_package_does(case):
    checkpoint, expected = read(case), load_file(case / "expected.safetensors")
    sae = checkpoint.sae
    f, out = sae.encode(expected["x"]), sae(expected["x"])
    torch.testing.assert_close(f, expected["f"], rtol=0, atol=1e-5)
    torch.testing.assert_close(out, expected["out"], rtol=0, atol=1e-5)
    assert torch.equal(f > 0, expected["f"] > 0)
    assert checkpoint.format == case.name.split("-")[0].removesuffix("_pre6")


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_weights_that_were_read_are_plain_and_laid_out_for_the_kernels(case):
    sae = read(case).sae
    assert not any(parameter.requires_grad for parameter in sae.parameters())
    assert {tensor.dtype for tensor in sae.state_dict().values()} == {torch.float32}
    assert {tensor.device.type for tensor in sae.state_dict().values()} == {"cpu"}
    assert sae.W_enc.stride() == (1, sae.d_in), "laid out by feature"
    assert type(sae.for_inference()) is type(sae)
    assert sae.architecture in ("standard", "topk", "jumprelu")


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_metadata_has_the_origin(case):
    metadata = read(case).metadata
    keys = ("model_name", "hook_name", "hook_name_out", "context_size", "prepend_bos")
    prefix = max((prefix for prefix in METADATA if case.name.startswith(prefix)), key=len)
    assert {key: metadata[key] for key in keys if metadata.get(key) is not None} == METADATA[prefix]


@pytest.mark.parametrize("name", NOTES)
def test_notes_say_what_was_done(name):
    notes = read(FIXTURES / name).notes
    assert len(notes) == len(NOTES[name])
    for note, said in zip(notes, NOTES[name], strict=True):
        assert said in note
        assert re.fullmatch(r"[^\n]+\.", note)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_saving_what_was_read_keeps_it_bit_for_bit(case, tmp_path):
    checkpoint = read(case)
    save_sae(checkpoint.sae, tmp_path)
    again = load(tmp_path)
    assert not [note for note in again.notes if "does not know" in note]
    unused = {"apply_b_dec_to_input": False} if again.sae.is_transcoder else {}
    for name, tensor in checkpoint.sae.state_dict().items():
        assert torch.equal(again.sae.state_dict()[name], tensor), name
    assert replace(again.sae.config, **unused) == replace(checkpoint.sae.config, **unused)
    added = {"seesae", "sae_lens_version"}
    assert {key: again.metadata[key] for key in again.metadata.keys() - added} == {
        key: value for key, value in checkpoint.metadata.items() if key not in added
    }


def test_unknown_classes_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"the activation is 'groupmax', which cannot be read\. Give one of topk"):
        load(FIXTURES / "sparsify-groupmax" / "layers.3")
