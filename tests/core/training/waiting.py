"""Tests of what the host would wait for if tensors were a GPU's."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoSynchronisation(TorchDispatchMode):
    """Fails on operations whose result the host would wait for, or whose shape depends on data."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "equal"), name
        if name in ("index", "index_put", "index_put_"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), "index by a mask"
        return function(*args, **(kwargs or {}))
