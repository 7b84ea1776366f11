"""One SAE of every kind that SeeSAE has, trained for one step, and what reading and writing them must keep."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.checkpoints import load
from sae_core.errors import CheckpointError
from sae_core.saes import ARCHITECTURES, SAE, Batch

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
D_IN, D_OUT, D_SAE, K = 6, 5, 20, 3
METADATA = {
    "model_name": "pythia-70m-deduped",
    "hook_name": "blocks.3.hook_resid_post",
    "context_size": 128,
    "prepend_bos": True,
    "seesae": {"training": {"samples": 1000}},
}
X = 0.7 + 1.5 * torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))
Y = 0.3 + 0.8 * torch.randn(40, D_OUT, generator=torch.Generator().manual_seed(2))
KINDS: dict[str, dict[str, Any]] = {
    "autoencoder": {},
    "transcoder": {"d_out": D_OUT},
    "skip-transcoder": {"d_out": D_OUT, "skip": True},
}


def trained(architecture: str, *, unit_rows: bool = False, **values: Any) -> SAE:
    """An SAE whose parameters are all different from zero, and whose scales and thresholds were learned."""
    cls = ARCHITECTURES[architecture]
    if "k" in cls.Config.__dataclass_fields__:
        values.setdefault("k", K)
    sae = cls(cls.Config(d_in=D_IN, d_sae=D_SAE, **values))
    target = (Y if sae.d_out == D_OUT else X.flip(0)) if sae.is_transcoder else X
    sae.initialise(X, seed=0, target=target if sae.is_transcoder else None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    if unit_rows:
        sae.normalise_decoder()
    sae.losses(Batch.of(X * sae.input_scale, target * sae.output_scale))
    return sae


EXAMPLES = {
    **{f"{name}-{kind}": trained(name, **KINDS[kind]) for name, kind in product(ARCHITECTURES, KINDS)},
    **{f"{name}-off-centre": trained(name, apply_b_dec_to_input=False) for name in ("standard", "jumprelu", "topk")},
    "standard-unit-rows": trained("standard", unit_rows=True),
    "standard-off-centre-unit-rows": trained("standard", unit_rows=True, apply_b_dec_to_input=False),
    "topk-layer-norm": trained("topk", normalize_activations="layer_norm"),
    "standard-constant-norm": trained("standard", normalize_activations="constant_norm_rescale"),
    "topk-square-transcoder": trained("topk", d_out=D_IN),
    "topk-square-skip-transcoder": trained("topk", d_out=D_IN, skip=True),
}


def assert_same(read: SAE, expected: SAE) -> None:
    """The two are bit for bit the same, down to the order of the numbers in memory."""
    assert type(read) is type(expected)
    assert read.k == expected.k
    for key, tensor in expected.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor), key
        assert read.state_dict()[key].dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in read.parameters())
    assert read.W_enc.stride() == expected.W_enc.stride() == (1, D_IN)
    assert torch.equal(read.encode(X), expected.encode(X))
    assert torch.equal(read(X), expected(X))


def assert_computes(sae: SAE, f: Tensor, out: Tensor, tolerance: float = 1e-5) -> None:
    """The SAE gives these activations and reconstructions for X, and the same features are active."""
    torch.testing.assert_close(sae.encode(X), f, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(sae(X), out, rtol=tolerance, atol=tolerance)
    assert torch.equal(sae.encode(X) > 0, f > 0)


def keep_largest(pre: Tensor, k: int) -> Tensor:
    """The k largest of each row where positive, and zero elsewhere."""
    largest = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, largest.indices, largest.values).relu()


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object; None removes one."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


def edit_tensors(path: Path, **changes: Tensor | None) -> None:
    """Change tensors of a safetensors file, whose dots are written `__`; None removes one."""
    tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def copy_of(case: str, folder: Path, *, leaf: str = "") -> Path:
    """A copy of a fixture that may be damaged; `leaf` is the SAE's folder inside it."""
    shutil.copytree(FIXTURES / case, folder, dirs_exist_ok=True)
    return folder / leaf


def assert_refused(path: Path, message: str) -> None:
    """Reading it says why not, in one line."""
    with pytest.raises(CheckpointError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value)
