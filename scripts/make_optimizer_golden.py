"""Writes testdata/optim: 20 steps of PyTorch's AdamW and of T5X's Adafactor.

Parameters and gradients are drawn once and stored, so the tests need neither
PyTorch nor T5X. Each half runs where its library is; from the repository root:

  python scripts/make_optimizer_golden.py adamw       (pip install .[hf])
  python scripts/make_optimizer_golden.py adafactor   (T5X)

A file holds `parameter/NAME`, `gradient/NAME` [20, ...], and for every variant
of the optimizer `VARIANT/settings` (JSON), `VARIANT/learning_rate` [20] and
`VARIANT/NAME`, the parameter after the last step; `made_by` names the versions.
"""

import json
import pathlib
import sys
from typing import Any

import numpy as np

OUTPUT_DIR = pathlib.Path("tests/testdata/optim")
NUM_STEPS = 20
SHAPES = {
  "square": (8, 8),
  "tall": (12, 8),
  "wide": (8, 16),
  "thin": (16, 4),
  "vector": (6,),
  "tiny": (8, 9),
}
# Arguments of `optim.factory`, and of the schedule.
ADAMW = {
  # The authors' runs: what HF's Trainer does unless it is told otherwise.
  "paper": {"max_grad_norm": 1.0},
  "unclipped": {"max_grad_norm": None},
  "warmup": {"max_grad_norm": None, "warmup_steps": 5},
  "weight_decay": {"max_grad_norm": 1.0, "weight_decay": 0.01},
  "betas": {"max_grad_norm": None, "b1": 0.8, "b2": 0.95, "eps": 1e-4},
}
ADAMW_LEARNING_RATE = 5e-5
ADAFACTOR = {
  # T5X's defaults factor nothing this small.
  "default": {},
  "factored": {"min_dim_size_to_factor": 8},
  "unscaled": {
    "min_dim_size_to_factor": 8,
    "multiply_by_parameter_scale": False,
  },
  "slow_decay": {"min_dim_size_to_factor": 8, "decay_rate": 0.6},
  "tight": {"min_dim_size_to_factor": 8, "clipping_threshold": 0.5},
  "global_norm": {"min_dim_size_to_factor": 8, "max_grad_norm": 1.0},
}
ADAFACTOR_LEARNING_RATE = 1e-3

Arrays = dict[str, np.ndarray]


def make_problem() -> tuple[Arrays, Arrays]:
  """Returns parameters, and gradients [20, ...] of varying size."""
  rng = np.random.default_rng(0)
  scales = 10.0 ** rng.uniform(-1, 1, NUM_STEPS)
  parameters, gradients = {}, {}
  for name, shape in SHAPES.items():
    # Below the least scale that Adafactor multiplies updates by.
    size = 1e-5 if name == "tiny" else 0.05
    parameters[name] = size * rng.normal(0, 1, shape)
    # Rows and columns differ, and consecutive gradients resemble each other.
    drift = rng.normal(0, 1, shape)
    noise = rng.normal(0, 1, (NUM_STEPS, *shape))
    spread = 10.0 ** rng.uniform(-1, 1, shape[-1])
    gradients[name] = (drift + noise) * spread
    gradients[name] *= scales.reshape(-1, *[1] * len(shape))
  return _to_float32(parameters), _to_float32(gradients)


def run_adamw(
  parameters: Arrays, gradients: Arrays, settings: dict[str, Any]
) -> tuple[Arrays, list[float]]:
  """Runs torch.optim.AdamW as HF's Trainer does."""
  import torch
  import transformers

  tensors = {
    name: torch.nn.Parameter(torch.tensor(value))
    for name, value in parameters.items()
  }
  decay = settings.get("weight_decay", 0.0)
  optimizer = torch.optim.AdamW(
    [
      {
        "params": [t for t in tensors.values() if (t.ndim > 1) == is_matrix],
        "weight_decay": decay if is_matrix else 0.0,
      }
      for is_matrix in (True, False)
    ],
    lr=ADAMW_LEARNING_RATE,
    betas=(settings.get("b1", 0.9), settings.get("b2", 0.999)),
    eps=settings.get("eps", 1e-8),
  )
  schedule = transformers.get_linear_schedule_with_warmup(
    optimizer, settings.get("warmup_steps", 0), NUM_STEPS
  )
  rates = []
  for step in range(NUM_STEPS):
    for name, tensor in tensors.items():
      tensor.grad = torch.tensor(gradients[name][step])
    if settings["max_grad_norm"] is not None:
      torch.nn.utils.clip_grad_norm_(
        tensors.values(), settings["max_grad_norm"]
      )
    rates.append(schedule.get_last_lr()[0])
    optimizer.step()
    schedule.step()
  return {name: t.detach().numpy() for name, t in tensors.items()}, rates


def run_adafactor(
  parameters: Arrays, gradients: Arrays, settings: dict[str, Any]
) -> tuple[Arrays, list[float]]:
  """Runs t5x.adafactor.Adafactor."""
  import jax
  from t5x import adafactor

  settings = dict(settings)
  optimizer = adafactor.Adafactor(
    ADAFACTOR_LEARNING_RATE,
    global_norm_clip_threshold=settings.pop("max_grad_norm", None),
    **settings,
  )

  @jax.jit
  def update(params, state, gradient):
    return optimizer.apply_gradient(
      optimizer.hyper_params, params, state, gradient
    )

  params, state = dict(parameters), optimizer.init_state(parameters)
  for step in range(NUM_STEPS):
    gradient = {name: value[step] for name, value in gradients.items()}
    params, state = update(params, state, gradient)
  return params, [ADAFACTOR_LEARNING_RATE] * NUM_STEPS


def describe_versions(name: str) -> str:
  """Returns the command and the versions of what it ran."""
  from importlib import metadata

  packages = {
    "adamw": ("torch", "transformers"),
    "adafactor": ("jax", "flax"),
  }[name]
  versions = [f"{package} {metadata.version(package)}" for package in packages]
  if name == "adafactor":
    versions.insert(0, "T5X cc342d419ec3e3e9c4bf1df33c82330cafdc1e16")
  return f"python scripts/make_optimizer_golden.py {name}: " + ", ".join(
    versions
  )


def _to_float32(arrays):
  return {name: value.astype(np.float32) for name, value in arrays.items()}


def main(name: str) -> None:
  """Writes one file.

  Args:
    name: "adamw" or "adafactor".
  """
  run, variants = {
    "adamw": (run_adamw, ADAMW),
    "adafactor": (run_adafactor, ADAFACTOR),
  }[name]
  parameters, gradients = make_problem()
  arrays: dict[str, Any] = {"made_by": describe_versions(name)}
  for key, values in (("parameter", parameters), ("gradient", gradients)):
    arrays |= {f"{key}/{name}": value for name, value in values.items()}
  for variant, settings in variants.items():
    found, rates = run(parameters, gradients, settings)
    arrays |= {f"{variant}/{key}": value for key, value in found.items()}
    arrays[f"{variant}/settings"] = json.dumps(settings)
    arrays[f"{variant}/learning_rate"] = np.asarray(rates)
  OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(OUTPUT_DIR / f"{name}.npz", **arrays)
  print(arrays["made_by"])


if __name__ == "__main__":
  main(*sys.argv[1:])
