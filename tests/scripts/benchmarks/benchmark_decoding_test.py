"""Tests of scripts/benchmarks/benchmark_decoding.py.

What is left out changes no text.
"""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_student
from script_import import import_script
from synthetic_cache import make_cache

from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.evaluation.evaluator import CUT_MARK
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib

benchmark_decoding = import_script("benchmark_decoding")
CONFIG = dataclasses.replace(tiny_student.CONFIG, vocab_size=384)


@pytest.fixture(name="student", scope="module")
def fixture_student():
  """A model, one device, and its parameters."""
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  return T5(CONFIG), mesh, tiny_student.make_params(CONFIG)


@pytest.mark.parametrize("ends_after,num_decoded", [(None, 6), (2, 2)])
def test_rows_end_where_they_are_told_to(student, ends_after, num_decoded):
  timed = benchmark_decoding.compile_full_rows(
    *student, DecodingConfig(), 3, 8, 6, ends_after
  )
  tokens = np.asarray(timed.call())[:, 0]  # [rows, length]
  assert tokens.shape == (3, 6)
  if ends_after is not None:
    assert (tokens[:, num_decoded - 1] == 1).all()
    assert (tokens[:, num_decoded:] == 0).all()


def test_lengths_and_the_cap_change_no_text_but_its_end(student, tmp_path):
  cache = make_cache(tmp_path, 5)

  def predict(**choices):
    timed = benchmark_decoding.prepare_examples(
      *(*student, DecodingConfig(), cache, 4, 2),
      {"inputs": 64, "targets": 32},
      **choices,
    )
    return [texts[0] for texts in timed.call()], timed

  texts, timed = predict()
  whole, _ = predict(buckets_lengths=False)
  assert whole == texts and timed.num_rows == 5
  longer, timed_longer = predict(caps_labels=False)
  assert timed_longer.row_lengths["targets"] == 32
  assert timed.row_lengths["targets"] < 32
  assert all(texts)
  for text, long_text in zip(texts, longer, strict=True):
    assert long_text.startswith(text.removesuffix(CUT_MARK).rstrip())
