"""`--run_mode=label`: questions -> a teacher's answers -> records.

What is paid for goes into the journal, an answer at a time; records and summary
are made of the journal, and may be made again.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.runs import label_settings
from distill_jax.runs.label_settings import LabelRun
from distill_jax.teacher.asking import (
  budget,
  conclusion,
  exchange,
  journal,
  labelling,
  ledger,
  prices,
  sending,
  session,
)
from distill_jax.teacher.prompting import questions, template_files, variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.reporting import (
  comparison,
  preview,
  provenance,
  record_file,
)
from distill_jax.teacher.reporting.output_folder import (
  OutputFolder,
  parse_shard,
)
from distill_jax.teacher.reporting.tally import Tally
from distill_jax.teacher.transports import teachers
from distill_jax.teacher.transports.batch_api import BatchConfig, BatchTransport
from distill_jax.teacher.transports.client import TeacherClient

_log = logging.getLogger(__name__)

Action = Literal["label", "rebuild", "evaluate", "dry_run"]

GO_ON = conclusion.GO_ON


def read_flags(
  dry_run: bool, evaluate: bool, rebuild: bool, shard: str | None
) -> dict[str, Any]:
  """Returns arguments of `run` for the flags of the command.

  Args:
    dry_run: --dry_run.
    evaluate: --evaluate.
    rebuild: --rebuild.
    shard: --shard.

  Raises:
    UserError: they exclude each other.
  """
  flags = {"dry_run": dry_run, "evaluate": evaluate, "rebuild": rebuild}
  given = [name for name, value in flags.items() if value]
  if len(given) > 1:
    raise UserError(
      f"--{' and --'.join(given)} exclude each other. Give one of them."
    )
  if evaluate and shard is not None:
    raise UserError(
      "--evaluate compares on few questions and takes no --shard. Leave that"
      " out."
    )
  return {"action": given[0] if given else "label", "shard": shard}


def run(
  settings: LabelRun,
  operative_config: str = "",
  overwrite: bool = False,
  action: Action = "label",
  shard: str | None = None,
) -> int:
  """Labels questions, or does one of the smaller things around it.

  Args:
    settings: see `LabelRun`.
    operative_config: written beside the records.
    overwrite: replace records that were made with other settings. The journal
      is never replaced.
    action: "label" asks what is not answered and writes the records once every
      question has an outcome; "rebuild" asks nothing and writes the records of
      those that have one; "evaluate" compares variants on labelled questions;
      "dry_run" prints what would be asked.
    shard: "i/n": only the questions i, i + n, ... counted from 0, in a folder
      of their own; None: all, with what the shards' journals hold.

  Returns:
    The exit code: 0, every question has an outcome; 1, some are open, or none
    has an answer; 130 and 143, a signal ended it.

  Raises:
    UserError: settings or files that cannot be, or no request can succeed.
  """
  work = _Work(settings, None if shard is None else parse_shard(shard))
  try:
    if action == "dry_run":
      return _preview(work)
    if action == "evaluate":
      return _evaluate(work)
    return _label(work, operative_config, overwrite, action == "rebuild")
  except BrokenPipeError:
    if action not in ("dry_run", "evaluate"):
      raise
    # `| head` has seen enough; Python, at its end, would complain once more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return conclusion.DONE
  # While nothing is being sent; then `session` takes signals.
  except KeyboardInterrupt:
    _log.warning("Interrupted. %s", GO_ON)
    return 128 + signal.SIGINT


class _Work:
  """The settings, and the places and questions that they name."""

  def __init__(self, settings: LabelRun, shard: tuple[int, int] | None):
    self.settings = settings
    self._shard = shard
    self.folder = OutputFolder(settings.output_path, shard)
    self.input_path = pathlib.Path(settings.input_path).expanduser().absolute()
    if self.input_path == self.folder.records_path:
      raise UserError(
        f"INPUT_PATH {self.input_path} is the file that the records are written"
        " to. Give another OUTPUT_PATH."
      )
    self.price_table = None
    if settings.price_table is not None:
      self.price_table = prices.read_price_table(settings.price_table)

  def read_questions(self) -> Iterator[Record]:
    """Yields the questions of this shard; checks those of all.

    Raises:
      UserError: the file cannot be read, a line is no question, an id stands
        twice, or there is no question.
    """
    number = -1
    for number, question in enumerate(
      questions.read_questions(self.input_path)
    ):
      if self._shard is None or number % self._shard[1] == self._shard[0]:
        yield question
    if number < 0:
      raise UserError(f"INPUT_PATH {self.input_path} has no questions.")

  def summarize_paid(
    self, answers: journal.Answers, num_records: int | None
  ) -> dict[str, Any]:
    """Returns what all journals cost; see `ledger.summarize`."""
    return ledger.summarize(answers.ledgers, self.price_table, num_records)

  def make_budget(self, answers: journal.Answers) -> budget.Budget | None:
    """Returns what more may cost; None where anything may."""
    settings = self.settings
    if settings.max_cost is None and settings.max_total_tokens is None:
      return None
    return budget.Budget(
      answers.ledgers,
      self.price_table,
      settings.max_cost,
      settings.max_total_tokens,
    )

  def check_prices(self, models: Iterable[str]) -> None:
    """Finds out before the work that a model has no price."""
    for model in models:
      if self.price_table is not None:
        self.price_table.compute_cost(model, 0, 0)

  def make_batch_config(self) -> BatchConfig:
    path = self.folder.batches_path
    batch = self.settings.batch
    if batch is None:
      return BatchConfig(path)
    return dataclasses.replace(batch, state_path=batch.state_path or path)


# --- What the flags ask for -------------------------------------------------


def _label(
  work: _Work, operative_config: str, overwrite: bool, is_rebuild: bool
) -> int:
  variant = work.settings.make_variant()
  work.check_prices(variant.models)
  identity = record_file.identify(
    variant,
    str(work.input_path),
    work.settings.filters,
    questions.compute_digest(work.input_path),
  )
  if is_rebuild and not work.folder.list_journals():
    raise UserError(
      f"There is no journal in {work.folder.path}, of which records could be"
      " made. Label first, or give that run's OUTPUT_PATH."
    )
  if not is_rebuild and not overwrite:
    work.folder.check_replaceable(identity)
  with work.folder.open_journals() as (own, answers):
    sent = None
    if is_rebuild:
      # Nothing is asked, so nothing is refused.
      provenance.check(
        provenance.count_origins(answers.ledgers, variant.addresses),
        provenance.ANY,
      )
    else:
      with _reporting_paid(work, answers):
        sent = _send(work, own, answers, [variant], work.read_questions)
    summary = record_file.write_records(
      work.folder.records_path,
      work.read_questions(),
      variant,
      answers,
      work.settings.filters,
      is_partial_good=is_rebuild,
      min_outcomes=0 if overwrite else work.folder.count_outcomes(),
    )
    found = work.folder.read_summary()
    if summary["num_records"] is not None:
      summary["settings"] = identity
      summary["config"] = work.folder.write_config(operative_config)
    else:
      # Of the records that stand there still.
      summary["settings"] = found.get("settings")
      summary["config"] = found.get("config")
    summary["paid"] = work.summarize_paid(answers, summary["num_records"])
    last_run = found.get("last_run")
    summary["last_run"] = last_run if sent is None else sent.describe()
    work.folder.write_summary(summary)
  print(record_file.describe(summary, work.folder.records_path))
  return conclusion.conclude(
    work.settings.max_open_failures,
    summary["num_open"],
    sent,
    "Without --rebuild the same command asks for them."
    if is_rebuild
    else f"{GO_ON} --rebuild writes the records there are.",
    is_any_answered=conclusion.has_answers(summary),
    budget=work.settings.describe_budget(),
  )


def _evaluate(work: _Work) -> int:
  compared = _make_compared(work.settings)
  work.check_prices(variant.models[0] for variant in compared)
  chosen = comparison.choose_labelled(
    work.read_questions(),
    work.settings.evaluation.num_examples,
    work.settings.evaluation.seed,
  )
  if not chosen:
    raise UserError(
      f"INPUT_PATH {work.input_path} has no question with a label, which"
      " --evaluate compares answers with. Give one that has."
    )
  with work.folder.open_journals() as (own, answers):
    with _reporting_paid(work, answers):
      sent = _send(work, own, answers, compared, lambda: chosen)
    rows = []
    for variant in compared:
      tally = Tally(variant, work.price_table)
      for question in chosen:
        tally.add(variants.find_outcome(variant, question, answers))
      rows.append((variant, tally.summarize() | tally.summarize_use()))
    paid = work.summarize_paid(answers, None)
  described = [variant.describe() | summary for variant, summary in rows]
  name = "evaluation.json"
  work.folder.write_text(name, json.dumps(described, indent=2) + "\n")
  print(comparison.format_table(rows))
  print(
    f"{len(chosen)} labelled questions each; all figures in"
    f" {work.folder.path / name}"
  )
  print("\n".join(ledger.describe(paid)))
  return conclusion.conclude(
    work.settings.max_open_failures,
    sum(row["num_open"] for _, row in rows),
    sent,
    budget=work.settings.describe_budget(),
  )


def _preview(work: _Work) -> int:
  settings = work.settings
  variant = settings.make_variant()
  counter = prices.make_token_counter(settings.vocab_path)
  work.check_prices(variant.models)
  num_questions = sum(1 for _ in work.read_questions())
  num_requests = num_questions * len(variant.models) * variant.num_samples
  requests = (
    request
    for question in work.read_questions()
    for request in variants.make_requests(variant, question)
  )
  shown = itertools.islice(requests, settings.num_previewed)
  for number, request in enumerate(shown, start=1):
    print(f"--- request {number}")
    print(preview.show_request(request))
  origins = provenance.Origins()
  with work.folder.read_journals() as answers:
    unanswered = sending.list_unanswered(
      [variant],
      work.read_questions,
      answers,
      settings.retry_failures,
      origins,
    )
    total = preview.estimate(unanswered, counter, work.price_table)
    paid = work.summarize_paid(answers, None)
  currency = work.price_table.currency if work.price_table is not None else None
  print(
    f"---\n{num_questions} questions, {num_requests} requests, of which"
    f" {total.num_requests} are to be sent"
  )
  print("\n".join(preview.describe(total, counter.method, currency)))
  if paid["num_requests"]:
    print("\n".join(ledger.describe(paid)))
  if limits := settings.describe_budget():
    print(f"of all this, {limits} may be spent in this folder")
  provenance.check(origins, settings.accept_addresses)
  return conclusion.DONE


@contextlib.contextmanager
def _reporting_paid(work: _Work, answers: journal.Answers) -> Iterator[None]:
  """Says and writes down what was paid where a run ends in an error."""
  try:
    yield
  except UserError:
    paid = work.summarize_paid(answers, None)
    if paid["num_requests"]:
      print("\n".join(ledger.describe(paid)))
      work.folder.write_summary(work.folder.read_summary() | {"paid": paid})
    raise


def _make_compared(settings: LabelRun) -> list[Variant]:
  """Returns the variants that `--evaluate` compares."""
  config = settings.evaluation
  models = config.models or [t.model for t in settings.read_teachers()]
  return [
    settings.make_variant(
      template=template_files.load_template(prompt, settings.order),
      models=(model,),
      temperature=temperature,
      # Greedy samples are all the same.
      num_samples=1 if temperature == 0 else settings.num_samples,
      accuracies=None,
    )
    for prompt, model, temperature in itertools.product(
      config.prompts or (settings.prompt,),
      models,
      config.temperatures or (settings.temperature,),
    )
  ]


# --- Sending ----------------------------------------------------------------


def _send(
  work: _Work,
  own: journal.Journal,
  answers: journal.Answers,
  asked: Sequence[Variant],
  read_fn: Callable[[], Iterable[Record]],
) -> session.Session | None:
  """Sends what is not answered; returns None where all is."""
  settings = work.settings
  limits = labelling.Limits(
    max_concurrency=settings.client.max_concurrency,
    max_open_failures=settings.max_open_failures,
    drain_seconds=settings.drain_seconds,
    retry_failures=settings.retry_failures,
    budget=work.make_budget(answers),
  )
  if settings.transport == label_settings.BATCH:
    # A batch is collected from requests that all wait for it.
    limits = dataclasses.replace(
      limits, max_concurrency=work.make_batch_config().max_requests
    )
  return sending.send_unanswered(
    asked,
    read_fn,
    lambda: _make_transport(work, asked),
    own,
    answers,
    limits,
    settings.accept_addresses,
  )


def _make_transport(
  work: _Work, asked: Sequence[Variant]
) -> exchange.Transport:
  models = dict.fromkeys(model for v in asked for model in v.models)
  groups = teachers.group_clients(work.settings.find_teachers(models))
  if work.settings.transport == label_settings.BATCH:
    if len(groups) > 1:
      raise UserError(
        "TRANSPORT is 'batch', and TEACHER_MODEL has teachers at several"
        " addresses. Label by one after the other, or give 'direct'."
      )
    return BatchTransport(groups[0][0], work.make_batch_config())
  if len(groups) == 1:
    return TeacherClient(groups[0][0])
  return teachers.RoutingTransport(
    {
      model: transport
      for client, models in groups
      for transport in [TeacherClient(client)]
      for model in models
    }
  )
