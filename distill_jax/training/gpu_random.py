"""Chooses how GPUs draw random numbers: by a kernel, or as XLA compiles it."""

import os

import jax
from jax.sharding import AbstractMesh, Mesh

_OPTION = "jax_threefry_gpu_kernel_lowering"


def choose_lowering(mesh: Mesh | AbstractMesh) -> None:
  """Has programs of one GPU draw by JAX's kernel, in the whole process.

  Without it XLA compiles some hundred operations for each draw, and separate
  layers make hundreds of draws: minutes, for initial parameters as for a train
  step. Of a mesh each device would draw whole arrays by it, in 24 bytes an
  element, to keep its part, so there XLA compiles the generator. On other
  devices than GPUs it changes nothing. The environment variable
  JAX_THREEFRY_GPU_KERNEL_LOWERING, where it is set, decides instead.

  Args:
    mesh: of what is compiled from now on.
  """
  if _OPTION.upper() not in os.environ:
    jax.config.update(_OPTION, mesh.size == 1)
