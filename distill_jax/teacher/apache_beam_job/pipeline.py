"""Labelling as a Beam pipeline: the same steps as one machine's, on many.

Prompts, parsing, votes, filters and counts are theirs; here is only which of
them works on what.

  questions ─ read, check ─┬─ join by id ─┬─ all answered ───────────┬─ outcome
  journals ─ join by key ──┘              └─ open ─ by shard ─ ask ──┘     │
  records-*.jsonl ─ by shard ─ filters of all, on one worker ─ filters of one

Nothing is asked before every question was read and checked. A user's mistake,
wherever it shows, goes out beside the results and into the report, because a
worker's exception would be tried again and lose its words on the way.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Not installed where pyright runs.
import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam import pvalue  # pyright: ignore[reportMissingImports]

from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.apache_beam_job import (
  asking as beam_asking,
)
from distill_jax.teacher.apache_beam_job import (
  files as beam_files,
)
from distill_jax.teacher.apache_beam_job.asking import Question
from distill_jax.teacher.asking import journal, prices
from distill_jax.teacher.asking.labelling import Limits, Progress
from distill_jax.teacher.filtering.filters import (
  FilterConfig,
  FilterCount,
  apply_filters,
)
from distill_jax.teacher.prompting import questions, variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.reporting.tally import Tally
from distill_jax.teacher.transports.config import TeacherConfig

_MAIN, _PROBLEM, _COUNT = "main", beam_asking.PROBLEM, "count"
# Of the user's mistakes, so many are told.
_MAX_PROBLEMS = 3
# These filters compare records with each other.
_FILTERS_OF_ALL = ("near_duplicate_threshold", "class_balance")


@dataclasses.dataclass(frozen=True)
class Job:
  """All that the pipeline is told; it travels to the workers.

  Attributes:
    input_paths: files of questions, in the order of the records.
    journal_paths: what was asked before; the first of several answers counts.
    folder: where journals and records go.
    num_shards: journals that are written side by side, and files of records.
    variant: how to ask and to read.
    client: how hard all workers together may ask.
    limits: when a shard stops; `max_concurrency` is of all shards together.
    filters: which records are kept.
    price_table: for the cost; None: it is not known.
    report_path: JSON, written once all is done; see `read_report`.
  """

  input_paths: tuple[str, ...]
  journal_paths: tuple[str, ...]
  folder: str
  num_shards: int
  variant: Variant
  client: TeacherConfig
  limits: Limits
  filters: FilterConfig
  price_table: prices.PriceTable | None
  report_path: str


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a pipeline.

  Attributes:
    problems: a user's mistakes; nothing but them counts then.
    summary: as `record_file.write_records` returns it.
    progress: of what this run sent.
  """

  problems: list[str]
  summary: dict[str, Any]
  progress: Progress


def name_records(folder: str, shard: int | str, num_shards: int | str) -> str:
  """Returns the path of one file of records; "*" for a number matches any."""
  if isinstance(shard, int):
    shard = f"{shard:05d}"
  if isinstance(num_shards, int):
    num_shards = f"{num_shards:05d}"
  return beam_files.join(folder, f"records-{shard}-of-{num_shards}.jsonl")


def read_report(path: str) -> Report:
  """Reads what the pipeline wrote at its end.

  Args:
    path: `Job.report_path`.

  Returns:
    It.

  Raises:
    UserError: the file cannot be read.
  """
  with beam_files.reading(path) as file:
    fields = json.loads(file.read_bytes())
  fields["progress"] = Progress(**fields["progress"])
  return Report(**fields)


def build(pipeline: Any, job: Job) -> None:
  """Adds the steps to a pipeline.

  Args:
    pipeline: a `beam.Pipeline`, not yet run.
    job: what to do.
  """
  questions, problems = _read_questions(pipeline, job)
  questions, more_problems = _find_answers(pipeline, questions, job)
  problems = _list_few(problems + more_problems, "Checks")
  outcomes, progress, asking_problems = _ask(questions, problems, job)
  summary = outcomes | "Tally" >> beam.CombineGlobally(
    _TallyFn(job.variant, job.price_table)
  )
  kept, counts, filter_problems = _filter(outcomes, job)
  all_problems = _list_few(
    [problems, *asking_problems, *filter_problems], "Problems"
  )
  num_written = _write(pipeline, kept, summary, all_problems, job)
  _ = (
    pipeline
    | "End" >> beam.Create([job])
    | "Report"
    >> beam.Map(
      _write_report,
      pvalue.AsList(all_problems),
      pvalue.AsSingleton(summary),
      pvalue.AsDict(counts),
      pvalue.AsSingleton(num_written),
      pvalue.AsSingleton(progress),
    )
  )


# --- Questions and what is known of them ------------------------------------


def _read_questions(pipeline, job):
  """Returns (id, question) for each, and problems."""
  questions, problems = (
    pipeline
    | "Inputs" >> beam.Create(list(enumerate(job.input_paths)))
    | "SpreadInputs" >> beam.Reshuffle()
    | "Read" >> _Try(_read_file, job.variant)
  )
  return questions, [problems]


def _read_file(numbered_path, variant) -> Iterator[tuple[str, Question]]:
  file_number, path = numbered_path
  with beam_files.reading(path) as file:
    for number, record in enumerate(questions.read_questions(file, path)):
      variants.check_question(variant, record)
      keys = tuple(r.key for r in variants.make_requests(variant, record))
      yield record.id, Question((file_number, number), record, keys, {})


def _find_answers(pipeline, questions, job):
  """Joins questions with what the journals say; returns them and problems."""
  known, problems = (
    pipeline
    | "Journals" >> beam.Create(list(enumerate(job.journal_paths)))
    | "SpreadJournals" >> beam.Reshuffle()
    | "ReadJournals" >> _Try(_read_journal)
  )
  asked = questions | "Keys" >> beam.FlatMap(
    lambda pair: [(key, pair[0]) for key in set(pair[1].keys)]
  )
  found = (
    {"asked": asked, "known": known}
    | "JoinByKey" >> beam.CoGroupByKey()
    | "Choose" >> beam.FlatMap(_choose_answer)
  )
  joined, more_problems = (
    {"questions": questions, "found": found}
    | "JoinById" >> beam.CoGroupByKey()
    | "Unite" >> _Try(_unite, job.input_paths)
  )
  return joined, [problems, more_problems]


def _read_journal(numbered_path):
  """Yields (request's key, (journal's number, response or failure))."""
  file_number, path = numbered_path
  with (
    beam_files.reading(path) as file,
    journal.JournalReader(file) as reader,
  ):
    for key in reader.list_keys():
      found = reader.read_response(key) or reader.read_failure(key)
      yield key, (file_number, found)


def _choose_answer(joined):
  """Yields (question's id, (request's key, response or failure))."""
  key, sides = joined
  if known := list(sides["known"]):
    _, chosen = min(known, key=lambda pair: (_rank(pair[1]), pair[0]))
    for question_id in set(sides["asked"]):
      yield question_id, (key, chosen)


def _rank(found) -> int:
  """Ranks an answer before one without text, and that before a failure."""
  if isinstance(found, journal.Failure):
    return 2
  return 0 if found.is_answered else 1


def _unite(joined, input_paths):
  question_id, sides = joined
  questions = sorted(sides["questions"], key=lambda q: q.position)
  if len(questions) > 1:
    first, second = (input_paths[q.position[0]] for q in questions[:2])
    raise UserError(
      f"{second}: {question_id!r} is already an id in {first}. Ids must be"
      " unique over all files of INPUT_PATH."
    )
  yield dataclasses.replace(questions[0], answers=dict(sides["found"]))


def _ask(questions, problems, job):
  """Returns (position, outcome) for each, the run's progress and problems."""
  done, unanswered = questions | "Divide" >> beam.Partition(
    lambda question, _: int(question.is_open(job.limits.retry_failures)), 2
  )
  asked = (
    unanswered
    | "ByShard" >> beam.Map(lambda q: (q.get_shard(job.num_shards), q))
    | "GroupByShard" >> beam.GroupByKey()
    | "Ask"
    >> beam.ParDo(
      beam_asking.Ask(
        job.variant, job.client, job.limits, job.folder, job.num_shards
      ),
      pvalue.AsList(problems),
    ).with_outputs(_PROBLEM, beam_asking.PROGRESS, main=_MAIN)
  )
  outcomes, outcome_problems = (
    (done, asked[_MAIN])
    | "All" >> beam.Flatten()
    | "Outcomes" >> _Try(_find_outcome, job.variant)
  )
  progress = asked[beam_asking.PROGRESS] | "Progress" >> beam.CombineGlobally(
    beam_asking.sum_progress
  )
  return outcomes, progress, [asked[_PROBLEM], outcome_problems]


def _find_outcome(question: Question, variant):
  outcome = variants.find_outcome(
    variant, question.record, question.get_answers()
  )
  yield question.position, outcome


# --- Records ----------------------------------------------------------------


class _TallyFn(beam.CombineFn):
  """Counts outcomes where they are, and puts the counts together."""

  def __init__(self, variant: Variant, price_table):
    self._variant = variant
    self._price_table = price_table

  def create_accumulator(self):
    return Tally(self._variant, self._price_table)

  def add_input(self, mutable_accumulator, element):
    mutable_accumulator.add(element[1])
    return mutable_accumulator

  def merge_accumulators(self, accumulators):
    merged = self.create_accumulator()
    for accumulator in accumulators:
      merged.merge(accumulator)
    return merged

  def extract_output(self, accumulator):
    return accumulator.summarize()


def _filter(outcomes, job):
  """Returns (position, record) of those kept, name -> counts, problems."""
  of_one, of_all = _split_filters(job.variant, job.filters)
  made = outcomes | "Records" >> beam.FlatMap(
    lambda pair: [] if pair[1].record is None else [(pair[0], pair[1].record)]
  )
  kept, counts, problem = made | "FilterOne" >> _Try(
    _filter_one, of_one, outputs=(_COUNT,)
  )
  all_counts, problems = [counts], [problem]
  if any(getattr(of_all, name) is not None for name in _FILTERS_OF_ALL):
    kept, counts, problem = (
      kept
      | "OnOneWorker" >> beam.GroupBy(lambda _: 0)
      | "FilterAll" >> _Try(_filter_all, of_all, outputs=(_COUNT,))
    )
    all_counts.append(counts)
    problems.append(problem)
  summed = (
    all_counts
    | "AllCounts" >> beam.Flatten()
    | "SumCounts"
    >> beam.CombinePerKey(
      lambda pairs: [sum(numbers) for numbers in zip(*pairs, strict=True)]
    )
  )
  return kept, summed, problems


def _split_filters(
  variant: Variant, config: FilterConfig
) -> tuple[FilterConfig, FilterConfig]:
  """Returns the filters of single records, and those that need all of them."""
  config = dataclasses.replace(
    config,
    answer_form=variant.reading.answer_form,
    labels=variant.reading.labels,
  )
  of_all = FilterConfig(
    answer_form=config.answer_form,
    labels=config.labels,
    balance_by=config.balance_by,
    seed=config.seed,
    **{name: getattr(config, name) for name in _FILTERS_OF_ALL},
  )
  return dataclasses.replace(config, **dict.fromkeys(_FILTERS_OF_ALL)), of_all


def _filter_one(positioned, config):
  """Yields a record again, if it is kept, and its counts."""
  position, record = positioned
  kept, counts = apply_filters([record], config)
  yield from _tag_counts(counts)
  for record in kept:
    yield position, record


def _filter_all(group, config):
  """Yields what is kept, each with its place there, and the counts."""
  kept, counts = apply_filters(_sort(group[1]), config)
  yield from _tag_counts(counts)
  yield from enumerate(kept)


def _tag_counts(counts: Iterable[FilterCount]) -> Iterator[Any]:
  for count in counts:
    yield pvalue.TaggedOutput(_COUNT, (count.name, (count.before, count.after)))


def _sort(positioned) -> list[Record]:
  """Returns records in the order of their questions."""
  return [record for _, record in sorted(positioned, key=lambda pair: pair[0])]


def _write(pipeline, kept, summary, problems, job):
  """Writes the files of records; returns how many records there are."""
  # So that a shard without a record has its file as well.
  shards = pipeline | "Shards" >> beam.Create(
    [(shard, None) for shard in range(job.num_shards)]
  )
  sharded = kept | "ShardOf" >> beam.Map(
    lambda pair: (zlib.crc32(pair[1].id.encode()) % job.num_shards, pair)
  )
  return (
    (shards, sharded)
    | "ShardsAndRecords" >> beam.Flatten()
    | "GroupRecords" >> beam.GroupByKey()
    | "Write"
    >> beam.Map(
      _write_shard,
      job,
      pvalue.AsSingleton(summary),
      pvalue.AsList(problems),
    )
    | "NumWritten" >> beam.CombineGlobally(sum)
  )


def _write_shard(group, job: Job, summary, problems) -> int:
  if problems or summary["num_open"]:
    return 0
  shard, positioned = group
  kept = _sort(pair for pair in positioned if pair is not None)
  path = name_records(job.folder, shard, job.num_shards)
  with beam_files.writing(path) as file:
    records.write_records(file, kept)
  return len(kept)


def _write_report(
  job: Job, problems, summary, counts, num_written, progress
) -> None:
  is_complete = not summary["num_open"]
  of_one, of_all = _split_filters(job.variant, job.filters)
  names = [
    count.name
    for config in (of_one, of_all)
    for count in apply_filters([], config)[1]
  ]
  summary["num_records"] = num_written if is_complete else None
  summary["filters"] = [
    dataclasses.asdict(FilterCount(name, *counts.get(name, (0, 0))))
    for name in names
    if is_complete
  ]
  report = Report(sorted(problems), summary, progress)
  beam_files.write_text(job.report_path, json.dumps(dataclasses.asdict(report)))


# --- A user's mistakes ------------------------------------------------------


class _TryFn(beam.DoFn):
  """Yields what a generator does; a UserError of it goes out as a problem."""

  def __init__(self, fn: Callable[..., Iterable[Any]], args: tuple[Any, ...]):
    self._fn = fn
    self._args = args

  def process(self, element, *args, **kwargs):
    try:
      yield from self._fn(element, *self._args)
    except UserError as error:
      yield pvalue.TaggedOutput(_PROBLEM, str(error))


class _Try(beam.PTransform):
  """A step that returns its results, further outputs and its problems."""

  def __init__(self, fn, *args: Any, outputs: tuple[str, ...] = ()):
    super().__init__()
    self._do_fn = _TryFn(fn, args)
    self._outputs = outputs

  def expand(self, input_or_inputs):
    outputs = input_or_inputs | beam.ParDo(self._do_fn).with_outputs(
      *self._outputs, _PROBLEM, main=_MAIN
    )
    return tuple(outputs[name] for name in (_MAIN, *self._outputs, _PROBLEM))


def _list_few(problems, name: str):
  """Returns the first few of all problems."""
  return (
    tuple(problems)
    | f"Flatten{name}" >> beam.Flatten()
    | f"Few{name}" >> beam.combiners.Top.Smallest(_MAX_PROBLEMS)
    | f"List{name}" >> beam.FlatMap(lambda few: few)
  )
