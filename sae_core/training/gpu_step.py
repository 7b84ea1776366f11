"""A training step of TopK and BatchTopK in Triton, captured in a CUDA graph, without host synchronisation.

Operations of a step at d_in 768, d_sae 16,384, k 32, bfloat16 and 16,384 rows, on an H100 (989 TFLOP/s, 3.35 TB/s):
the encoder's product 412 GFLOP, 0.42 ms; its pre-activations 0.5 GB written, 0.16 ms; four gathers of 0.8 GB from the
L2 cache; the optimiser 0.75 GB, 0.23 ms, whatever the batch. These are bounds from the card's figures, not measured
times: `make bench-gpu` measures.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.errors import SAEError
from sae_core.kernels.gpu import MOST
from sae_core.kernels.gpu.adam import AdamState, Schedule, descend, prepare_step, squared_norms
from sae_core.kernels.gpu.auxk import Dead, add_auxk
from sae_core.kernels.gpu.product import pre_activations
from sae_core.kernels.gpu.select import Entries, batch_topk, row_topk
from sae_core.kernels.gpu.sparse import ByFeature, reconstruct, sum_by_feature
from sae_core.kernels.gpu.targets import centre, take_in
from sae_core.saes.batch import Losses
from sae_core.saes.batchtopk import THRESHOLD_MEMORY, BatchTopK
from sae_core.saes.topk import TopK
from sae_core.training.state import TrainingState, diverged

WARM_UP = 2
"""Steps before the graph is captured, in which kernels are compiled and libraries take their workspace."""


def is_supported(state: TrainingState) -> bool:
    """True if `GpuStep` can train it: a TopK or BatchTopK autoencoder, by one process, each batch in one part."""
    sae = state.sae
    return (
        isinstance(sae, TopK)
        and type(sae) in (TopK, BatchTopK)
        and sae.config.k <= MOST
        and not sae.is_transcoder
        and sae.config.apply_b_dec_to_input
        and sae.config.normalize_activations == "none"
        and state.grid.tokens.size == state.grid.features.size == 1
        and state.config.accumulate == 1
    )


class GpuStep:
    """`take_step` for one training state, whose tensors it changes in place.

    Checkpoints are the same. Two things differ from the ordinary step, so that the host need not wait for the device:
    the next step overwrites the losses, and a loss or a gradient that is not a number raises nothing. It stops the
    weights from changing, and `check` reports it.
    """

    def __init__(self, state: TrainingState) -> None:
        """Bind the tensors of a state.

        Raises:
            SAEError: the state is not supported (see `is_supported`).
        """
        if not is_supported(state):
            raise SAEError(
                "This SAE has no GPU step: only TopK and BatchTopK autoencoders do, on one GPU, without accumulation."
            )
        sae, config = state.sae, state.config
        assert isinstance(sae, TopK) and config.dead_after is not None, "is_supported and resolved() say so"
        self._state, self._sae, self._dead_after = state, sae, config.dead_after
        self._schedule = _schedule(state)
        self._adam = AdamState.after(state.step, self._schedule, sae.W_dec.device)
        self._moments, self._counts = _optimiser_state(state)
        self._encoder = sae.W_enc.detach().t()
        self._decoder = sae.W_dec.detach()
        self._dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._tf32 = config.precision == "tf32"
        # Copies that products and gathers read; the optimiser updates them with the weights.
        self._fast_encoder = self._encoder.to(self._dtype)
        self._fast_decoder = self._decoder.to(self._dtype)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = 0

    def is_finite(self) -> bool:
        """True if all losses and gradients so far were numbers. Waits for the device."""
        return bool(self._adam.is_finite())

    def check(self) -> None:
        """Raise TrainingDiverged if a loss or a gradient so far was not a number. Waits for the device."""
        if not self.is_finite():
            raise diverged(self._state, f"by step {self._state.step}", by_data=False)

    @torch.no_grad()
    def __call__(self, rows: Float[Tensor, "batch d_in"]) -> Losses:
        """Take one step on a batch of activations in the model's own units; the losses hold until the next step.

        All batches have one shape and type. On a GPU, after the first steps it is a copy and a graph's replay.
        """
        if not rows.is_cuda or self._done < WARM_UP:
            self._losses = self._advance(rows.contiguous())
        else:
            if self._graph is None:
                self._rows = rows.contiguous().clone()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._losses = self._advance(self._rows)
            self._rows.copy_(rows, non_blocking=True)
            self._graph.replay()
        self._done += 1
        self._state.step += 1
        return self._losses

    def _advance(self, rows: Float[Tensor, "batch d_in"]) -> Losses:
        state, sae, batch = self._state, self._sae, len(rows)
        x, sums, square = centre(rows, sae.input_scale, sae.b_dec, self._dtype)
        variance, factor = take_in(
            sums, square, sae.b_dec, batch, state.targets.count, state.targets.mean, state.targets.squares
        )
        pre, peaks = pre_activations(x, self._fast_encoder, sae.b_enc, tf32=self._tf32)
        entries = self._select(pre, peaks)
        errors, row_squares, of_values = reconstruct(
            entries, self._fast_decoder, rows, sae.input_scale, sae.b_dec, factor
        )
        grouped = ByFeature.of(entries.features, sae.d_sae)
        of_decoder, _ = sum_by_feature(grouped, entries.values, entries.rows, errors, factor)
        of_encoder, of_bias = sum_by_feature(grouped, of_values, entries.rows, x)
        of_b_dec = factor * errors.sum(dim=0, dtype=torch.float32) - of_bias @ self._encoder
        gradients = (of_decoder, of_encoder, of_bias)
        left = row_squares.sum()
        samples = self._adam.step * state.config.batch_size
        dead = Dead.of(samples - state.last_active > self._dead_after)
        mse = left / batch
        total = mse / variance + add_auxk(
            dead, pre, x, self._fast_decoder, errors, left, sae.config.aux_coefficient, gradients, tf32=self._tf32
        )
        self._descend(gradients, of_b_dec, total)
        is_active = grouped.is_active()
        state.last_active.copy_(torch.where(is_active, samples + state.config.batch_size, state.last_active))
        return Losses(total=total, mse=mse, l0=grouped.borders[-1] / batch, active=is_active)

    def _select(self, pre: Float[Tensor, "batch d_sae"], peaks: Float[Tensor, "batch groups"]) -> Entries:
        """Select the batch's active entries; BatchTopK also learns its threshold from them."""
        sae, k = self._sae, self._sae.config.k
        if not isinstance(sae, BatchTopK):
            return row_topk(pre, peaks, k)
        entries = batch_topk(pre, peaks, k * len(pre))
        smallest = torch.where(entries.values > 0, entries.values, torch.inf).min()
        moved = torch.where(sae.threshold < 0, smallest, torch.lerp(smallest, sae.threshold, THRESHOLD_MEMORY))
        sae.threshold.copy_(torch.where(smallest.isfinite(), moved, sae.threshold))
        return entries

    def _descend(
        self,
        gradients: tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"]],
        of_b_dec: Float[Tensor, " d_in"],
        loss: Float[Tensor, ""],
    ) -> None:
        sae, adam, schedule, moments = self._sae, self._adam, self._schedule, self._moments
        prepare_step(adam, schedule, squared_norms(gradients, self._decoder), of_b_dec, loss)
        is_short = self._dtype != torch.float32
        of_decoder, of_encoder, of_bias = gradients
        descend(
            self._encoder, of_encoder, moments["W_enc"], adam, schedule, copy=self._fast_encoder if is_short else None
        )
        descend(
            self._decoder, of_decoder, moments["W_dec"], adam, schedule,
            copy=self._fast_decoder if is_short else None, unit_rows=True,
        )  # fmt: skip
        descend(sae.b_enc.detach(), of_bias, moments["b_enc"], adam, schedule)
        descend(sae.b_dec.detach(), of_b_dec, moments["b_dec"], adam, schedule)
        torch._foreach_add_(self._counts, 1)


def _schedule(state: TrainingState) -> Schedule:
    config = state.config
    assert config.lr is not None, "resolved() comes first"
    return Schedule(
        lr=config.lr,
        rising=max(1.0, config.warmup * config.steps),
        falling=max(1.0, config.decay * config.steps),
        steps=config.steps,
        clip=state.clip,
        beta1=config.beta1,
        beta2=config.beta2,
    )


def _optimiser_state(state: TrainingState) -> tuple[dict[str, tuple[Tensor, Tensor]], list[Tensor]]:
    """Return Adam's moments of each parameter, laid out as the optimiser has them, and its counts of steps.

    Before the first step they are made, so that checkpoints hold them.
    """
    moments, counts = {}, []
    for (name, _), group in zip(state.sae.named_parameters(), state.optimiser.param_groups, strict=True):
        (parameter,) = group["params"]
        own = state.optimiser.state[parameter]
        if not own:
            own["step"] = torch.zeros((), device=parameter.device)
            own["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            own["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        moments[name] = (own["exp_avg"], own["exp_avg_sq"])
        counts.append(own["step"])
    return moments, counts
