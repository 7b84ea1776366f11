"""SAEDashboard's feature data for 64 features on the same tokens.

It wants a TransformerLens model, which that library makes by the names it knows, and SmolLM2 is not among them. So the
model here has SmolLM2's shape and unembedding and random weights. Its forward is timed, and the real activations come
from SAEDashboard's own cache of them.
"""

import time
from pathlib import Path

import protocol
import torch
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_dashboard.transformer_lens_wrapper import ActivationConfig, TransformerLensWrapper
from sae_lens import SAE, HookedSAETransformer
from safetensors.torch import load_file
from transformer_lens import HookedTransformerConfig

FEATURES = 64
REPEATS = 4
"""Repeats per turn, since one ends too soon to be measured well."""
HOOK = "blocks.9.hook_resid_post"


def main() -> None:
    settings = protocol.arguments()
    folder = Path(settings["dashboard"])
    tensors = load_file(folder / "peer.safetensors")
    token_ids, W_U = tensors["token_ids"], tensors["W_U"]
    d_model, d_vocab = W_U.shape
    model = HookedSAETransformer(
        HookedTransformerConfig(
            n_layers=10,
            d_model=d_model,
            d_vocab=d_vocab,
            n_ctx=token_ids.shape[1],
            n_heads=9,
            n_key_value_heads=3,
            d_head=64,
            d_mlp=1536,
            gated_mlp=True,
            act_fn="silu",
            normalization_type="RMS",
            positional_embedding_type="rotary",
            rotary_dim=64,
            final_rms=True,
            device="cpu",
        )
    )
    model.unembed.W_U.data = W_U

    def go(turns: int) -> dict[str, float]:
        """Everything again, several times per turn, and one forward; seconds of one each."""
        repeats = REPEATS * turns
        start = time.perf_counter()
        for _ in range(repeats):
            sae = SAE.load_from_disk(folder / settings["sae"])
            # The runner folds the norms of decoder rows, which a TopK SAE that ignores them refuses. Ours are all 1.
            sae.fold_W_dec_norm = lambda: None
            config = SaeVisConfig(
                hook_point=HOOK,
                # Spread over the SAE, so that they are neither the first nor chosen.
                features=range(0, sae.cfg.d_sae, sae.cfg.d_sae // FEATURES),
                minibatch_size_features=FEATURES,
                cache_dir=folder / "peer",
            )
            made = SaeVisRunner(config).run(encoder=sae, model=model, tokens=token_ids)
        seconds = (time.perf_counter() - start) / repeats
        start = time.perf_counter()
        wrapped = TransformerLensWrapper(model, ActivationConfig(HOOK, []))
        for batch in token_ids.split(SaeVisConfig.minibatch_size_tokens):
            wrapped.forward(batch, return_logits=False)
        forward = time.perf_counter() - start
        alive = sum(feature.acts_histogram_data.bar_heights != [] for feature in made.feature_data_dict.values())
        work = FEATURES * token_ids.numel()
        return {
            "seconds": seconds,
            "forward": forward,
            "alive": alive,
            "rate": work / seconds,
            # Without a cache, which is its default, each batch of features runs the model again.
            "rate_with_forward": work / (seconds + forward),
        }

    torch.set_grad_enabled(False)
    protocol.answer({"go": go}, ["sae-dashboard", "sae-lens", "transformer-lens", "numpy"])


if __name__ == "__main__":
    main()
