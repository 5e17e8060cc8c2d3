"""Runs the Beam pipeline of `distill_jax.runs.label_beam`, and concludes.

Settings, summary and words are those of `--run_mode=label`.
"""

import contextlib
import json
import logging
import os
import pathlib
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

# Not installed where pyright runs.
import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam.options import (  # pyright: ignore[reportMissingImports]
  pipeline_options,
)

from distill_jax.errors import UserError
from distill_jax.files import append_file
from distill_jax.runs import label
from distill_jax.teacher.apache_beam_job import (
  asking as beam_asking,
)
from distill_jax.teacher.apache_beam_job import (
  files as beam_files,
)
from distill_jax.teacher.apache_beam_job import (
  pipeline as beam_pipeline,
)
from distill_jax.teacher.asking import (
  conclusion,
  journal,
  labelling,
  ledger,
  prices,
  session,
)
from distill_jax.teacher.reporting import output_folder, provenance, record_file
from distill_jax.teacher.transports import teachers

_log = logging.getLogger(__name__)


def run(
  settings: label.LabelRun,
  operative_config: str = "",
  overwrite: bool = False,
  num_shards: int = 1,
  beam_arguments: Sequence[str] = (),
) -> int:
  """Labels questions by a Beam pipeline, and waits for its end.

  Args:
    settings: see `label.LabelRun`; `input_path` may hold * and ?, and both
      paths may be addresses that Beam knows.
    operative_config: written beside the records.
    overwrite: replace records that were made with other settings. No journal is
      ever replaced.
    num_shards: files of records, and journals that are written side by side.
    beam_arguments: flags for Beam's `PipelineOptions`.

  Returns:
    The exit code: 0, every question has an outcome; 1, some are open.

  Raises:
    UserError: settings or files that cannot be, or no request can succeed.
  """
  if settings.transport != "direct":
    raise UserError(
      f"TRANSPORT is {settings.transport!r}, and the pipeline asks directly."
      " Use distill-jax --run_mode=label for the provider's batch API."
    )
  if settings.describe_budget():
    raise UserError(
      f"{settings.describe_budget()}: the workers of a pipeline know nothing of"
      " each other's costs. Set a limit at the provider, or use distill-jax"
      " --run_mode=label."
    )
  if len(teachers.group_clients(settings.read_teachers())) > 1:
    raise UserError(
      "TEACHER_MODEL has teachers at several addresses, and the pipeline asks"
      " at one. Use distill-jax --run_mode=label."
    )
  if num_shards < 1:
    raise UserError(f"--num_shards is {num_shards}; it must be above 0.")
  _check_flags(beam_arguments)
  folder = _Folder(settings.output_path, num_shards)
  job = _make_job(settings, folder)
  identity = record_file.identify(
    job.variant, _make_absolute(settings.input_path), settings.filters
  ) | {"num_shards": num_shards}
  folder.check_replaceable(identity, overwrite)
  with folder.lock():
    _check_addresses(job, folder, settings)
    report, seconds = _run_pipeline(job, beam_arguments)
    summary, found = report.summary, folder.read_summary()
    sent = None
    if report.progress.num_sent:
      sent = session.Session(report.progress, seconds, None)
    if summary["num_records"] is not None:
      folder.delete_other_records()
      summary["settings"] = identity
      summary["config"] = folder.write_config(operative_config)
    else:
      # Of the records that stand there still.
      summary["settings"] = found.get("settings")
      summary["config"] = found.get("config")
    summary["paid"] = _summarize_paid(job, folder, summary["num_records"])
    summary["last_run"] = found.get("last_run")
    if sent is not None:
      summary["last_run"] = sent.describe()
    folder.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
  print(record_file.describe(summary, folder.records_pattern))
  return conclusion.conclude(
    settings.max_open_failures,
    summary["num_open"],
    sent,
    is_any_answered=conclusion.has_answers(summary),
  )


def _check_flags(beam_arguments: Sequence[str]) -> None:
  """Refuses flags that Beam would pass over."""
  options = pipeline_options.PipelineOptions(list(beam_arguments))
  unknown = (
    options.get_all_options(retain_unknown_options=True).keys()
    - options.get_all_options().keys()
  )
  if unknown:
    raise UserError(
      f"--{', --'.join(sorted(unknown))}: no flag of this command, nor of"
      " Beam's. See --help."
    )


def _make_job(settings: label.LabelRun, folder: "_Folder") -> beam_pipeline.Job:
  """Returns what the workers are told; finds out what cannot be."""
  variant = settings.make_variant()
  price_table = None
  if settings.price_table is not None:
    price_table = prices.read_price_table(settings.price_table)
    for model in variant.models:
      price_table.compute_cost(model, 0, 0)
  # Raises where there are more shards than requests may be under way.
  beam_asking.divide_limits(
    settings.read_teachers()[0].client, folder.num_shards
  )
  input_paths = beam_files.list_files(_make_absolute(settings.input_path))
  if not input_paths:
    raise UserError(f"INPUT_PATH {settings.input_path} matches no file.")
  if overlap := sorted({*input_paths} & {*folder.list_records()}):
    raise UserError(
      f"INPUT_PATH matches {overlap[0]}, which the records are written to. Give"
      " another OUTPUT_PATH."
    )
  return beam_pipeline.Job(
    input_paths=tuple(input_paths),
    journal_paths=tuple(beam_files.list_journals(folder.path)),
    folder=folder.path,
    num_shards=folder.num_shards,
    variant=variant,
    client=settings.read_teachers()[0].client,
    limits=labelling.Limits(
      max_concurrency=settings.client.max_concurrency,
      max_open_failures=settings.max_open_failures,
      drain_seconds=settings.drain_seconds,
      retry_failures=settings.retry_failures,
    ),
    filters=settings.filters,
    price_table=price_table,
    report_path=beam_files.join(folder.path, f"report-{uuid.uuid4().hex}.json"),
  )


def _read_ledgers(folder: "_Folder") -> list[ledger.Ledger]:
  ledgers = []
  for path in beam_files.list_journals(folder.path):
    with (
      beam_files.reading(path) as file,
      journal.JournalReader(file) as reader,
    ):
      ledgers.append(reader.ledger)
  return ledgers


def _check_addresses(
  job: beam_pipeline.Job, folder: "_Folder", settings: label.LabelRun
) -> None:
  """Refuses journals with answers that another server gave the same teacher."""
  provenance.check(
    provenance.count_origins(_read_ledgers(folder), job.variant.addresses),
    settings.accept_addresses,
  )


def _summarize_paid(
  job: beam_pipeline.Job, folder: "_Folder", num_records: int | None
) -> dict[str, Any]:
  """Returns what all journals cost; see `ledger.summarize`."""
  return ledger.summarize(_read_ledgers(folder), job.price_table, num_records)


def _run_pipeline(
  job: beam_pipeline.Job, beam_arguments: Sequence[str]
) -> tuple[beam_pipeline.Report, float]:
  """Returns what became of it and the seconds it took.

  Raises:
    UserError: workers found a mistake.
  """
  options = pipeline_options.PipelineOptions(list(beam_arguments))
  started = time.monotonic()
  with beam.Pipeline(options=options) as pipeline:
    beam_pipeline.build(pipeline, job)
  report = beam_pipeline.read_report(job.report_path)
  beam_files.delete([job.report_path])
  if report.problems:
    raise UserError("\n".join(dict.fromkeys(report.problems)))
  if not report.summary["num_questions"]:
    raise UserError(f"INPUT_PATH {job.input_paths[0]} has no questions.")
  return report, time.monotonic() - started


class _Folder:
  """OUTPUT_PATH: a folder that all workers see, or an address.

  Attributes:
    path: absolute.
    num_shards: files of records.
    records_pattern: matches them.
  """

  def __init__(self, path: str, num_shards: int):
    self.path = _make_absolute(path)
    self.num_shards = num_shards
    self.records_pattern = beam_pipeline.name_records(
      self.path, "*", num_shards
    )
    if os.path.isfile(self.path):
      raise UserError(f"OUTPUT_PATH {self.path} is a file. Give a folder.")

  def list_records(self) -> list[str]:
    """Returns the files of records, however many shards they are of."""
    return beam_files.list_files(
      beam_pipeline.name_records(self.path, "*", "*")
    )

  def check_replaceable(
    self, identity: dict[str, Any], overwrite: bool
  ) -> None:
    """Refuses to replace or to stand beside other records."""
    single = beam_files.join(self.path, "records.jsonl")
    if beam_files.list_files(single):
      raise UserError(
        f"{single} is of --run_mode=label. Give another OUTPUT_PATH, so that no"
        " task reads its records twice."
      )
    if self.list_records() and not overwrite:
      output_folder.check_identity(
        self.records_pattern, self.read_summary(), identity
      )

  def delete_other_records(self) -> None:
    """Deletes the files of another number of shards, which are replaced."""
    own = {
      beam_pipeline.name_records(self.path, shard, self.num_shards)
      for shard in range(self.num_shards)
    }
    beam_files.delete([path for path in self.list_records() if path not in own])

  @contextlib.contextmanager
  def lock(self) -> Iterator[None]:
    """Keeps other runs out; an object store has no locks."""
    if not beam_files.is_local(self.path):
      yield
      return
    descriptor = append_file.lock(
      pathlib.Path(self.path) / "journal.lock", f"OUTPUT_PATH {self.path}"
    )
    try:
      yield
    finally:
      os.close(descriptor)

  def read_summary(self) -> dict[str, Any]:
    """Returns the summary; empty where there is none that can be read."""
    path = beam_files.join(self.path, "summary.json")
    if not beam_files.list_files(path):
      return {}
    with beam_files.reading(path) as file:
      try:
        found = json.loads(file.read_bytes())
      except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

  def write_config(self, text: str) -> str:
    """Writes settings; see `output_folder.OutputFolder.write_config`."""
    found = {}
    for path in beam_files.list_files(
      beam_files.join(self.path, "config*.gin")
    ):
      with beam_files.reading(path) as file:
        found[path.rpartition("/")[2]] = file.read_text(encoding="utf-8")
    name = output_folder.name_config(found, text)
    if name not in found:
      self.write_text(name, text)
    return name

  def write_text(self, name: str, text: str) -> None:
    """Writes a file; see `beam_files.write_text`."""
    beam_files.write_text(beam_files.join(self.path, name), text)


def _make_absolute(path: str) -> str:
  if beam_files.is_local(path):
    return str(pathlib.Path(path).expanduser().absolute())
  return path
