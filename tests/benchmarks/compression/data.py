"""The shipped example's images."""

from pipeline.recipes.fashion.data import splits

__all__ = ["splits"]
