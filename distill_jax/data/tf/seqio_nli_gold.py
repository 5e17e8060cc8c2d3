"""Gold rows of ANLI R1 and e-SNLI where the official release lacks them.

The train files of both are often left out of copies of the release, while the
teacher's outputs for them are there. TFDS knows where the sources are
published. TFDS is imported inside functions only. Side module of layer 1,
part of the TensorFlow island; makes the rows that `official.combine` takes.

Order is everything, since outputs carry no id and pair by position. Prepared
TFDS records are of no use: TFDS sorts them by a hash of each example's key
when it writes them, and neither ANLI's `uid`, which is kept, nor e-SNLI's
`pairID`, which is not, says where the example stood. So the published source
files are read, by TFDS's own reader, in their own order.

What that guarantees: the order of the source files, and (checked by `combine`)
as many rows as outputs. Not guaranteed: that the authors kept that order. They
loaded both through Hugging Face datasets, which reads the same files from top
to bottom. `check_pairing` tells a wrong order from the right one, because the
teacher's labels then agree with the gold ones no more than by chance; it would
not notice a few rows out of place.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import logging

from distill_jax.data.records import Record
from distill_jax.data.sources import official
from distill_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Source:
  """What TFDS calls a data set, and two of its features."""

  name: str
  config: str | None
  premise_key: str
  id_key: str | None


_SOURCES = {
  "anli1": _Source("anli", "r1", premise_key="context", id_key="uid"),
  "esnli": _Source("esnli", None, premise_key="premise", id_key=None),
}
# The teacher is right on 66% to 73% of every published NLI split, and two
# unrelated sequences of three labels agree on a little more than a third.
_MIN_AGREEMENT = 0.5


def read_gold_rows(dataset: str, split: str) -> list[official.Row]:
  """Reads the gold rows of one split in the order of its source files.

  The files are taken from TFDS's download folder and downloaded into it where
  they are not there yet (ANLI 18 MB, e-SNLI 200 MB).

  Args:
    dataset: "anli1" or "esnli".
    split: "train", "validation" or "test".

  Returns:
    The rows, formatted as the authors' code does.

  Raises:
    UserError: the source is neither on disk nor can it be downloaded.
  """
  source = _SOURCES[dataset]
  logging.info(
    "Reading the gold rows of %s %s through TFDS. Where they are not on disk"
    " they are downloaded; without a network that takes minutes to fail.",
    dataset,
    split,
  )
  # What can go wrong between a mirror, a proxy, a disk and TFDS's own
  # dependencies has no common base class.
  try:
    label_feature, examples = _read_source(source, split)
  except Exception as error:
    raise UserError(
      f"The gold rows of {dataset} {split} are neither in the official release"
      f" at hand nor to be had through TFDS ({type(error).__name__}: {error})."
      f" Either put the authors' own {dataset} files into the folder {dataset}"
      f" of DATA_DIR, or run `tfds build {source.name}` on a machine with"
      " network access and point TFDS_DATA_DIR at the folder it filled,"
      " downloads included."
    ) from error
  return [
    official.format_nli_row(
      example[source.premise_key],
      example["hypothesis"],
      label_feature.str2int(example["label"]),
      example[source.id_key] if source.id_key else None,
    )
    for example in examples
  ]


def check_pairing(dataset: str, split: str, records: Sequence[Record]) -> None:
  """Refuses records whose rows and outputs evidently belong to others.

  Args:
    dataset: for the message.
    split: as above.
    records: what `official.combine` made of gold rows from here.

  Raises:
    UserError: fewer than half of the teacher's readable labels are right.
  """
  read = [record for record in records if record.status == "ok"]
  num_right = sum(record.label == record.teacher_label for record in read)
  if num_right < _MIN_AGREEMENT * len(read):
    raise UserError(
      f"{dataset} {split}: the teacher's label is the gold one in only"
      f" {num_right} of {len(read)} records. In the right order it is in about"
      " 70%, so these rows are not in the order of the teacher's outputs. Put"
      f" the authors' own {dataset} files into the folder {dataset} of"
      " DATA_DIR."
    )


def _read_source(source: _Source, split: str):
  """Returns the label feature and all examples, in source order."""
  import tensorflow_datasets as tfds

  # The class, because `tfds.builder` may return a reader of prepared records.
  # Any, because TFDS declares what every builder defines on no common class.
  builder: Any = tfds.builder_cls(source.name)(config=source.config)
  download_manager = tfds.download.DownloadManager(
    download_dir=builder.data_dir_root / "downloads",
    extract_dir=builder.data_dir_root / "downloads" / "extracted",
    url_infos=builder.url_infos,
    dataset_name=builder.name,
  )
  generators = {
    str(generator.name): generator
    for generator in builder._split_generators(download_manager)
  }
  examples = builder._generate_examples(**generators[split].gen_kwargs)
  return builder.info.features["label"], [example for _, example in examples]
