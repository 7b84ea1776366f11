"""SAEs whose config changes what they read, from tests/fixtures/sae_configs."""

import shutil
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "fixtures" / "sae_configs"


def case(name: str, parent: Path) -> Path:
    """Put the SAE of one config together, in a folder of its name."""
    folder = parent / name
    folder.mkdir()
    shutil.copy(CONFIGS / f"{name}.json", folder / "cfg.json")
    weights = "folded" if name == "flat_folded" else "weights"
    shutil.copy(CONFIGS / f"{weights}.safetensors", folder / "sae_weights.safetensors")
    if name == "scaler":
        shutil.copy(CONFIGS / "activation_scaler.json", folder)
    return folder
