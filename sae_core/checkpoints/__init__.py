"""Public checkpoint formats, one file per format: all can be read, and some written."""

from sae_core.checkpoints.base import Checkpoint, Format
from sae_core.checkpoints.formats import FORMATS, detect
from sae_core.checkpoints.loading import Located, load, load_sae, locate, save_sae

__all__ = ["FORMATS", "Checkpoint", "Format", "Located", "detect", "load", "load_sae", "locate", "save_sae"]
