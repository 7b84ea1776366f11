import errno

import pytest
import torch

from sae_core.checkpoints import load
from sae_core.checkpoints.hub import Address
from sae_core.errors import ArtifactError, CheckpointError
from tests.core.checkpoints.examples import FIXTURES, assert_refused, copy_of
from tests.core.checkpoints.hub_server import COMMIT, Hub, serve


def files_of(case, *, below=""):
    """A fixture's files as a repository has them."""
    return {
        below + path.relative_to(FIXTURES / case).as_posix(): path.read_bytes()
        for path in sorted((FIXTURES / case).rglob("*"))
        if path.is_file() and path.name != "expected.safetensors"
    }


REPOS = {
    "org/one": {**files_of("saelens-batchtopk"), "README.md": b"#"},
    "org/many": {
        **files_of("saelens-topk", below="saelens/topk/"),
        **files_of("saelens-gated", below="saelens/gated/"),
        **files_of("dictionary_learning-topk", below="dictionary/"),
        "dictionary/checkpoints/ae_100.pt": b"?",
        **files_of("sparsify-topk", below="run/"),
        "model.safetensors": b"?",
    },
    "google/gemma-scope-2b-pt-res": files_of("gemma_scope-jumprelu"),
    "google/gemma-scope-2-1b-pt": files_of("gemma_scope_2-jumprelu"),
    "fnlp/Llama3_1-8B-Base-LXR-8x": files_of("llama_scope-jumprelu", below="Llama3_1-8B-Base-L3R-8x/"),
    "org/openai": files_of("openai-topk", below="gpt2-small/resid_post_mlp_v5_32k/"),
    "org/model": {"config.json": b"{}", "model.safetensors": b"?"},
    "org/data": {"train.jsonl": b"{}"},
    "org/gated": files_of("saelens-topk"),
}
REFUSES = {"org/private": (401, ""), "org/broken": (500, ""), "org/forbidden": (403, "")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with serve(Hub(REPOS, REFUSES, {"org/gated"})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize(
    ("address", "fixture", "fetched"),
    [
        ("org/one", "saelens-batchtopk", ["sae_weights.safetensors", "cfg.json"]),
        ("hf:org/one", "saelens-batchtopk", ["sae_weights.safetensors", "cfg.json"]),
        ("org/many/saelens/topk", "saelens-topk", ["saelens/topk/sae_weights.safetensors", "saelens/topk/cfg.json"]),
        ("org/many/saelens/topk/", "saelens-topk", ["saelens/topk/sae_weights.safetensors", "saelens/topk/cfg.json"]),
        ("org/many/dictionary", "dictionary_learning-topk", ["dictionary/ae.pt", "dictionary/config.json"]),
        ("org/many/dictionary/ae.pt", "dictionary_learning-topk", ["dictionary/ae.pt", "dictionary/config.json"]),
        (
            "org/many/run/layers.3",
            "sparsify-topk/layers.3",
            ["run/layers.3/sae.safetensors", "run/layers.3/cfg.json", "run/config.json"],
        ),
        (
            "org/openai/gpt2-small/resid_post_mlp_v5_32k/autoencoder.pt",
            "openai-topk",
            ["gpt2-small/resid_post_mlp_v5_32k/autoencoder.pt"],
        ),
        ("org/openai/gpt2-small", "openai-topk", ["gpt2-small/resid_post_mlp_v5_32k/autoencoder.pt"]),
    ],
)
def test_only_the_files_of_one_sae_are_fetched(hub, address, fixture, fetched):
    read, expected = load(address), load(FIXTURES / fixture)
    assert hub.downloaded == fetched
    assert read.format == expected.format
    for name, tensor in expected.sae.state_dict().items():
        assert torch.equal(read.sae.state_dict()[name], tensor), name
    assert read.metadata["revision"] == COMMIT
    assert read.metadata["source"].startswith("/".join(address.removeprefix("hf:").split("/")[:2]))
    assert load(read.metadata["source"]).metadata == read.metadata
    assert {**read.metadata, **expected.metadata} == read.metadata
    load(address)
    assert hub.downloaded == fetched, "the second time it comes from the cache"


@pytest.mark.parametrize(
    ("address", "model", "hook"),
    [
        ("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_20", "gemma-2-2b", "blocks.3.hook_resid_post"),
        ("google/gemma-scope-2-1b-pt", "google/gemma-3-1b-pt", "blocks.3.hook_resid_post"),
        ("fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L3R-8x", "meta-llama/Llama-3.1-8B", "blocks.3.hook_resid_post"),
    ],
)
def test_metadata_in_the_repositorys_name_is_used(hub, address, model, hook):
    metadata = load(address).metadata
    assert (metadata["model_name"], metadata["hook_name"]) == (model, hook)


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_a_revision_may_be_named(hub, revision):
    metadata = load(f"org/one@{revision}").metadata
    assert metadata["source"] == "org/one"
    assert metadata["revision"] == COMMIT


def test_the_cache_is_used_without_a_network(hub, monkeypatch):
    fetched = load("org/many/run/layers.3")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    again = load("org/many/run/layers.3")
    assert again.metadata == fetched.metadata
    assert torch.equal(again.sae.W_enc, fetched.sae.W_enc)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load("org/many/run/layers.3").metadata == fetched.metadata
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids"):
        load("org/one")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("org/none", "no repository org/none on the hub that you may see"),
        ("org/private", "hf auth login, or HF_TOKEN"),
        ("org/gated", "org/gated is gated. Ask for access"),
        ("org/broken", "The hub answered 500 when asked for org/broken. Try again later"),
        ("org/forbidden", "no repository org/forbidden on the hub that you may see"),
        ("org/one@v9", "org/one has no revision v9. Give a branch, tag or commit"),
        ("org/--", "cannot be fetched"),
        ("org/one/width_16k", "org/one holds no width_16k. It holds "),
        ("org/data", "org/data holds no SAE"),
        ("org/model", "org/model holds a language model, not an SAE"),
        ("org/many", "holds 4: dictionary, run/layers.3, saelens/gated, saelens/topk. Give the path of one"),
        ("org/many/saelens", "holds 2: saelens/gated, saelens/topk"),
        ("org/many/run/layers.4", "org/many holds no run/layers.4. It holds dictionary, run/layers.3, saelens/gated, "),
        ("org/data/none", "org/data holds no none, and no SAE"),
    ],
)
def test_errors_of_the_hub_are_explained_in_one_line(hub, address, message):
    assert_refused(address, message)


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_refused("org/one", r"org/one cannot be fetched: .*Check the path or address and the network")


def test_a_full_disk_is_reported(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sae_core.checkpoints.hub.hf_hub_download", full)
    with pytest.raises(ArtifactError, match="disk is full"):
        load("org/one")


def test_the_prefix_means_the_hub_where_a_path_exists_too(hub, tmp_path):
    copy_of("saelens-topk", tmp_path / "org" / "one")
    assert load("org/one").sae.architecture == "topk"
    assert load("hf:org/one").sae.architecture == "jumprelu"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", Address("org/repo")),
        ("hf:org/repo/a/b.c/@refs/pr/1", Address("org/repo", "a/b.c", "refs/pr/1")),
        ("org/repo@main", Address("org/repo", "", "main")),
        ("org", None),
        ("/org/repo", None),
        ("./org/repo", None),
        ("../repo", None),
        ("org/repo@", None),
        ("", None),
    ],
)
def test_addresses(text, expected):
    assert Address.parse(text) == expected
