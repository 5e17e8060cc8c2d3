"""`--run_mode=label`: questions -> a teacher's answers -> records.

Layer 4; no TensorFlow and no JAX. What is paid for goes into the journal, an
answer at a time; records and summary are made of the journal, and may be made
again.
"""

import dataclasses
import itertools
import json
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher import (
  comparison,
  exchange,
  journal,
  labelling,
  preview,
  prices,
  record_file,
  sending,
  session,
  template_files,
  variants,
)
from distill_jax.teacher.batch_api import BatchConfig, BatchTransport
from distill_jax.teacher.client import TeacherClient
from distill_jax.teacher.comparison import ComparisonConfig
from distill_jax.teacher.config import TeacherConfig
from distill_jax.teacher.filters import FilterConfig
from distill_jax.teacher.output_folder import OutputFolder, parse_shard
from distill_jax.teacher.tally import Tally
from distill_jax.teacher.variants import Variant

_log = logging.getLogger(__name__)

Action = Literal["label", "rebuild", "evaluate", "dry_run"]

_DIRECT, _BATCH = "direct", "batch"
_DONE, _INCOMPLETE = 0, 1
GO_ON = (
  "Give the same command again to go on; nothing that was answered is asked"
  " again."
)


@dataclasses.dataclass(frozen=True)
class LabelRun:
  """Settings of `--run_mode=label`.

  Attributes:
    input_path: questions as JSONL: records, or bare `id`, `input` and, where it
      is known, `label`.
    output_path: a folder for the journal, the records and their summary. It may
      be that of an earlier run, which then goes on.
    teacher_model: the server's name of the teacher, or a list of such names,
      who then vote.
    prompt: name of a template that ships, or path of one.
    client: where the teacher is and how hard it is asked.
    order: "rationale_first" or "label_first"; None: as the template says.
    endpoint: "chat" or "completions".
    temperature: of sampling.
    top_p: of sampling; None: the server's.
    seed: of the first sample; None: none is sent.
    num_samples: answers asked of each teacher for each question.
    max_tokens: most tokens of an answer; None: the template's.
    max_tokens_field: see `variants.Variant`.
    parse: see `variants.Variant`.
    accuracies: likewise.
    filters: which records are kept. `answer_form` and `labels` are taken from
      the template.
    transport: "direct", or "batch" for the provider's batch API.
    batch: of the latter; a `state_path` of None is in the output folder.
    price_table: TOML with prices; None: costs are not known.
    vocab_path: the teacher's sentencepiece model, for the estimate of
      `--dry_run`; None: four characters a token.
    retry_failures: ask again what failed for good in an earlier run.
    max_open_failures: nothing more is sent after so many failures in a row that
      might pass.
    drain_seconds: how long Ctrl-C waits for answers under way.
    num_previewed: prompts that `--dry_run` prints.
    evaluation: what `--evaluate` compares.
  """

  input_path: str
  output_path: str
  teacher_model: str | Sequence[str]
  prompt: str
  client: TeacherConfig
  order: Literal["rationale_first", "label_first"] | None = None
  endpoint: exchange.Endpoint = "chat"
  temperature: float = 0.0
  top_p: float | None = None
  seed: int | None = 0
  num_samples: int = 1
  max_tokens: int | None = None
  max_tokens_field: exchange.MaxTokensField = "max_tokens"
  parse: str = variants.TOLERANT
  accuracies: Mapping[str, float] | None = None
  filters: FilterConfig = FilterConfig()
  transport: Literal["direct", "batch"] = _DIRECT
  batch: BatchConfig | None = None
  price_table: str | None = None
  vocab_path: str | None = None
  retry_failures: bool = False
  max_open_failures: int = 100
  drain_seconds: float = 30.0
  num_previewed: int = 2
  evaluation: ComparisonConfig = ComparisonConfig()

  def __post_init__(self):
    if self.transport not in (_DIRECT, _BATCH):
      raise UserError(
        f"TRANSPORT is {self.transport!r}; it must be {_DIRECT!r} or"
        f" {_BATCH!r}."
      )
    for macro, value in (
      ("INPUT_PATH", self.input_path),
      ("OUTPUT_PATH", self.output_path),
      ("PROMPT", self.prompt),
      ("PARSE", self.parse),
    ):
      if not isinstance(value, str) or not value:
        raise UserError(f"{macro} is {value!r}; it must be a text.")
    if not isinstance(self.teacher_model, str | list | tuple):
      raise UserError(
        f"TEACHER_MODEL is {self.teacher_model!r}; it is a model's name, as the"
        " server has it, or a list of such names."
      )
    for macro, value, least in (
      ("MAX_OPEN_FAILURES", self.max_open_failures, 1),
      ("DRAIN_SECONDS", self.drain_seconds, 0),
      ("DRY_RUN_PROMPTS", self.num_previewed, 0),
    ):
      if not isinstance(value, int | float) or not value >= least:
        raise UserError(
          f"{macro} is {value!r}; it must be a number >= {least}."
        )

  def make_variant(self, **changes: Any) -> Variant:
    """Makes the way to label, with `changes` to its fields.

    Raises:
      UserError: a setting that cannot be.
    """
    models = self.teacher_model
    fields = {
      "models": (models,) if isinstance(models, str) else tuple(models),
      "endpoint": self.endpoint,
      "temperature": self.temperature,
      "top_p": self.top_p,
      "seed": self.seed,
      "num_samples": self.num_samples,
      "max_tokens": self.max_tokens,
      "max_tokens_field": self.max_tokens_field,
      "parse": self.parse,
      "accuracies": self.accuracies,
    } | changes
    if "template" not in fields:
      fields["template"] = template_files.load_template(self.prompt, self.order)
    return Variant(**fields)


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
    return _DONE
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
    for number, question in enumerate(records.read_records(self.input_path)):
      if self._shard is None or number % self._shard[1] == self._shard[0]:
        yield question
    if number < 0:
      raise UserError(f"INPUT_PATH {self.input_path} has no questions.")

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
    variant, str(work.input_path), work.settings.filters
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
    if not is_rebuild:
      sent = _send(work, own, answers, [variant], work.read_questions)
    summary = record_file.write_records(
      work.folder.records_path,
      work.read_questions(),
      variant,
      answers,
      work.settings.filters,
      work.price_table,
      is_partial_good=is_rebuild,
      min_outcomes=0 if overwrite else work.folder.count_outcomes(),
    )
    found = work.folder.read_summary()
    if summary["num_records"] is not None:
      summary["settings"] = identity
      work.folder.write_text("config.gin", operative_config)
    else:
      # Of the records that stand there still.
      summary["settings"] = found.get("settings")
    last_run = found.get("last_run")
    summary["last_run"] = last_run if sent is None else sent.describe()
    work.folder.write_summary(summary)
  print(record_file.describe(summary, work.folder.records_path))
  return conclude(
    work.settings,
    summary["num_open"],
    sent,
    "Without --rebuild the same command asks for them."
    if is_rebuild
    else f"{GO_ON} --rebuild writes the records there are.",
    is_any_answered=has_answers(summary),
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
    sent = _send(work, own, answers, compared, lambda: chosen)
    rows = []
    for variant in compared:
      tally = Tally(variant, work.price_table)
      for question in chosen:
        tally.add(variants.find_outcome(variant, question, answers))
      rows.append((variant, tally.summarize()))
  described = [variant.describe() | summary for variant, summary in rows]
  name = "evaluation.json"
  work.folder.write_text(name, json.dumps(described, indent=2) + "\n")
  print(comparison.format_table(rows))
  print(
    f"{len(chosen)} labelled questions each; all figures in"
    f" {work.folder.path / name}"
  )
  return conclude(work.settings, sum(row["num_open"] for _, row in rows), sent)


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
  with work.folder.read_journals() as answers:
    unanswered = sending.list_unanswered(
      [variant], work.read_questions, answers, settings.retry_failures
    )
    total = preview.estimate(unanswered, counter, work.price_table)
  cost = "not known (give PRICE_TABLE)"
  if work.price_table is not None:
    cost = f"at most {total.cost:.4g} {work.price_table.currency}"
  print(
    f"---\n{num_questions} questions, {num_requests} requests, of which"
    f" {total.num_requests} are to be sent\nprompt tokens:"
    f" {total.prompt_tokens} (estimated: {counter.method})\ncompletion tokens:"
    f" at most {total.completion_tokens}\ncost: {cost}"
  )
  return _DONE


def _make_compared(settings: LabelRun) -> list[Variant]:
  """Returns the variants that `--evaluate` compares."""
  config = settings.evaluation
  models = config.models or settings.teacher_model
  return [
    settings.make_variant(
      template=template_files.load_template(prompt, settings.order),
      models=(model,),
      temperature=temperature,
      # Greedy samples are all the same.
      num_samples=settings.num_samples if temperature else 1,
      accuracies=None,
    )
    for prompt, model, temperature in itertools.product(
      config.prompts or (settings.prompt,),
      (models,) if isinstance(models, str) else models,
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
  )
  if settings.transport == _BATCH:
    # A batch is collected from requests that all wait for it.
    limits = dataclasses.replace(
      limits, max_concurrency=work.make_batch_config().max_requests
    )
  return sending.send_unanswered(
    asked, read_fn, lambda: _make_transport(work), own, answers, limits
  )


def _make_transport(work: _Work) -> exchange.Transport:
  if work.settings.transport == _BATCH:
    return BatchTransport(work.settings.client, work.make_batch_config())
  return TeacherClient(work.settings.client)


# --- The end ----------------------------------------------------------------


def has_answers(summary: Mapping[str, Any]) -> bool:
  """Tells whether there are answers, or no questions that lack them."""
  num_questions = summary["num_questions"]
  return not num_questions or summary["num_without_answer"] < num_questions


def conclude(
  settings: LabelRun,
  num_open: int,
  sent: session.Session | None,
  advice: str = GO_ON,
  is_any_answered: bool = True,
) -> int:
  """Says what is left to do.

  Args:
    settings: of the run.
    num_open: questions without an outcome.
    sent: the session that left them so; None: nothing was sent.
    advice: what else the user may do.
    is_any_answered: whether any question has one.

  Returns:
    The exit code; see `run`.
  """
  if not num_open and not is_any_answered:
    print(
      "distill-jax: no question has an answer; every request failed for good."
      " Correct what the failures in the journal name. If the settings stay as"
      " they are, --gin.RETRY_FAILURES=True asks again.",
      file=sys.stderr,
    )
    return _INCOMPLETE
  if not num_open:
    return _DONE
  said = f"{num_open} questions are without an outcome"
  if sent is not None and sent.progress.is_in_trouble:
    said += (
      f"; sending stopped after {settings.max_open_failures} failures in a row"
      " (MAX_OPEN_FAILURES)"
    )
  if sent is not None and sent.progress.last_failure:
    said += f"; the last failure was {sent.progress.last_failure}"
  print(f"distill-jax: {said}. {advice}", file=sys.stderr)
  if sent is not None and sent.signal_number is not None:
    return 128 + sent.signal_number
  return _INCOMPLETE
