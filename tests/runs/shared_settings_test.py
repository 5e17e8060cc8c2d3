"""Tests of runs/shared_settings.py."""

from distill_jax.config import declaration
from distill_jax.runs import eval as eval_mode
from distill_jax.runs import infer, precompile, train


def test_modes_that_share_a_setting_declare_it_alike():
  shared = ("mesh", "dcn_mesh", "decode_layout")
  modes = [
    declaration.read(mode)
    for mode in (
      train.TrainRun,
      precompile.PrecompileRun,
      eval_mode.EvalRun,
      infer.InferRun,
    )
  ]
  for name in shared:
    macros = {declared[name].macro for declared in modes}
    assert macros == {name.upper()}
    allowed = {declared[name].one_of for declared in modes}
    assert len(allowed) == 1
