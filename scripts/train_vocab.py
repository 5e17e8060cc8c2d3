"""Trains a sentencepiece vocabulary for a student that starts from scratch.

  python scripts/train_vocab.py --output=vocab.model --vocab_size=8000 \\
    --input=records.jsonl --input=more_text.txt
  python scripts/train_vocab.py --output=svamp.model --vocab_size=2000 \\
    --dataset=svamp --data_dir=datasets

Without --input it trains on generated word problems; with its defaults it makes
distill_jax/data/word_problems.model, the vocabulary that ships, and with
--dataset=animal_legs --vocab_size=512 animal_legs.model, which lies beside it.
Use the result with --gin.VOCAB_PATH="'vocab.model'". It is trained on what
tasks put before an input too, once a line of text; --prefix names others than
the default ones.
"""

import argparse
import io
import itertools
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

import sentencepiece

from distill_jax.data import datasets, records, settings, task_kinds, vocab
from distill_jax.data.sources import word_problems
from distill_jax.errors import UserError

_DEFAULT_VOCAB_SIZE = 800
_WORD_PROBLEM_SEEDS = range(4)


def train_vocabulary(lines: Sequence[str], vocab_size: int) -> bytes:
  """Trains a model with T5's special ids and a piece for every byte.

  Args:
    lines: text, in the order in which it is trained on.
    vocab_size: number of ids, the 3 special ones and the 256 bytes included.

  Returns:
    The serialized sentencepiece model; the same lines give the same bytes. It
    is BPE, not unigram as T5's: unigram looks for pieces in the set of distinct
    words and so tears apart every word of a small closed vocabulary.

  Raises:
    UserError: there is no text, or it cannot fill so large a vocabulary, or its
      characters do not fit into so small a one.
  """
  lines = [line for line in lines if line.strip()]
  if not lines:
    raise UserError(
      "There is no text to train a vocabulary on: every line is empty."
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      vocab_size=vocab_size,
      model_type="bpe",
      pad_id=vocab.PAD_ID,
      eos_id=vocab.EOS_ID,
      unk_id=vocab.UNK_ID,
      bos_id=-1,
      byte_fallback=True,
      character_coverage=1.0,
      # Longer lines would be left out without a word.
      max_sentence_length=max(len(line.encode()) for line in lines) + 1,
      shuffle_input_sentence=False,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise UserError(
      f"--vocab_size={vocab_size} does not fit {len(lines)} lines of text:"
      f" {_explain(str(error))}"
    ) from error
  return model.getvalue()


def _explain(error: str) -> str:
  """Puts sentencepiece's words on the vocabulary's size into plain ones."""
  if largest := re.search(r"value <= (\d+)", error):
    return f"the largest vocabulary that it fills is {largest[1]}."
  if smallest := re.search(r"required_chars\D*\d+ vs (\d+)", error):
    return f"its characters and the bytes alone need {smallest[1]}."
  return error


def read_lines(path: pathlib.Path) -> Iterator[str]:
  """Yields the text of a file.

  Args:
    path: a `.jsonl` file of records, of which input, label and rationale are
      taken, or any other file, taken line by line.

  Raises:
    UserError: the file cannot be read, is not UTF-8, or a line is no record.
  """
  if path.suffix == ".jsonl":
    for record in records.read_records(path):
      yield from filter(None, (record.input, record.label, record.rationale))
    return
  try:
    yield from path.read_text(encoding="utf-8").splitlines()
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8 text ({error}).") from error


def read_dataset(name: str, data_dir: str | None) -> Iterator[str]:
  """Yields the text of a data set's training records.

  Args:
    name: a data set of `data.datasets`.
    data_dir: folder of the official release.

  Raises:
    UserError: there is no such data set, or it cannot be read.
  """
  for record in datasets.load_records(
    name, "train", settings.DataSettings(data_dir=data_dir)
  ):
    yield from filter(None, (record.input, record.label, record.rationale))


def list_prefixes(prefixes: Sequence[str] | None = None) -> list[str]:
  """Returns what tasks put before and into a text, so that it gets its pieces.

  Args:
    prefixes: of the inputs; None: the default ones.
  """
  defaults = settings.DataSettings()
  return [
    *(prefixes or (defaults.label_prefix, defaults.rationale_prefix)),
    *task_kinds.JOINT_MARKERS.values(),
  ]


def make_word_problem_lines() -> list[str]:
  """Returns everything that word_problems' tasks put in front of a student."""
  defaults = settings.DataSettings()
  lines = []
  for seed in _WORD_PROBLEM_SEEDS:
    for record in word_problems.make_records("train", seed=seed):
      parts = {"label": record.label, "rationale": record.rationale}
      for prefix in ("", defaults.label_prefix, defaults.rationale_prefix):
        lines.append(prefix + record.input)
      for order, marker in task_kinds.JOINT_MARKERS.items():
        lines.append(marker.join(str(parts[name]) for name in order))
    # Results are rarer than operands; each number is to be one piece.
    lines.append(" ".join(map(str, range(100))))
  return lines


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--output", required=True, type=pathlib.Path, help="file of the model"
  )
  parser.add_argument(
    "--vocab_size",
    type=int,
    default=_DEFAULT_VOCAB_SIZE,
    help="number of ids, 3 special ones and 256 bytes included (%(default)s)",
  )
  parser.add_argument(
    "--input",
    action="append",
    type=pathlib.Path,
    help="text file, or .jsonl of records; may be given several times"
    " (default: generated word problems)",
  )
  parser.add_argument(
    "--dataset", help="a data set by name, instead of --input"
  )
  parser.add_argument(
    "--data_dir", help="folder of the official release, for --dataset"
  )
  parser.add_argument(
    "--prefix",
    action="append",
    help="what a task puts before its input; may be given several times"
    " (default: the label and the rationale task's)",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace an existing --output"
  )
  options = parser.parse_args(arguments)
  try:
    if options.output.exists() and not options.overwrite:
      raise UserError(
        f"{options.output} exists. Add --overwrite to replace it."
      )
    if options.dataset:
      lines = list(read_dataset(options.dataset, options.data_dir))
    elif options.input:
      lines = list(
        itertools.chain.from_iterable(map(read_lines, options.input))
      )
    else:
      lines = make_word_problem_lines()
    if options.dataset or options.input:
      lines += list_prefixes(options.prefix) * len(lines)
    model = train_vocabulary(lines, options.vocab_size)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(model)
  except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print(
    f"{options.output}: {options.vocab_size} ids from {len(lines)} lines,"
    f" {len(model)} bytes"
  )


if __name__ == "__main__":
  main()
