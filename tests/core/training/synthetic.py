"""Activations whose features are known, and small training runs on them."""

import math

import torch

from sae_core.training import TrainingConfig

D_IN, FEATURES = 16, 40


class Synthetic:
    """Activations that are sums of 3 of 40 sparse directions, with a mean and a scale of their own."""

    d_in, d_out = D_IN, None

    def __init__(self, tokens=4096, poisoned_batch=None):
        generator = torch.Generator().manual_seed(1_000)  # of no SAE: its start values must not know the directions
        directions = torch.nn.functional.normalize(torch.randn(FEATURES, D_IN, generator=generator), dim=1)
        chosen = torch.rand(tokens, FEATURES, generator=generator).topk(3, dim=1).indices
        f = torch.zeros(tokens, FEATURES).scatter(1, chosen, 1 + torch.rand(tokens, 3, generator=generator))
        self.x = 10 * (f @ directions) + 5
        self.poisoned_batch = poisoned_batch

    def batches(self, batch_size, *, seed, skip=0, part=slice(None)):
        per_epoch = len(self.x) // batch_size
        while True:
            epoch, batch = divmod(skip, per_epoch)
            order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1000 * seed + epoch))
            x = self.x[order[batch * batch_size : (batch + 1) * batch_size]][part]
            yield x * math.nan if skip == self.poisoned_batch else x
            skip += 1

    def validation(self, batch_size):
        yield from Synthetic(tokens=2048).x.split(batch_size)


class Transcoding(Synthetic):
    """Targets that are what a layer makes of the activations: relu of a linear function, of another width and scale."""

    d_out = 12

    def __init__(self, **options):
        super().__init__(**options)
        weight = torch.randn(D_IN, 12, generator=torch.Generator().manual_seed(9))
        self.x = torch.cat([self.x, 100 * ((self.x - 5) @ weight).relu()], dim=1)

    def validation(self, batch_size):
        yield from Transcoding(tokens=2048).x.split(batch_size)


class CountingSource(Synthetic):
    made = 0

    def batches(self, *arguments, **options):
        for batch in super().batches(*arguments, **options):
            self.made += 1
            yield batch


def small(**options):
    defaults = {"d_sae": 64, "k": 3, "batch_size": 128, "samples": 128 * 60, "lr": 3e-3}
    return TrainingConfig(**(defaults | options))


OPTIONS = {"standard": {"l1_coefficient": 1.0}, "gated": {"l1_coefficient": 1.0}}
"""What suits these activations where the default does not."""


class Recorder:
    """A progress that keeps what it is told, and stops the run where asked."""

    def __init__(self, stop_at=None):
        self.metrics = []
        self.done = []
        self.stop_at = stop_at

    def __call__(self, done, total, metrics=None, /):
        self.done.append(done)
        if metrics is not None:
            self.metrics.append(dict(metrics))
        if self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt
