"""Compares the shapes of a stored state with those of the model."""

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from distill_jax.errors import UserError

PyTree = Any


def check_shapes(path: pathlib.Path, target: Mapping[str, PyTree]) -> None:
  """Refuses to restore into a model of another shape.

  Args:
    path: of the state, in a checkpoint's folder.
    target: trees of what it is restored into, by name.

  Raises:
    UserError: names the tensors that are missing, unexpected or of another
      shape.
  """
  with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    stored = handler.metadata(epath.Path(path)).tree
  wanted = _shapes(target)
  found = _shapes({key: stored.get(key, {}) for key in target})
  problems = [
    f"{name}: checkpoint has {found.get(name, 'nothing')}, model expects"
    f" {wanted.get(name, 'nothing')}"
    for name in sorted(wanted.keys() | found.keys())
    if wanted.get(name) != found.get(name)
  ]
  if problems:
    shown = "\n  ".join(problems[:8])
    more = f"\n  ... and {len(problems) - 8} more" if len(problems) > 8 else ""
    raise UserError(
      f"The checkpoint {path.parent} does not fit the model: {len(problems)} of"
      f" {len(wanted)} tensors differ.\n  {shown}{more}\nGive the model's gin"
      " file that it was trained with, or another checkpoint."
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(leaf, "shape")
  }
