"""Selection of active features: the k largest of a row, the k·B largest of a batch, or those above a floor.

All functions take pre-activations and keep positive values only: a value of zero is an inactive feature. On a GPU,
`topk` and `batch_topk` of one process return all k or k·B entries, also those that are not positive: only the device
knows how many are, and the host would have to wait for it. `TopK` takes those as zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from sae_core.devices import answers_at_once
from sae_core.kernels import gpu
from sae_core.parallel import Axis

if TYPE_CHECKING:
    from sae_core.kernels.gpu.sparse import ByFeature


@dataclass(frozen=True)
class Selection:
    """The active entries of a `[batch, d_sae]` matrix, ordered by row."""

    rows: Int[Tensor, " active"]
    features: Int[Tensor, " active"]
    batch: int
    d_sae: int

    @cached_property
    def row_offsets(self) -> Int[Tensor, " batch"]:
        """Start of each row's entries."""
        return _offsets(self.rows, self.batch)

    @property
    def row_borders(self) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Start and end of each row's entries."""
        return self.row_offsets, pad(self.row_offsets[1:], (0, 1), value=len(self.rows))

    @cached_property
    def grouped(self) -> "ByFeature":
        """Entries grouped by feature, as the kernels for GPUs read them."""
        from sae_core.kernels.gpu.sparse import ByFeature

        return ByFeature.of(self.features, self.d_sae)

    @cached_property
    def by_feature(self) -> Int[Tensor, " active"]:
        """Order that groups the entries by feature, each feature's rows ascending."""
        if not answers_at_once(self.features):
            return self.features.sort(stable=True).indices
        keys = self.features.numpy()
        if self.d_sae <= 1 << 16:  # numpy sorts 16-bit integers by radix, five times faster
            keys = keys.astype(np.uint16)
        return torch.from_numpy(np.argsort(keys, kind="stable"))

    @cached_property
    def feature_offsets(self) -> Int[Tensor, " d_sae"]:
        """Start of each feature's entries in `by_feature`."""
        return _offsets(self.features[self.by_feature], self.d_sae)

    def active(self, values: Float[Tensor, " active"]) -> Bool[Tensor, " d_sae"]:
        """Return a mask of the features with at least one entry whose value is positive."""
        counts = torch.zeros(self.d_sae, dtype=torch.int32, device=self.features.device)
        return counts.index_add(0, self.features, (values > 0).int()) > 0

    def positive(self, values: Float[Tensor, " active"]) -> tuple["Selection", Float[Tensor, " positive"]]:
        """Return the entries whose value is positive, and these values. Waits for the device to count them."""
        kept = positions(values.detach() > 0)
        return Selection(self.rows[kept], self.features[kept], self.batch, self.d_sae), values[kept]

    def values(self, dense: Float[Tensor, "batch d_sae"]) -> Float[Tensor, " active"]:
        """Return the selected entries of a matrix."""
        return dense.flatten()[self.rows * self.d_sae + self.features]

    def dense(self, values: Float[Tensor, " active"]) -> Float[Tensor, "batch d_sae"]:
        """Return a matrix that holds `values` where selected, and zero elsewhere."""
        flat = values.new_zeros(self.batch * self.d_sae)
        return flat.index_put((self.rows * self.d_sae + self.features,), values).view(self.batch, self.d_sae)


def topk(pre: Float[Tensor, "batch d_sae"], k: int, features: Axis | None = None) -> Selection:
    """Select the k largest of each row, where positive; ties are broken as `torch.topk` does.

    If several processes share `features`, a row is that of all of them together, and the result is this process' part
    of it; then all entries that tie for the last place are kept.
    """
    batch, d_sae = pre.shape
    if gpu.selects(pre, k) and (features is None or features.size == 1):
        from sae_core.kernels.gpu.select import row_positions

        return _at(row_positions(pre, k), batch, d_sae)
    largest = pre.topk(min(k, d_sae), dim=1, sorted=False)
    if not answers_at_once(pre) and (features is None or features.size == 1):
        rows = torch.arange(batch, device=pre.device).repeat_interleave(largest.indices.shape[1])
        return Selection(rows, largest.indices.flatten(), batch, d_sae)
    kept = largest.values > 0
    if features is not None and features.size > 1:
        of_all = features.gather(pad(largest.values, (0, k - largest.values.shape[1]), value=-torch.inf), dim=1)
        kept &= largest.values >= of_all.topk(k, dim=1).values[:, -1:]
    rows, slots = kept.nonzero(as_tuple=True)
    return Selection(rows, largest.indices[rows, slots], batch, d_sae)


def batch_topk(pre: Float[Tensor, "batch d_sae"], count: int, shared: Sequence[Axis] = ()) -> Selection:
    """Select the `count` largest of the whole batch, where positive.

    Exact: if several entries tie for the last place, just enough of them are kept; on the CPU the first ones. If
    several processes have `shared` the batch, it is that of all of them together, and the result is this process' part
    of it; then all entries that tie for the last place are kept.
    """
    batch, d_sae = pre.shape
    local = min(count, pre.numel())
    if gpu.selects(pre):
        from sae_core.kernels.gpu.select import batch_positions

        chosen = batch_positions(pre, local)
    elif answers_at_once(pre):
        chosen = torch.from_numpy(_largest(pre.detach().contiguous().view(-1).numpy(), local))
    elif any(axis.size > 1 for axis in shared):
        chosen = _largest_reference(pre.flatten(), local)
    else:
        chosen = pre.flatten().topk(local, sorted=False).indices.sort().values
    if any(axis.size > 1 for axis in shared):
        chosen = _largest_of_all(pre.flatten(), chosen, count, shared)
    return _at(chosen, batch, d_sae)


def above(pre: Float[Tensor, "batch d_sae"], floor: Float[Tensor, " d_sae"]) -> Selection:
    """Select the entries that exceed their feature's floor and are positive."""
    return _at(positions((pre > floor.clamp(min=0)).flatten()), *pre.shape)


def positions(flat: Bool[Tensor, " size"]) -> Int[Tensor, " true"]:
    """Return the indices at which a mask is true, ascending; on a CPU numpy is six times as fast as torch."""
    if not answers_at_once(flat):
        return flat.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(flat.numpy()))


def _at(chosen: Int[Tensor, " active"], batch: int, d_sae: int) -> Selection:
    """Return the entries at these positions of the flattened matrix, ascending."""
    rows = torch.div(chosen, d_sae, rounding_mode="floor")
    return Selection(rows, chosen - rows * d_sae, batch, d_sae)


def _largest_of_all(
    flat: Float[Tensor, " size"], chosen: Int[Tensor, " chosen"], count: int, shared: Sequence[Axis]
) -> Int[Tensor, " kept"]:
    """Keep of this process' `count` largest those that are among the `count` largest of all processes."""
    values = flat[chosen]
    of_all = pad(values, (0, count - len(values)), value=-torch.inf)
    for axis in shared:
        of_all = axis.gather(of_all).topk(count, sorted=False).values
    return chosen[values >= of_all.min()]


def _largest_reference(flat: Float[Tensor, " size"], count: int) -> Int[Tensor, " chosen"]:
    """Return the positions of the `count` largest values that are positive, ascending."""
    largest = flat.topk(count, sorted=False)
    return largest.indices[largest.values > 0].sort().values


def _largest(flat: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Return what `_largest_reference` returns, on the CPU, 10 times faster than a partial sort of all values.

    Only a small share of the values is kept, so most need not be ranked. A sample of them gives a floor that a little
    more than `count` values should exceed. One comparison finds those values, and only they are ranked. If the floor
    turns out too high, too few exceed it: then all positive values are ranked. So the floor decides the time, never
    the result.
    """
    candidates = np.flatnonzero(flat > _sampled_floor(flat, count))
    if len(candidates) < count:
        candidates = np.flatnonzero(flat > 0)
    if len(candidates) <= count:
        return candidates
    values = flat[candidates]
    last = np.partition(values, len(values) - count)[len(values) - count]
    above = values > last
    tied = np.flatnonzero(values == last)[: count - int(above.sum())]
    above[tied] = True
    chosen: NDArray[np.int64] = candidates[above]
    return chosen


def _sampled_floor(flat: NDArray[np.floating], count: int, sample_size: int = 1 << 16) -> float:
    """Return a floor that more than `count` of the values almost surely exceed; 0 if the sample is too small to tell.

    Of a sample, `expected` values are among the `count` largest, give or take the root of that. The floor is the
    sample's value four standard deviations further down.
    """
    sample = flat[:: max(1, flat.size // sample_size) | 1]  # an odd step visits every column if d_sae is a power of two
    expected = count * len(sample) / flat.size
    rank = int(expected + 4 * expected**0.5) + 4
    if rank >= len(sample):
        return 0.0
    return max(0.0, float(np.partition(sample, len(sample) - rank)[len(sample) - rank]))


def _offsets(ordered: Int[Tensor, " active"], groups: int) -> Int[Tensor, " groups"]:
    """Return the start of each group in a sorted list of group numbers."""
    if not answers_at_once(ordered):
        return torch.searchsorted(ordered, torch.arange(groups, device=ordered.device))
    return torch.from_numpy(np.searchsorted(ordered.numpy(), np.arange(groups)))
