"""Fields of SAELens' configs that say which model and text an SAE was trained on, the same before and since version 6.

Their names are those of `LanguageModelSAERunnerConfig` in sae_lens/config.py and of `LLM_METADATA_KEYS` in
sae_lens/loading/pretrained_sae_loaders.py; the model's options are those of TransformerLens' `from_pretrained`.
"""

from sae_core.checkpoints.fields import Fields, Rule, names

_CLASSES = (None, "HookedTransformer", "HookedSAETransformer", "AutoModelForCausalLM", "TransformerBridge")
_OWN_WEIGHTS = "SeeSAE runs the model as transformers has it. Give an SAE that was trained on the model as it is."

_MODEL_OPTIONS = Fields(
    applied=frozenset({"revision"}),
    refused={
        "center_writing_weights": Rule(f"it was trained on activations minus their mean. {_OWN_WEIGHTS}"),
        "fold_value_biases": Rule(f"it moves biases of attention. {_OWN_WEIGHTS}"),
        "refactor_factored_attn_matrices": Rule(f"it rotates what attention heads compute. {_OWN_WEIGHTS}"),
        "checkpoint_index": Rule("SeeSAE knows no such checkpoints. Give an SAE of the model's last one.", (None,)),
        "checkpoint_value": Rule("SeeSAE knows no such checkpoints. Give an SAE of the model's last one.", (None,)),
    },
    said={
        **{
            name: Rule("SeeSAE runs the model in float32 on a CPU, and in the checkpoint's own type on a GPU.", floats)
            for floats in [(None, "float32", "torch.float32")]
            for name in ("dtype", "torch_dtype")
        },
        **{
            name: Rule("SeeSAE runs the model as it is on disk, without quantising it.", (None, False, {}))
            for name in ("load_in_8bit", "load_in_4bit", "quantization_config")
        },
    },
    harmless=names(
        "attn_implementation cache_dir center_unembed default_padding_side default_prepend_bos device device_map "
        "first_n_layers fold_ln local_files_only low_cpu_mem_usage move_to_device n_devices token "
        "trust_remote_code"
    ),
)

FIELDS = Fields(
    applied=frozenset({"model_name", "hook_name", "hook_name_out", "context_size", "prepend_bos"}),
    refused={
        "hook_head_index": Rule("SeeSAE reads all heads of a layer together. Give an SAE of all heads.", (None,)),
        "model_class_name": Rule(
            "SeeSAE has causal language models of transformers only. Give an SAE of one.", _CLASSES
        ),
    },
    said={
        "seqpos_slice": Rule(
            "only these positions of each sequence were trained on; SeeSAE reads all of them.",
            (None, [], [None], [None, None], [0], [0, None], [None, None, None]),
        ),
        "exclude_special_tokens": Rule(
            "these tokens were left out of the training; SeeSAE leaves out the tokenizer's special tokens.",
            (None, False, True, []),
        ),
        "disable_concat_sequences": Rule(
            "documents were not joined in training; SeeSAE joins them, with the model's EOS between them."
        ),
        "sequence_separator_token": Rule("SeeSAE puts the model's EOS between documents.", ("bos", "eos")),
        "model_kwargs": Rule("these options of the model's forward pass are not used.", (None, {})),
    },
    harmless=names(
        "dataset_path dataset_trust_remote_code neuronpedia_id sae_lens_version sae_lens_training_version hook_layer "
        "hf_hook_name hf_hook_name_out training_architecture training_architecture_details"
    ),
) | _MODEL_OPTIONS.under("model_from_pretrained_kwargs")
