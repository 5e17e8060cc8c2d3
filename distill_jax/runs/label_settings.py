"""The settings of `--run_mode=label`.

Sends nothing.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from distill_jax.config import declaration
from distill_jax.config.declaration import field
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
  """Settings of `--run_mode=label`."""

  input_path: str = field(
    macro="INPUT_PATH",
    is_filled=True,
    help="questions: JSONL, a JSON array, CSV or Parquet, gzip too, with id,"
    " input and, if known, label; other columns go into meta",
  )
  output_path: str = field(
    macro="OUTPUT_PATH",
    is_filled=True,
    help="a folder for the journal, the records and their summary; it may be"
    " that of an earlier run, which then goes on",
  )
  teacher_model: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = (
    field(
      macro="TEACHER_MODEL",
      is_checked=False,
      takes="a name or a list of names",
      help="the server's name of the teacher, or a list of such names, who then"
      " vote; {'model': name, 'base_url': ...} for one with an address, a key"
      " or a way to be asked of its own",
    )
  )
  prompt: str = field(
    macro="PROMPT",
    is_filled=True,
    help="svamp, asdiv, cqa, anli1, esnli, word_problems, or the path of a"
    " .toml file of your own",
  )
  client: TeacherConfig = field(
    help="where the teacher is and how hard it is asked",
    gin_text="@config.TeacherConfig()",
  )
  order: Literal["rationale_first", "label_first"] | None = field(
    None,
    macro="PROMPT_ORDER",
    help="what an answer begins with; None: as the template says",
  )
  endpoint: exchange.Endpoint = field(
    "chat",
    macro="ENDPOINT",
    is_common=True,
    is_checked=False,
    help="'completions' is for base models",
  )
  temperature: float | None = field(
    0.0,
    macro="TEMPERATURE",
    least=0,
    most=2,
    is_common=True,
    is_checked=False,
    help="of sampling; None: the server's",
  )
  top_p: float | None = field(
    None,
    macro="TOP_P",
    least=0,
    most=1,
    is_checked=False,
    help="share of probability that is sampled from; None: the server's",
  )
  seed: int | None = field(
    0,
    macro="SEED",
    least=0,
    is_checked=False,
    help="of the first sample; None: none is sent, and the server draws one",
  )
  num_samples: int = field(
    1,
    macro="NUM_SAMPLES",
    least=1,
    is_common=True,
    is_checked=False,
    help="answers asked of each teacher for each question; several, at a"
    " TEMPERATURE above 0, vote",
  )
  max_tokens: int | None = field(
    None,
    macro="MAX_TOKENS",
    least=1,
    is_common=True,
    is_checked=False,
    help="most tokens of an answer; None: as the template says",
  )
  max_tokens_field: exchange.MaxTokensField = field(
    "max_tokens",
    macro="MAX_TOKENS_FIELD",
    is_checked=False,
    help="'max_completion_tokens' is for OpenAI's newer models",
  )
  parse: str = field(
    variants.TOLERANT,
    macro="PARSE",
    is_filled=True,
    help="'tolerant'; 'strict', the authors' rules; or the prompt in whose form"
    " the outputs are read",
  )
  accuracies: Mapping[str, float] | None = field(
    None,
    macro="TEACHER_ACCURACIES",
    is_checked=False,
    help="{'model': share of right answers}, weighs the votes",
  )
  send_stop: bool = field(
    True,
    macro="SEND_STOP",
    is_checked=False,
    help="False: for models that refuse stop; the answers are then ended here",
  )
  extra_parameters: Mapping[str, Any] = field(
    default_factory=dict,
    macro="EXTRA_PARAMETERS",
    is_checked=False,
    help="of the API, as {'reasoning_effort': 'low'}",
  )
  rationale_from: str = field(
    variants.FROM_ANSWER,
    macro="RATIONALE_FROM",
    one_of=(variants.FROM_ANSWER, variants.FROM_REASONING),
    is_checked=False,
    help="'reasoning': what a reasoning model thought",
  )
  max_cost: float | None = field(
    None,
    macro="MAX_COST",
    above=0,
    is_common=True,
    help="of all that OUTPUT_PATH's journals hold, in PRICE_TABLE's currency;"
    " nothing more is sent before it is exceeded; None: no limit",
  )
  max_total_tokens: int | None = field(
    None,
    macro="MAX_TOTAL_TOKENS",
    above=0,
    is_common=True,
    help="tokens in and out, limited as MAX_COST is; None: no limit",
  )
  accept_addresses: provenance.Accepted = field(
    None,
    macro="ACCEPT_ADDRESSES",
    is_checked=False,
    takes="a list of texts, 'any' or None",
    help="servers whose answers in the journal count though they are not asked"
    " now",
  )
  filters: FilterConfig = field(
    FilterConfig(),
    help="which records are kept; answer form and labels are the template's",
    gin_text="@filters.FilterConfig()",
  )
  transport: Literal["direct", "batch"] = field(
    DIRECT, macro="TRANSPORT", help="'batch': the provider's batch API"
  )
  batch: BatchConfig | None = field(
    None,
    help="of 'batch'; a `state_path` of None is in the output folder",
    gin_text="@batch_api.BatchConfig()",
  )
  price_table: str | None = field(
    None,
    macro="PRICE_TABLE",
    is_common=True,
    help="TOML: currency = 'USD', and for each model [models.'some-model'] with"
    " prompt and completion, the prices of a million tokens; cached and"
    " reasoning, where those tokens have a price of their own; None: costs are"
    " not known",
  )
  vocab_path: str | None = field(
    None,
    macro="TEACHER_VOCAB_PATH",
    help="the teacher's sentencepiece model, for the estimate of --dry_run;"
    " None: four characters a token",
  )
  retry_failures: bool = field(
    False,
    macro="RETRY_FAILURES",
    help="ask again what failed for good in an earlier run",
  )
  max_open_failures: int = field(
    100,
    macro="MAX_OPEN_FAILURES",
    least=1,
    help="nothing more is sent after this many failures in a row that might"
    " pass",
  )
  drain_seconds: float = field(
    30.0,
    macro="DRAIN_SECONDS",
    least=0,
    help="how long Ctrl-C waits for answers under way",
  )
  num_previewed: int = field(
    2, macro="DRY_RUN_PROMPTS", least=0, help="prompts that --dry_run prints"
  )
  evaluation: ComparisonConfig = field(
    ComparisonConfig(),
    help="what `--evaluate` compares",
    gin_text="@comparison.ComparisonConfig()",
  )

  def __post_init__(self):
    declaration.check(self)
    if not isinstance(self.teacher_model, str | list | tuple | Mapping):
      raise UserError(
        f"{declaration.name_of(self, 'teacher_model')} is"
        f" {self.teacher_model!r}; it is a model's name, as the server has it,"
        " or a list of such names."
      )
    provenance.check_accepted(self.accept_addresses)
    self.read_teachers()

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
