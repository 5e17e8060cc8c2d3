"""Tests of training/fit_checks.py: what does not fit is told before a step."""

import dataclasses

import jax
import pytest
from synthetic_cache import VOCABULARY, make_cache, make_span_cache
from tiny_run import CONFIG

from distill_jax.data import vocab
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.errors import UserError
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.training import fit_checks


def test_vocabularies_up_to_the_embedding_fit():
  fit_checks.check_vocabulary(VOCABULARY, CONFIG)
  small = dataclasses.replace(CONFIG, vocab_size=VOCABULARY.size - 1)
  with pytest.raises(UserError, match="has 384 ids, but .* embeds only 383"):
    fit_checks.check_vocabulary(VOCABULARY, small)


def test_sentinels_have_embeddings(tmp_path):
  cache = make_span_cache(tmp_path)
  vocabulary = vocab.load_vocabulary(None)
  fits = dataclasses.replace(CONFIG, vocab_size=vocabulary.size + 100)
  fit_checks.check_sentinels(cache, vocabulary, fits)
  small = dataclasses.replace(CONFIG, vocab_size=vocabulary.size + 99)
  with pytest.raises(UserError, match="up to 899, .*VOCAB_SIZE=900 or more"):
    fit_checks.check_sentinels(cache, vocabulary, small)
  # Without the task the ids above the pieces are of no use.
  fit_checks.check_sentinels(make_cache(tmp_path, 2), vocabulary, small)


def test_spans_are_no_labels(tmp_path):
  cache = make_span_cache(tmp_path)
  fit_checks.check_early_stopping(cache, None)
  with pytest.raises(UserError, match="no task has a validation split"):
    fit_checks.check_early_stopping(cache, 3)
  # All of them are longer, and that is no error.
  fit_checks.warn_of_trimming(cache, {"inputs": 2, "targets": 2})


@pytest.mark.parametrize(
  "rows,microbatches,is_right",
  [(8, 2, True), (16, 4, True), (8, 3, False), (6, 1, False), (8, 4, False)],
)
def test_rows_divide_among_devices_and_microbatches(
  rows, microbatches, is_right
):
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2}, jax.devices()[:4])
  feed = FeedConfig({"inputs": 8, "targets": 8}, rows)
  if is_right:
    fit_checks.check_rows(feed, microbatches, mesh)
    return
  with pytest.raises(UserError, match=f"4 device groups .* {microbatches} mic"):
    fit_checks.check_rows(feed, microbatches, mesh)


def test_what_is_cut_is_counted(tmp_path, monkeypatch):
  told = []
  monkeypatch.setattr(
    fit_checks._log, "warning", lambda text, *args: told.append(text % args)
  )
  cache = make_cache(tmp_path, 5)
  fit_checks.warn_of_trimming(cache, {"inputs": 99, "targets": 99})
  assert told == []
  # A label and its end are two tokens, a rationale seven.
  fit_checks.warn_of_trimming(cache, {"inputs": 99, "targets": 2})
  (message,) = told
  assert "5 of 5 targets of toy_rationale are longer than 2" in message
  with pytest.raises(UserError, match="cuts every one of the 5 labels of toy_"):
    fit_checks.warn_of_trimming(cache, {"inputs": 99, "targets": 1})
