"""The architectures. Each file holds one, and names its source and how it differs from it."""

from imgrec.models.build import build_model, count_parameters

__all__ = ["build_model", "count_parameters"]
