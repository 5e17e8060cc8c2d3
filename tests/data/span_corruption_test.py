"""Tests of data/span_corruption.py: what is dropped, and what marks it."""

import pathlib

import numpy as np
import pytest
import small_vocabulary
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data import span_corruption, vocab
from distill_jax.data.records import Record
from distill_jax.errors import UserError

_SHIPPED = vocab.load_vocabulary(None)
_RECORD = Record(
  "7",
  "A bear and an ant walk into a room . how many legs are there ?",
  label="SECRET",
  rationale="a bear has 4 legs and an ant has 6 legs , which makes ten .",
  teacher_label="OTHER",
  weight=2.5,
)


def _count_runs(mask):
  return int(np.count_nonzero(np.diff(mask.astype(int), prepend=0) == 1))


def _restore(inputs, targets, sentinel_ids):
  """Puts what was dropped back in the place of its sentinel."""
  dropped: dict[int, list[int]] = {}
  current: list[int] = []
  for token in targets.tolist():
    if token in sentinel_ids:
      current = dropped.setdefault(token, [])
    else:
      current.append(token)
  restored = []
  for token in inputs.tolist():
    restored += dropped[token] if token in sentinel_ids else [token]
  return restored


@given(st.integers(2, span_corruption.MAX_TEXT_TOKENS), st.integers(0, 2**32))
def test_input_and_target_together_are_the_text(length, seed):
  tokens = np.random.default_rng(seed).integers(3, 800, length, np.int32)
  mask = span_corruption.make_noise_mask(length, np.random.default_rng(seed))
  num_noise, num_spans = span_corruption.count_noise(length)
  assert mask.shape == (length,)
  assert mask.sum() == num_noise == min(max(round(0.15 * length), 1), length)
  assert _count_runs(mask) == num_spans == max(round(num_noise / 3), 1)

  sentinel_ids = _SHIPPED.sentinel_ids
  inputs, targets = span_corruption.corrupt(tokens, mask, sentinel_ids)
  used = list(sentinel_ids[:num_spans])
  assert [t for t in inputs.tolist() if t in sentinel_ids] == used
  goes_on = not mask[-1]
  used += [sentinel_ids[num_spans]] * goes_on
  assert [t for t in targets.tolist() if t in sentinel_ids] == used
  assert targets[0] == sentinel_ids[0]
  assert len(inputs) == length - num_noise + num_spans
  assert len(targets) == num_noise + num_spans + goes_on
  assert inputs.dtype == targets.dtype == np.int32
  assert _restore(inputs, targets, sentinel_ids) == tokens.tolist()


def test_tokens_anywhere_are_dropped():
  rng = np.random.default_rng(0)
  masks = [span_corruption.make_noise_mask(200, rng) for _ in range(4000)]
  shares = np.mean(masks, axis=0)
  assert np.mean(shares) == 0.15
  # Fewer spans reach the first and last tokens than one amid the text.
  np.testing.assert_allclose(shares[4:-4], 0.15, atol=0.04)
  assert 0.04 < shares[0] and 0.04 < shares[-1]
  lengths = np.concatenate(
    [
      np.diff(np.flatnonzero(np.diff(mask, prepend=False, append=False)))[::2]
      for mask in masks
    ]
  )
  assert np.mean(lengths) == 3.0
  # Of the C(29, 9) ways to cut 30 tokens, C(28, 8) begin with a span of one.
  assert np.mean(lengths == 1) == pytest.approx(9 / 29, abs=0.01)


def test_of_a_short_text_any_tokens_are_dropped():
  """T5's own rule would drop the last ones each time."""
  rng = np.random.default_rng(0)
  starts = [
    int(span_corruption.make_noise_mask(20, rng).argmax()) for _ in range(1800)
  ]
  counts = np.bincount(starts, minlength=18)
  assert len(counts) == 18 and counts.min() > 60 and counts.max() < 140


def test_the_example_of_the_paper():
  """Figure 2 of the T5 paper."""
  words = "Thank you for inviting me to your party last week .".split()
  tokens = np.arange(10, 10 + len(words), dtype=np.int32)
  mask = np.array([word in ("for", "inviting", "last") for word in words])
  spell = dict(zip(tokens.tolist(), words, strict=True)) | {
    1: "<X>",
    2: "<Y>",
    3: "<Z>",
  }
  inputs, targets = span_corruption.corrupt(tokens, mask, [1, 2, 3])
  assert " ".join(spell[t] for t in inputs.tolist()) == (
    "Thank you <X> me to your party <Y> week ."
  )
  assert " ".join(spell[t] for t in targets.tolist()) == (
    "<X> for inviting <Y> last <Z>"
  )


def test_a_record_gives_its_texts_and_never_a_label():
  rows = list(span_corruption.make_rows([_RECORD], _SHIPPED, 3))
  assert [row["id"] for row in rows] == [
    f"7/{field}/{copy}" for field in ("input", "rationale") for copy in range(3)
  ]
  assert {row["loss_weight"] for row in rows} == {2.5}
  for row in rows:
    field = row["id"].split("/")[1]
    restored = _restore(row["inputs"], row["targets"], _SHIPPED.sentinel_ids)
    assert restored == _SHIPPED.encode(getattr(_RECORD, field))
    assert "<extra_id_0>" in row["inputs_pretokenized"]
    assert row["targets_pretokenized"].startswith("<extra_id_0> ")
  assert len({row["inputs"].tobytes() for row in rows}) == 6

  relabelled = Record(**{**vars(_RECORD), "label": "x", "teacher_label": None})
  again = span_corruption.make_rows([relabelled], _SHIPPED, 3)
  for row, other in zip(rows, again, strict=True):
    np.testing.assert_equal(row, other)


def test_a_text_shows_what_its_sentinels_stand_for():
  first, second = _SHIPPED.sentinel_ids[:2]
  ids = [*_SHIPPED.encode("how many"), first, second]
  ids += [*_SHIPPED.encode("legs ?"), 1, *_SHIPPED.encode("no")]
  assert span_corruption.write_text(ids, _SHIPPED) == (
    "how many <extra_id_0> <extra_id_1> legs ?"
  )


def test_what_is_drawn_depends_on_the_record_alone():
  others = [Record("0", "one more text of some length ?"), _RECORD]
  alone = list(span_corruption.make_rows([_RECORD], _SHIPPED, 1))
  among = list(span_corruption.make_rows(others, _SHIPPED, 4))
  found = {row["id"]: row for row in among}
  for row in alone:
    np.testing.assert_equal(row, found[row["id"]])
  # Written down, so that another version or machine is noticed.
  assert alone[0]["targets_pretokenized"] == (
    "<extra_id_0> m . how many <extra_id_1>"
  )


@pytest.mark.parametrize(
  "record, ids",
  [
    (Record("1", "a cat .</s>an animal ."), ["1/input.0/0", "1/input.1/0"]),
    (Record("1", "a cat .</s>"), ["1/input/0"]),
    (Record("1", "", rationale=None), []),
    (Record("1", "x", rationale="a"), []),
  ],
)
def test_texts_that_are_none_or_several(record, ids):
  letters = vocab.load_vocabulary(vocab.BYTES)
  rows = list(span_corruption.make_rows([record], letters, 1))
  assert [row["id"] for row in rows] == ids
  for row in rows:
    assert 1 not in [*row["inputs"], *row["targets"]]


def test_a_long_text_is_cut_evenly():
  record = Record("1", "x" * 1100)
  rows = list(
    span_corruption.make_rows([record], vocab.load_vocabulary(vocab.BYTES), 1)
  )
  assert [row["id"] for row in rows] == [f"1/input.{n}/0" for n in range(3)]
  ids = vocab.load_vocabulary(vocab.BYTES).sentinel_ids
  lengths = [len(_restore(r["inputs"], r["targets"], ids)) for r in rows]
  assert lengths == [367, 367, 366]


def test_a_vocabulary_with_too_few_sentinels(tmp_path):
  path = pathlib.Path(tmp_path) / "few.model"
  path.write_bytes(
    small_vocabulary.make_model(symbols=("<extra_id_0>", "<extra_id_1>"))
  )
  few = vocab.load_vocabulary(str(path))
  with pytest.raises(UserError, match="few.model has 2 pieces.*takes up to 27"):
    next(span_corruption.make_rows([_RECORD], few, 1))
