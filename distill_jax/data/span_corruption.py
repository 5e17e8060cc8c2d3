"""Span corruption, T5's own pretraining, over texts without any label.

Plain numpy; SeqIO's part of it is in `seqio_source`. Spans of a text are
dropped and each is marked by a sentinel; the target is the sentinels, each
before what was dropped there, and one more where the text goes on behind the
last span:

  inputs   Thank you <extra_id_0> me to your party <extra_id_1> week .
  targets  <extra_id_0> for inviting <extra_id_1> last <extra_id_2>

Decided: a record's input and its rationale are texts of their own, so that the
student also learns to continue either without the other; neither has a prefix.
Each is corrupted several times, differently (SPAN_CORRUPTION_COPIES), because a
token cache does not change from epoch to epoch.

Source: Raffel et al. 2020 (T5), sections 3.1.4 and 3.3.4 and figure 2: 15% of
the tokens, in spans of 3 on average, their lengths drawn as in
`random_spans_noise_mask` of its code. Decided otherwise: there a text begins
with a kept span and ends with a dropped one. T5's texts are 512 tokens put
together of many; of one sentence, which has one span to drop, it would always
be the end. Here a text may begin and end with either.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from distill_jax.data.records import Record
from distill_jax.data.vocab import EOS_TEXT, Vocabulary
from distill_jax.errors import UserError

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0
# Fields of a record that are texts to learn from. Labels never are.
FIELDS = ("input", "rationale")
# A longer text is cut into equal parts: T5 pretrains on 512 input tokens.
MAX_TEXT_TOKENS = 512


def make_noise_mask(length: int, rng: np.random.Generator) -> np.ndarray:
  """Draws which tokens of a text are dropped.

  Args:
    length: tokens of the text, at least 2.
    rng: what draws.

  Returns:
    [length] bool, True where a token is dropped. The number of dropped tokens
    and of spans is the same in every draw.
  """
  num_noise, num_spans = count_noise(length)
  # Kept, dropped, kept, ...: the first and the last may be empty.
  lengths = np.empty(2 * num_spans + 1, np.int64)
  lengths[1::2] = _cut_randomly(num_noise, num_spans, rng)
  lengths[::2] = _cut_randomly(length - num_noise + 2, num_spans + 1, rng)
  lengths[[0, -1]] -= 1
  return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def count_noise(length: int) -> tuple[int, int]:
  """Counts the tokens that are dropped from a text, and their spans.

  Args:
    length: tokens of the text, at least 2.
  """
  num_noise = min(max(round(length * NOISE_DENSITY), 1), length - 1)
  return num_noise, max(round(num_noise / MEAN_SPAN_LENGTH), 1)


def _cut_randomly(
  total: int, num_parts: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws lengths of at least 1 with this sum, each choice equally likely."""
  cuts = rng.choice(np.arange(1, total), num_parts - 1, replace=False)
  return np.diff(np.sort(cuts), prepend=0, append=total)


def corrupt(
  tokens: np.ndarray, mask: np.ndarray, sentinel_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Makes inputs and targets of a text.

  Args:
    tokens: [length] int32.
    mask: [length] bool, True where a token is dropped.
    sentinel_ids: one more than there are spans, the first one's first.

  Returns:
    Inputs and targets, int32, without EOS.
  """
  bounds = np.flatnonzero(np.diff(mask, prepend=False, append=False))
  starts = bounds[::2]
  sentinels = np.asarray(sentinel_ids[: len(starts) + 1], np.int32)
  marked = np.insert(tokens, starts, sentinels[:-1])
  inputs = marked[~np.insert(mask, starts, False)]
  targets = marked[np.insert(mask, starts, True)]
  if not mask[-1]:
    targets = np.append(targets, sentinels[-1])
  return inputs, targets


def make_rows(
  records: Iterable[Record], vocabulary: Vocabulary, num_copies: int
) -> Iterator[dict[str, Any]]:
  """Yields the corrupted texts of records.

  What is drawn depends on the record's id, the field and the copy alone.

  Args:
    records: of one split.
    vocabulary: what encodes them.
    num_copies: how often each text is corrupted.

  Yields:
    `id` ("<record's id>/<field>/<copy>"), `inputs` and `targets` ([length]
    int32, without EOS), `inputs_pretokenized` and `targets_pretokenized` (their
    text, with <extra_id_0> and so on) and `loss_weight` (the record's). Texts
    of fewer than 2 tokens are left out.

  Raises:
    UserError: the vocabulary has too few sentinels.
  """
  sentinel_ids = vocabulary.sentinel_ids
  most = count_noise(MAX_TEXT_TOKENS)[1] + 1
  if len(sentinel_ids) < most:
    raise UserError(
      f"The vocabulary {vocabulary.path} has {len(sentinel_ids)} pieces"
      " <extra_id_0>, <extra_id_1>, ...; span corruption takes up to"
      f" {most} of them for a text. Bind VOCAB_PATH to a vocabulary"
      " with 100 of them, as published ones have, or to one that has"
      " none: then the 100 ids above its pieces are taken."
    )
  for record in records:
    for name, tokens in _list_texts(record, vocabulary):
      for copy in range(num_copies):
        row_id = f"{record.id}/{name}/{copy}"
        mask = make_noise_mask(len(tokens), _make_rng(row_id))
        inputs, targets = corrupt(tokens, mask, sentinel_ids)
        yield {
          "id": row_id,
          "inputs": inputs,
          "targets": targets,
          "inputs_pretokenized": write_text(inputs, vocabulary),
          "targets_pretokenized": write_text(targets, vocabulary),
          "loss_weight": record.weight,
        }


def _list_texts(
  record: Record, vocabulary: Vocabulary
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the names and tokens of a record's texts.

  A literal "</s>" parts two texts, since an EOS would end a target early.
  """
  for field in FIELDS:
    parts = [
      part
      for text in (getattr(record, field) or "").split(EOS_TEXT)
      for part in _cut_evenly(np.asarray(vocabulary.encode(text), np.int32))
      if len(part) > 1
    ]
    for number, part in enumerate(parts):
      yield field if len(parts) == 1 else f"{field}.{number}", part


def _cut_evenly(tokens: np.ndarray) -> list[np.ndarray]:
  return np.array_split(tokens, max(1, -(-len(tokens) // MAX_TEXT_TOKENS)))


def _make_rng(row_id: str) -> np.random.Generator:
  digest = hashlib.sha256(row_id.encode()).digest()
  return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8])))


def write_text(ids: Iterable[int], vocabulary: Vocabulary) -> str:
  """Returns the text of ids, sentinels as <extra_id_0>, <extra_id_1>, ...

  Args:
    ids: inputs or targets, up to the first EOS.
    vocabulary: theirs.
  """
  numbers = {token: n for n, token in enumerate(vocabulary.sentinel_ids)}
  parts: list[str] = []
  between: list[int] = []
  for token in map(int, ids):
    if token == vocabulary.eos_id:
      break
    if token in numbers:
      parts += [vocabulary.decode(between), f"<extra_id_{numbers[token]}>"]
      between = []
    else:
      between.append(token)
  parts.append(vocabulary.decode(between))
  return " ".join(filter(None, parts))
