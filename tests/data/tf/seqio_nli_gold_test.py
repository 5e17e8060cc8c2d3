"""Tests of data/tf/seqio_nli_gold.py.

TFDS's builders on source files of ours.
"""

import csv
import importlib.resources.abc
import json
import pathlib
import sys

import official_release
import pytest

from distill_jax.data.records import Record
from distill_jax.data.sources import official
from distill_jax.data.tf import seqio_nli_gold
from distill_jax.errors import UserError

pytestmark = pytest.mark.tf

tfds = pytest.importorskip("tensorflow_datasets")

_NUM_EXAMPLES = 20  # Enough that a hashed order cannot be the source's.


def _write_anli_sources(folder):
  folder = folder / "anli_v0.1" / "R1"
  folder.mkdir(parents=True)
  for name in ("train", "dev", "test"):
    lines = [
      json.dumps(
        {
          "uid": f"{name}-{index}",
          "context": f"premise {index}",
          "hypothesis": f"hypothesis {index}",
          "label": "enc"[index % 3],
        }
      )
      for index in range(_NUM_EXAMPLES)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def _write_esnli_sources(folder):
  for name, first in (("train_1", 0), ("train_2", 10), ("dev", 0), ("test", 0)):
    with open(folder / f"esnli_{name}.csv", "w", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(
        ["pairID", "gold_label", "Sentence1", "Sentence2", "Explanation_1"]
      )
      for index in range(first, first + 10):
        label = official.NLI_LABELS[index % 3]
        writer.writerow(
          [f"{index}", label, f"premise {index}", f"hypothesis {index}", "x"]
        )


@pytest.fixture(name="sources")
def fixture_sources(tmp_path, monkeypatch):
  """Folder that takes the place of everything TFDS would download."""

  def get_local(_, urls):
    if isinstance(urls, dict):
      return {
        split: [str(tmp_path / pathlib.Path(url).name) for url in split_urls]
        for split, split_urls in urls.items()
      }
    return str(tmp_path)

  monkeypatch.setattr(
    tfds.download.DownloadManager, "download_and_extract", get_local
  )
  # TFDS 4.9.10 imports this package without asking for it; what it takes from
  # there is the same class.
  monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  return tmp_path


@pytest.mark.parametrize(
  "dataset, write_sources, source_id",
  [
    ("anli1", _write_anli_sources, "train-4"),
    ("esnli", _write_esnli_sources, None),
  ],
)
def test_rows_come_in_the_order_of_the_source(
  sources, dataset, write_sources, source_id
):
  write_sources(sources)
  rows = seqio_nli_gold.read_gold_rows(dataset, "train")
  assert [(row.input, row.label) for row in rows] == [
    (f"premise {index}</s>hypothesis {index}", official.NLI_LABELS[index % 3])
    for index in range(_NUM_EXAMPLES)
  ]
  assert rows[4].meta.get("source_id") == source_id


def test_other_splits(sources):
  _write_anli_sources(sources)
  (row, *_) = seqio_nli_gold.read_gold_rows("anli1", "validation")
  assert row.meta == {"source_id": "dev-0"}


def test_sources_that_cannot_be_had(sources, monkeypatch):
  del sources

  def fail(*_):
    raise ConnectionError("no route to host")

  monkeypatch.setattr(
    tfds.download.DownloadManager, "download_and_extract", fail
  )
  with pytest.raises(
    UserError, match=r"esnli train.*no route.*DATA_DIR.*`tfds build esnli`"
  ):
    seqio_nli_gold.read_gold_rows("esnli", "train")


def _make_records(num_right, num_wrong):
  right = Record("a", "x", "neutral", "r", "neutral", "t", "ok")
  wrong = Record("b", "x", "neutral", "r", "entailment", "t", "ok")
  unread = Record("c", "x", "neutral", None, None, "t", "truncated")
  return [right] * num_right + [wrong] * num_wrong + [unread] * 5


def test_rows_in_another_order_are_refused():
  seqio_nli_gold.check_pairing("anli1", "train", _make_records(7, 3))
  with pytest.raises(UserError, match="gold one in only 4 of 10 records"):
    seqio_nli_gold.check_pairing("anli1", "train", _make_records(4, 6))


@pytest.mark.shared
@pytest.mark.parametrize("dataset", ["anli1", "esnli"])
def test_a_shift_by_one_row_of_the_real_data_is_refused(dataset):
  release = official_release.FOLDER
  if not release.is_dir():
    pytest.skip("the official release is not at hand")
  records = official.read_split(release, dataset, "validation", "strict")
  outputs = official.read_teacher_outputs(release, dataset, "validation")
  seqio_nli_gold.check_pairing(dataset, "validation", records)
  rows = [
    official.Row(record.input, record.label, dict(record.meta))
    for record in records
  ]
  shifted = official.combine(
    dataset, "validation", rows, outputs[1:] + outputs[:1], "strict"
  )
  with pytest.raises(UserError, match="not in the order"):
    seqio_nli_gold.check_pairing(dataset, "validation", shifted)
