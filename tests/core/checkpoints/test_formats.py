import json

import pytest

from sae_core.checkpoints import FORMATS, detect, load, load_sae
from sae_core.checkpoints.model_names import hub_id
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import FIXTURES, assert_refused, copy_of


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("saelens-topk/cfg.json", "saelens"),
        ("saelens-topk/sae_weights.safetensors", "saelens"),
        ("dictionary_learning-topk/ae.pt", "dictionary_learning"),
        ("dictionary_learning-topk/config.json", "dictionary_learning"),
        ("sparsify-topk/layers.3/sae.safetensors", "sparsify"),
        ("sparsify-topk/layers.3/cfg.json", "sparsify"),
        ("gemma_scope-jumprelu/layer_3/width_16k/average_l0_20/params.npz", "gemma_scope"),
        ("llama_scope-jumprelu/hyperparams.json", "llama_scope"),
        ("llama_scope-jumprelu/checkpoints/final.safetensors", "llama_scope"),
        ("openai-relu/autoencoder.pt", "openai"),
        ("openai-relu", "openai"),
    ],
)
def test_an_sae_may_be_named_by_one_of_its_files(file, name, monkeypatch):
    assert load(FIXTURES / file).format == name
    assert load(str(FIXTURES / file), format=name).format == name
    monkeypatch.chdir((FIXTURES / file).parent)
    assert load((FIXTURES / file).name).format == name


def test_only_some_formats_are_written():
    assert [name for name, form in FORMATS.items() if form.write] == ["saelens", "dictionary_learning", "sparsify"]


def test_an_existing_path_wins_over_an_address(tmp_path, monkeypatch):
    copy_of("saelens-topk", tmp_path / "org" / "repo")
    monkeypatch.chdir(tmp_path)
    assert load("org/repo").format == "saelens"
    assert load("org/repo").metadata.keys() == load(FIXTURES / "saelens-topk").metadata.keys()


@pytest.mark.parametrize("source", ["nowhere", "/nowhere/at/all", "./org/repo", "~/nowhere", "hf:repo", ""])
def test_a_missing_path_is_reported(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no SAE"):
        load(source)


def test_an_unknown_format_is_refused():
    with pytest.raises(CheckpointError, match=r"no format 'gguf'\. Give one of saelens, dictionary_learning, sparsify"):
        load(FIXTURES / "saelens-topk", format="gguf")
    with pytest.raises(CheckpointError, match=r"holds no ae\.pt|holds no config\.json"):
        load(FIXTURES / "saelens-topk", format="dictionary_learning")


def test_a_folder_of_nothing_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.md").touch()
    assert_refused(tmp_path, r"holds no SAE.*sae_weights\.safetensors \(saelens\), ae\.pt \(dictionary_learning\)")
    assert_refused(tmp_path / "readme.md", "holds no SAE")


def test_a_language_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").touch()
    assert_refused(tmp_path, "holds a language model, not an SAE")


def test_a_folder_of_saes_names_them(tmp_path):
    assert_refused(FIXTURES / "sparsify-topk", r"not an SAE itself, but holds 1: layers\.3\. Give the path of one")
    for number in range(25):
        (tmp_path / "width_16k" / f"{number:02}").mkdir(parents=True)
        (tmp_path / "width_16k" / f"{number:02}" / "params.npz").touch()
    assert_refused(tmp_path, r"holds 25: width_16k/00, .*, width_16k/19 and 5 more\.")


def test_the_first_format_that_recognises_a_folder_reads_it(tmp_path):
    copy_of("dictionary_learning-topk", tmp_path)
    (tmp_path / "optimizer.pt").touch()
    assert detect(tmp_path) == "dictionary_learning"


def test_load_sae_reads_every_format():
    assert load_sae(FIXTURES / "openai-topk").config.normalize_activations == "layer_norm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2-small", "openai-community/gpt2"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("gemma-2b", "google/gemma-2b"),
        ("gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("gemma-3-270m", "google/gemma-3-270m"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("qwen3-1.7b", "Qwen/Qwen3-1.7B"),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("my-model", "my-model"),
    ],
)
def test_models_have_the_hubs_names(name, expected):
    assert hub_id(name) == expected


def test_a_missing_folder_of_a_local_repository_is_named_with_what_is_there(tmp_path, monkeypatch):
    copy_of("sparsify-topk", tmp_path / "run" / "pile")
    monkeypatch.chdir(tmp_path)
    missing = r"run/pile holds no layers\.10\. It holds layers\.3\. Check the path; hf: begins one of the hub\."
    for source in (
        "run/pile/layers.10",
        "./run/pile/layers.10",
        str(tmp_path / "run/pile/layers.10"),
        "run/pile/layers.10/sae",
    ):
        assert_refused(source, missing)
    assert_refused("run/layers.10", r"run holds no layers\.10\. It holds pile/layers\.3\.")
    assert_refused("../none/at/all", "holds no none")


@pytest.mark.parametrize("source", ["~nobody-at-all/sae", "a" * 5000, "/" + "a" * 300, "a\0b"])
def test_what_cannot_be_a_path_is_refused_in_one_line(source):
    assert_refused(source, "is no path|no SAE")
