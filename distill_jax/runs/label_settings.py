"""The settings of `--run_mode=label`.

Sends nothing.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.prompting import template_files, variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.reporting import provenance
from distill_jax.teacher.reporting.comparison import ComparisonConfig
from distill_jax.teacher.transports import teachers
from distill_jax.teacher.transports.batch_api import BatchConfig
from distill_jax.teacher.transports.config import TeacherConfig

DIRECT, BATCH = "direct", "batch"


@dataclasses.dataclass(frozen=True)
class LabelRun:
  """Settings of `--run_mode=label`.

  Attributes:
    input_path: questions: see `questions.read_questions`.
    output_path: a folder for the journal, the records and their summary. It may
      be that of an earlier run, which then goes on.
    teacher_model: the server's name of the teacher, or a list of such names,
      who then vote; see `teachers.read_teachers` for those of several servers.
    prompt: name of a template that ships, or path of one.
    client: where the teacher is and how hard it is asked.
    order: "rationale_first" or "label_first"; None: as the template says.
    endpoint: "chat" or "completions".
    temperature: of sampling; None: the server's.
    top_p: share of probability sampled from; None: the server's.
    seed: of the first sample; None: none is sent.
    num_samples: answers asked of each teacher for each question.
    max_tokens: most tokens of an answer; None: the template's.
    max_tokens_field: see `variants.Variant`.
    parse: see `variants.Variant`.
    accuracies: see `variants.Variant`.
    send_stop: see `variants.Variant`.
    extra_parameters: see `variants.Variant`.
    rationale_from: see `variants.Variant`.
    max_cost: of all that the folder's journals hold, in the price table's
      currency; nothing more is sent before it is exceeded. None: any.
    max_total_tokens: tokens in and out, limited as `max_cost` is.
    accept_addresses: servers whose answers count though they are not asked now;
      "any"; None: none.
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
  teacher_model: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
  prompt: str
  client: TeacherConfig
  order: Literal["rationale_first", "label_first"] | None = None
  endpoint: exchange.Endpoint = "chat"
  temperature: float | None = 0.0
  top_p: float | None = None
  seed: int | None = 0
  num_samples: int = 1
  max_tokens: int | None = None
  max_tokens_field: exchange.MaxTokensField = "max_tokens"
  parse: str = variants.TOLERANT
  accuracies: Mapping[str, float] | None = None
  send_stop: bool = True
  extra_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rationale_from: str = variants.FROM_ANSWER
  max_cost: float | None = None
  max_total_tokens: int | None = None
  accept_addresses: provenance.Accepted = None
  filters: FilterConfig = FilterConfig()
  transport: Literal["direct", "batch"] = DIRECT
  batch: BatchConfig | None = None
  price_table: str | None = None
  vocab_path: str | None = None
  retry_failures: bool = False
  max_open_failures: int = 100
  drain_seconds: float = 30.0
  num_previewed: int = 2
  evaluation: ComparisonConfig = ComparisonConfig()

  def __post_init__(self):
    if self.transport not in (DIRECT, BATCH):
      raise UserError(
        f"TRANSPORT is {self.transport!r}; it must be {DIRECT!r} or {BATCH!r}."
      )
    for macro, value in (
      ("INPUT_PATH", self.input_path),
      ("OUTPUT_PATH", self.output_path),
      ("PROMPT", self.prompt),
      ("PARSE", self.parse),
    ):
      if not isinstance(value, str) or not value:
        raise UserError(f"{macro} is {value!r}; it must be a text.")
    if not isinstance(self.teacher_model, str | list | tuple | Mapping):
      raise UserError(
        f"TEACHER_MODEL is {self.teacher_model!r}; it is a model's name, as the"
        " server has it, or a list of such names."
      )
    for macro, value, kind in (
      ("MAX_COST", self.max_cost, int | float),
      ("MAX_TOTAL_TOKENS", self.max_total_tokens, int),
    ):
      is_number = isinstance(value, kind) and not isinstance(value, bool)
      if value is not None and not (is_number and 0 < value < math.inf):
        raise UserError(
          f"{macro} is {value!r}; it is a number above 0, or None for no limit."
        )
    provenance.check_accepted(self.accept_addresses)
    self.read_teachers()
    for macro, value, least in (
      ("MAX_OPEN_FAILURES", self.max_open_failures, 1),
      ("DRAIN_SECONDS", self.drain_seconds, 0),
      ("DRY_RUN_PROMPTS", self.num_previewed, 0),
    ):
      if not isinstance(value, int | float) or not value >= least:
        raise UserError(
          f"{macro} is {value!r}; it must be a number >= {least}."
        )

  def read_teachers(self) -> tuple[teachers.Teacher, ...]:
    """Returns the teachers of TEACHER_MODEL."""
    return teachers.read_teachers(self.teacher_model, self.client)

  def find_teachers(self, models: Iterable[str]) -> list[teachers.Teacher]:
    """Returns the teachers; one not in TEACHER_MODEL has the run's settings."""
    found = {teacher.model: teacher for teacher in self.read_teachers()}
    return [
      found.get(model, teachers.Teacher(model, self.client, {}))
      for model in models
    ]

  def describe_budget(self) -> str:
    """Returns which limits there are, for a message."""
    limits = (
      ("MAX_COST", self.max_cost),
      ("MAX_TOTAL_TOKENS", self.max_total_tokens),
    )
    return " or ".join(f"{m} ({v})" for m, v in limits if v is not None)

  def make_variant(self, **changes: Any) -> Variant:
    """Makes the way to label, with `changes` to its fields.

    Raises:
      UserError: a setting that cannot be.
    """
    fields = {
      "models": tuple(teacher.model for teacher in self.read_teachers()),
      "endpoint": self.endpoint,
      "temperature": self.temperature,
      "top_p": self.top_p,
      "seed": self.seed,
      "num_samples": self.num_samples,
      "max_tokens": self.max_tokens,
      "max_tokens_field": self.max_tokens_field,
      "parse": self.parse,
      "accuracies": self.accuracies,
      "send_stop": self.send_stop,
      "extra_parameters": self.extra_parameters,
      "rationale_from": self.rationale_from,
    } | changes
    chosen = self.find_teachers(fields["models"])
    fields["teacher_settings"] = {t.model: t.own for t in chosen if t.own}
    fields["addresses"] = {t.model: t.client.address for t in chosen}
    if "template" not in fields:
      fields["template"] = template_files.load_template(self.prompt, self.order)
    return Variant(**fields)
