"""Configurations of published models, by the names that families give them.

Example:
  >>> import distill_jax as dj
  >>> dj.presets.t5_1_1("small").embed_dim
  512
"""

from collections.abc import Callable
from typing import Any

from distill_jax.model import registry


def __getattr__(name: str) -> Callable[..., Any]:
  found = _list_presets()
  if name not in found:
    raise AttributeError(
      f"There is no preset {name!r}, only {', '.join(sorted(found))}."
    )
  return found[name]


def __dir__() -> list[str]:
  return sorted(_list_presets())


def _list_presets() -> dict[str, Callable[..., Any]]:
  return {
    name: make_fn
    for family in registry.list_families()
    for name, make_fn in family.presets.items()
  }
