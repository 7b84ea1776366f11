"""Every field of every format's config is applied, refused, said or harmless; what is none of these is named."""

import json
import tempfile
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core.checkpoints import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    load,
    openai,
    saelens,
    saelens_pre6,
    sparsify,
)
from sae_core.checkpoints.fields import Fields, Rule, names
from sae_core.errors import CheckpointError
from tests.core.checkpoints.examples import FIXTURES, copy_of

SAELENS_MODEL = names(  # SAEMetadata in saes/sae.py, LLM_METADATA_KEYS in loading/pretrained_sae_loaders.py, config.py
    "model_name hook_name hook_name_out model_class_name hook_layer hook_head_index prepend_bos "
    "exclude_special_tokens neuronpedia_id context_size seqpos_slice dataset_path sae_lens_version "
    "sae_lens_training_version model_kwargs disable_concat_sequences sequence_separator_token hf_hook_name "
    "hf_hook_name_out training_architecture training_architecture_details dataset_trust_remote_code "
) | {
    f"model_from_pretrained_kwargs.{name}"  # TransformerLens' from_pretrained, and what it hands to transformers
    for name in names(
        "revision checkpoint_index checkpoint_value fold_ln center_writing_weights center_unembed "
        "refactor_factored_attn_matrices fold_value_biases dtype torch_dtype device n_devices move_to_device "
        "default_prepend_bos default_padding_side first_n_layers trust_remote_code load_in_8bit load_in_4bit "
        "quantization_config attn_implementation low_cpu_mem_usage local_files_only cache_dir device_map token"
    )
}
SAELENS_SAE = names(  # SAEConfig, TrainingSAEConfig and their classes in saes/
    "d_in d_sae d_out dtype device apply_b_dec_to_input normalize_activations reshape_activations architecture k "
    "rescale_acts_by_decoder_norm noise_scale mse_loss_normalization b_dec_init_method decoder_init_norm "
    "l1_coefficient lp_norm l1_warm_up_steps l0_coefficient l0_warm_up_steps pre_act_loss_coefficient "
    "topk_threshold_lr use_sparse_activations aux_loss_coefficient jumprelu_init_threshold jumprelu_bandwidth "
    "jumprelu_sparsity_loss_mode jumprelu_tanh_scale matryoshka_widths use_matryoshka_aux_loss"
)
SAELENS_FLAT = names(  # SAEConfig of version 5, and LanguageModelSAERunnerConfig of config.py, versions 0 to 5
    "architecture d_in d_sae dtype device activation_fn activation_fn_str activation_fn_kwargs.k apply_b_dec_to_input "
    "finetuning_scaling_factor normalize_activations reshape_activations hook_point hook_point_layer "
    "hook_point_head_index hook_eval hook_point_eval streaming is_dataset_tokenized use_cached_activations "
    "cached_activations_path b_dec_init_method expansion_factor normalize_sae_decoder noise_scale "
    "from_pretrained_path decoder_orthogonal_init decoder_heuristic_init init_encoder_as_decoder_transpose "
    "n_batches_in_buffer training_tokens finetuning_tokens store_batch_size_prompts act_store_device seed "
    "jumprelu_init_threshold jumprelu_bandwidth autocast autocast_lm compile_llm llm_compilation_mode compile_sae "
    "sae_compilation_mode train_batch_size_tokens adam_beta1 adam_beta2 mse_loss_normalization l1_coefficient "
    "lp_norm scale_sparsity_penalty_by_decoder_norm l1_warm_up_steps lr lr_scheduler_name lr_warm_up_steps lr_end "
    "lr_decay_steps n_restart_cycles finetuning_method use_ghost_grads feature_sampling_window dead_feature_window "
    "dead_feature_threshold n_eval_batches n_eval_seqs eval_batch_size_prompts log_to_wandb "
    "log_activations_store_to_wandb log_optimizer_state_to_wandb wandb_project wandb_id run_name wandb_entity "
    "wandb_log_frequency eval_every_n_wandb_logs resume n_checkpoints checkpoint_path verbose tokens_per_buffer "
    "total_training_tokens store_batch_size train_batch_size feature_sampling_method feature_reinit_scale "
    "resample_batches dead_feature_estimation_method unique_id"
)
DICTIONARY_LEARNING = [  # `config` of the trainers in trainers/*.py, and of ActivationBuffer in buffer.py
    *(
        f"trainer.{name}"
        for name in names(
            "dict_class trainer_class activation_dim dict_size lr l1_penalty warmup_steps resample_steps "
            "sparsity_warmup_steps steps decay_start seed device layer lm_name wandb_name submodule_name k auxk_alpha "
            "top_k_aux threshold_beta threshold_start_step group_fractions group_weights group_sizes bandwidth "
            "sparsity_penalty target_l0 norm_factor sparsity_function p_start p_end anneal_start anneal_end "
            "initial_sparsity_penalty sparsity_queue_length n_sparsity_updates"
        )
    ),
    *(
        f"buffer.{name}"
        for name in names("d_submodule io n_ctxs ctx_len refresh_batch_size out_batch_size device layer")
    ),
]
SPARSIFY = names(  # SparseCoderConfig in config.py, and `d_in`, which sparse_coder.py adds; `signed` of older versions
    "activation expansion_factor normalize_decoder num_latents k multi_topk skip_connection embed_skip gram_lookup "
    "lookup_max_order gram_table_hash transcode d_in signed"
)
SPARSIFY_RUN = names(  # TrainConfig in config.py and RunConfig in __main__.py
    "sae batch_size grad_acc_steps micro_acc_steps loss_fn optimizer lr lr_warmup_steps k_decay_steps auxk_alpha "
    "dead_feature_threshold exclude_tokens hookpoints init_seeds layers layer_stride distribute_modules save_every "
    "save_best finetune log_to_wandb run_name wandb_log_frequency save_dir gram_table_path model dataset split ctx_len "
    "hf_token revision load_in_8bit max_examples resume text_column shuffle_seed data_preprocessing_num_proc data_args"
)
GEMMA_SCOPE_2 = names("hf_hook_point_in hf_hook_point_out width model_name architecture l0 affine_connection type")
LLAMA_SCOPE = names(  # hyperparams.json of the repositories, and SAEConfig in lm_saes/config.py
    "device seed dtype hook_point_in hook_point_out use_decoder_bias apply_decoder_bias_to_pre_encoder "
    "expansion_factor d_model d_sae bias_init_method act_fn jump_relu_threshold norm_activation "
    "dataset_average_activation_norm.in dataset_average_activation_norm.out decoder_exactly_fixed_norm "
    "sparsity_include_decoder_norm use_glu_encoder init_decoder_norm init_encoder_norm "
    "init_encoder_with_decoder_transpose lp l1_coefficient l1_coefficient_warmup_steps top_k k_warmup_steps "
    "use_batch_norm_mse use_ghost_grads tp_size ddp_size sae_pretrained_name_or_path strict_loading sae_type"
)
OPENAI = names(  # Autoencoder and its state_dict in model.py; weights are checked one by one
    "activation activation_state_dict.k activation_state_dict.postact_fn stats_last_nonzero "
    "latents_activation_frequency latents_mean_square"
)
PEERS = {
    "saelens": (saelens.FIELDS, [*SAELENS_SAE, *(f"metadata.{name}" for name in SAELENS_MODEL)]),
    "saelens-scaler": (saelens.SCALER_FIELDS, ["scaling_factor", "has_whitening"]),
    "saelens-flat": (saelens_pre6.FIELDS, [*SAELENS_FLAT, *SAELENS_MODEL]),
    "dictionary_learning": (dictionary_learning.FIELDS, DICTIONARY_LEARNING),
    "sparsify": (sparsify.FIELDS, SPARSIFY),
    "sparsify-run": (sparsify.RUN_FIELDS, SPARSIFY_RUN),
    "gemma_scope": (gemma_scope.FIELDS, ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"]),
    "gemma_scope_2": (gemma_scope_2.FIELDS, GEMMA_SCOPE_2),
    "llama_scope": (llama_scope.FIELDS, LLAMA_SCOPE),
    "openai": (openai.FIELDS, OPENAI),
}


def lists(fields: Fields) -> list[set[str]]:
    return [set(entries) for entries in (fields.applied, fields.refused, fields.said, fields.harmless)]


def nested(name: str, value: object) -> dict[str, object]:
    """A config with one field, whose name leads into objects."""
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("peer", PEERS)
def test_every_field_of_the_peers_is_in_exactly_one_list(peer: str) -> None:
    fields, theirs = PEERS[peer]
    found = {name: sum(name in entries for entries in lists(fields)) for name in theirs}
    assert found == dict.fromkeys(theirs, 1)
    everything = list(chain.from_iterable(lists(fields)))
    assert len(everything) == len(set(everything))


RULES = [
    pytest.param(fields, name, rule, id=f"{peer}-{name}")
    for peer, (fields, _) in PEERS.items()
    for name, rule in {**fields.refused, **fields.said}.items()
]


@pytest.mark.parametrize(("fields", "name", "rule"), RULES)
def test_a_field_that_matters_is_refused_or_said_by_name_unless_it_changes_nothing(
    tmp_path, fields: Fields, name: str, rule: Rule
) -> None:
    for value in rule.unless:
        assert fields.check(tmp_path, nested(name, value)) == []
    config = nested(name, "something else")
    if name in fields.refused:
        with pytest.raises(CheckpointError, match=f"says {name} is 'something else': ") as raised:
            fields.check(tmp_path, config)
        sentence = str(raised.value)
    else:
        (sentence,) = fields.check(tmp_path, config)
        assert sentence.startswith(f"The config says {name} is 'something else': ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("peer", PEERS)
def test_a_field_that_is_not_known_is_named(tmp_path, peer: str) -> None:
    fields, theirs = PEERS[peer]
    (note,) = fields.check(tmp_path, {"wibble": 1, "wobble": {"a": 2}, "nothing": None})
    assert note == "The config also has wibble, wobble, which SeeSAE does not know and made nothing of."
    for section in {name.rpartition(".")[0] for name in theirs} - {""}:
        (note,) = fields.check(tmp_path, nested(f"{section}.wibble", 1))
        assert f"has {section}.wibble, which" in note
        assert fields.check(tmp_path, nested(section, None)) == []
        (note,) = fields.check(tmp_path, nested(section, 3))
        assert f"has {section}, which" in note


def test_no_fixture_of_another_package_has_a_field_that_is_not_known(tmp_path) -> None:
    files = {
        "saelens-[!n]*/cfg.json": saelens.FIELDS,
        "saelens_pre6-*/cfg.json": saelens_pre6.FIELDS,
        "dictionary_learning-*/config.json": dictionary_learning.FIELDS,
        "sparsify-*/*/cfg.json": sparsify.FIELDS,
        "sparsify-*/config.json": sparsify.RUN_FIELDS,
        "gemma_scope_2-*/**/config.json": gemma_scope_2.FIELDS,
        "llama_scope-*/hyperparams.json": llama_scope.FIELDS,
    }
    for pattern, fields in files.items():
        paths = list(FIXTURES.glob(pattern))
        assert paths, pattern
        for path in paths:
            notes = fields.check(path, json.loads(path.read_text()))
            assert not [note for note in notes if "does not know" in note], path


ODD = (None, True, -1, 10**40, float("nan"), "", "a\nb", [], ["a"], {"a": 1})
CONFIGS = {  # a config, and the SAE's folder
    "saelens-topk/cfg.json": "saelens-topk",
    "saelens_pre6-topk/cfg.json": "saelens_pre6-topk",
    "dictionary_learning-matryoshka/config.json": "dictionary_learning-matryoshka",
    "sparsify-topk/layers.3/cfg.json": "sparsify-topk/layers.3",
    "sparsify-topk/config.json": "sparsify-topk/layers.3",
    "gemma_scope_2-skip-transcoder/transcoder/layer_3_width_16k_l0_small_affine/config.json": "",
    "llama_scope-jumprelu/hyperparams.json": "llama_scope-jumprelu",
}


def with_value(config: dict[str, object], path: tuple[str, ...], value: object) -> dict[str, object]:
    name, *rest = path
    inner = config.get(name)
    return {**config, name: with_value(inner, tuple(rest), value) if rest and isinstance(inner, dict) else value}


def paths(config: dict[str, object]) -> list[tuple[str, ...]]:
    inner = [(name, *path) for name, value in config.items() if isinstance(value, dict) for path in paths(value)]
    return [*((name,) for name in config), *inner]


@pytest.mark.parametrize("config", CONFIGS)
def test_any_value_of_any_field_is_read_or_refused_in_one_line(tmp_path, config: str) -> None:
    case = config.split("/")[0]
    copy_of(case, tmp_path / case)
    file = tmp_path / config
    sae = tmp_path / CONFIGS[config] if CONFIGS[config] else file.parent
    original = json.loads(file.read_text())
    assert load(sae).sae.d_sae == 12
    for path in [*paths(original), ("wibble",)]:
        for value in ODD:
            file.write_text(json.dumps(with_value(original, path, value)))
            try:
                sentences = load(sae).notes
            except CheckpointError as error:
                sentences = [str(error)]
            assert all(sentence.isprintable() for sentence in sentences), (path, value)


keys = st.text(max_size=100) | st.sampled_from(["metadata", "metadata.model_name", "trainer", "buffer.io", "k", "type"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, max_size=30))
def test_any_config_gives_short_sentences_or_one_refusal(config: dict[str, object]) -> None:
    for fields, _ in PEERS.values():
        try:
            sentences = fields.check(FIXTURES, config)
        except CheckpointError as error:
            sentences = [str(error)]
        for sentence in sentences:
            assert sentence.isprintable()
            assert len(sentence) < 3000


changes = st.lists(st.tuples(st.integers(0, 10**6), values | st.sampled_from(ODD)), min_size=1, max_size=4)


@pytest.mark.parametrize("config", CONFIGS)
@given(changes=changes, more=st.dictionaries(keys, values, max_size=2))
@settings(max_examples=60, deadline=None)
def test_a_folder_with_any_config_is_read_or_refused_in_one_line(config: str, changes: list, more: dict) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        case = config.split("/")[0]
        copy_of(case, folder / case)
        file = folder / config
        written = json.loads(file.read_text())
        fields = paths(written)
        for place, value in changes:
            written = with_value(written, fields[place % len(fields)], value)
        file.write_text(json.dumps(more | written))
        try:
            sentences = load(folder / CONFIGS[config] if CONFIGS[config] else file.parent).notes
        except CheckpointError as error:
            sentences = [str(error)]
        assert all(sentence.isprintable() for sentence in sentences)


def test_a_dot_inside_a_name_does_not_lead_into_an_object(tmp_path) -> None:
    (note,) = saelens.FIELDS.check(tmp_path, {"metadata.model_name": "tiny"})
    assert "has 'metadata.model_name', which" in note
