"""20 steps of each optimizer against the library that it stands in for.

AdamW against PyTorch's under HF Trainer's schedule and clipping, Adafactor
against T5X's own; scripts/make_optimizer_golden.py wrote what they computed.
"""

import functools
import json
import pathlib

import jax
import numpy as np
import optax
import pytest

from distill_jax.optim import factory, schedules

_FOLDER = pathlib.Path(__file__).parents[1] / "testdata" / "optim"
_ADAMW = ("paper", "unclipped", "warmup", "weight_decay", "betas")
_ADAFACTOR = (
  "default",
  "factored",
  "unscaled",
  "slow_decay",
  "tight",
  "global_norm",
)
_NUM_STEPS = 20


@functools.cache
def _load(name):
  with np.load(_FOLDER / f"{name}.npz") as file:
    return dict(file)


def _select(golden, prefix):
  return {
    key.removeprefix(f"{prefix}/"): value
    for key, value in golden.items()
    if key.startswith(f"{prefix}/")
  }


def _check(golden, variant, optimizer, schedule, share_of_move=0.0):
  """Compares learning rates and parameters after the last step.

  Args:
    golden: what `_load` returns.
    variant: whose parameters.
    optimizer: ours.
    schedule: its learning rate.
    share_of_move: how far off a parameter may be besides 1e-6 of the largest,
      as a share of how far it was moved.
  """
  params = _select(golden, "parameter")
  gradients = _select(golden, "gradient")
  expected = _select(golden, variant)
  rates = [schedule(step) for step in range(_NUM_STEPS)]
  np.testing.assert_allclose(rates, expected["learning_rate"], rtol=1e-6)
  update = jax.jit(optimizer.update)
  state = optimizer.init(params)
  found = params
  for step in range(_NUM_STEPS):
    gradient = {name: value[step] for name, value in gradients.items()}
    updates, state = update(gradient, state, found)
    found = optax.apply_updates(found, updates)
  for name, param in params.items():
    moved = np.abs(expected[name] - param).max()
    tolerance = 1e-6 * np.abs(expected[name]).max() + share_of_move * moved
    assert moved > 1000 * tolerance  # Else nothing would be compared.
    np.testing.assert_allclose(
      found[name], expected[name], rtol=0, atol=tolerance, err_msg=name
    )


@pytest.mark.parametrize("variant", _ADAMW)
def test_adamw_is_pytorchs(variant):
  """optax takes 1 - 0.999**step in float32, PyTorch in double precision.

  The first steps lose three digits by it and come out 1e-5 shorter, which shows
  in parameters that begin near 0. With jax_enable_x64 the difference is gone.
  """
  golden = _load("adamw")
  settings = json.loads(str(golden[f"{variant}/settings"]))
  schedule = schedules.linear_decay(
    5e-5, _NUM_STEPS, settings.pop("warmup_steps", 0)
  )
  optimizer = factory.adamw(schedule, **settings)
  _check(golden, variant, optimizer, schedule, share_of_move=2e-5)


@pytest.mark.parametrize("variant", _ADAFACTOR)
def test_adafactor_is_t5xs(variant):
  golden = _load("adafactor")
  settings = json.loads(str(golden[f"{variant}/settings"]))
  schedule = schedules.constant(1e-3)
  _check(golden, variant, factory.adafactor(schedule, **settings), schedule)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_every_variant_is_compared(name):
  variants = {"adamw": _ADAMW, "adafactor": _ADAFACTOR}[name]
  found = [key for key in _load(name) if key.endswith("/settings")]
  assert sorted(found) == sorted(f"{variant}/settings" for variant in variants)
