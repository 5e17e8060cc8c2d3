"""`--run_mode=prepare`: SeqIO tasks -> token cache; and finding it again."""

import contextlib
import dataclasses
import importlib
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.config import declaration, interrupts
from distill_jax.config.declaration import field
from distill_jax.data import (
  datasets,
  label_reader,
  load_code,
  own_vocabulary,
  task_kinds,
  text_survey,
  token_cache,
  vocab,
)
from distill_jax.data import settings as settings_lib
from distill_jax.data.records import STATUSES
from distill_jax.errors import UserError
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)

DEFAULT_TASK_MODULE = "distill_jax.tasks"
STALE = (
  "The token cache %s is stale for these settings (%s); a new one is needed."
)
FOUND = "Using the token cache %s"
_DEFAULT_CACHE_DIR = "~/.cache/distill_jax/tokens"
# Where files lie and when a run refuses does not shape an example.
_NOT_IDENTITY = ("data_dir", "vocab_path", "max_not_ok_share")
# At their defaults they change nothing, and caches of before lack them.
_LATER_SETTINGS = ("animal_legs", "shuffle_rationales")


@dataclasses.dataclass(frozen=True)
class PrepareRun:
  """Settings of `--run_mode=prepare`."""

  mixture_or_task_name: str = field(
    macro="MIXTURE_OR_TASK_NAME", help="a SeqIO task or mixture"
  )
  data: settings_lib.DataSettings = field(
    help="what shapes its examples", gin_text="@settings.DataSettings()"
  )
  task_module: str = field(
    DEFAULT_TASK_MODULE,
    macro="MIXTURE_OR_TASK_MODULE",
    help="module that registers tasks and mixtures",
  )
  cache_dir: str | None = field(
    None,
    macro="CACHE_DIR",
    is_common=True,
    help="folder of token caches; None: ~/.cache/distill_jax/tokens",
  )

  def __post_init__(self):
    declaration.check(self)


def run(
  settings: PrepareRun, operative_config: str = "", overwrite: bool = False
) -> token_cache.TokenCache:
  """Builds the token cache, or says that it is there.

  Args:
    settings: see `PrepareRun`.
    operative_config: unused; every run mode is called alike.
    overwrite: build it again where it exists.

  Returns:
    The cache.
  """
  del operative_config
  cache = find_or_prepare(
    settings.mixture_or_task_name,
    settings.data,
    settings.task_module,
    settings.cache_dir,
    overwrite=overwrite,
  )
  print(describe(cache))
  return cache


def find_or_prepare(
  name: str,
  settings: settings_lib.DataSettings,
  task_module: str = DEFAULT_TASK_MODULE,
  cache_dir: str | None = None,
  overwrite: bool = False,
) -> token_cache.TokenCache:
  """Opens the token cache of a task or mixture; builds it where it is missing.

  Args:
    name: a SeqIO task or mixture.
    settings: what shapes its examples.
    task_module: module that registers it.
    cache_dir: folder of token caches; None: under the user's cache folder.
    overwrite: build it again even where it is there.

  Returns:
    The cache, verified.

  Raises:
    UserError: the cache is damaged; or it is missing and cannot be built,
      because the task is unknown, its data is, or SeqIO is not installed; or
      two labels of a task are one to the vocabulary.
  """
  import_own_tasks(task_module)
  settings = own_vocabulary.fill_in(name, settings)
  settings_lib.use_settings(settings)
  cache_dir = cache_dir or _DEFAULT_CACHE_DIR
  cache = _open_or_build(name, settings, task_module, cache_dir, overwrite)
  for warning in text_survey.load_survey(cache).make_warnings():
    _log.warning("%s", warning)
  return cache


def _open_or_build(
  name: str,
  settings: settings_lib.DataSettings,
  task_module: str,
  cache_dir: str,
  overwrite: bool,
) -> token_cache.TokenCache:
  vocabulary = vocab.load_vocabulary(settings.vocab_path)
  if not overwrite:
    cache = _find(name, settings, vocabulary, cache_dir)
    if cache is not None:
      _check_label_sets(cache.tasks, vocabulary)
      return cache
  seqio_cache = _import_tasks(name, task_module)
  tasks = seqio_cache.describe_tasks(name, settings)
  _check_label_sets(tasks, vocabulary)
  identity = _make_identity(name, tasks, settings, vocabulary)
  path = token_cache.cache_path(cache_dir, identity)
  _log.info("Preparing %s in %s", name, path)
  examples = seqio_cache.tokenize(tasks, settings.splits)
  token_cache.write_cache(
    path, identity, tasks, examples, vocabulary.path, overwrite
  )
  return token_cache.TokenCache(path)


def _check_label_sets(
  tasks: Mapping[str, token_cache.TaskInfo], vocabulary: vocab.Vocabulary
) -> None:
  """Refuses labels that no student could tell apart."""
  for task, info in tasks.items():
    try:
      label_reader.LabelReader(info.metric, info.label_set, vocabulary)
    except UserError as error:
      raise UserError(f"{task}: {error}") from error


def identify(
  name: str,
  tasks: Sequence[str],
  settings: settings_lib.DataSettings,
  task_module: str = DEFAULT_TASK_MODULE,
) -> dict[str, Any]:
  """Returns the identity of the cache that `find_or_prepare` would return.

  Args:
    name: a SeqIO task or mixture.
    tasks: names of its tasks.
    settings: what shapes its examples.
    task_module: module that registers it.

  Raises:
    UserError: the vocabulary or a source file cannot be read.
  """
  import_own_tasks(task_module)
  settings = own_vocabulary.fill_in(name, settings)
  vocabulary = vocab.load_vocabulary(settings.vocab_path)
  return _make_identity(name, tasks, settings, vocabulary)


def import_own_tasks(task_module: str) -> None:
  """Makes a user's own data sets known, which their module registers.

  A host that cannot import it, for want of SeqIO, may have been handed the
  cache.

  Args:
    task_module: its name.
  """
  if task_module != DEFAULT_TASK_MODULE:
    with contextlib.suppress(ImportError):
      importlib.import_module(task_module)


def find_for_all(*arguments: Any) -> token_cache.TokenCache:
  """Finds or prepares the cache of a run that may have several processes.

  Process 0 does it while the others wait; then they open the same folder.

  Args:
    *arguments: of `find_or_prepare`.

  Raises:
    UserError: in every process, if one cannot have it.
  """
  found: list[token_cache.TokenCache] = []

  def find() -> str:
    found.append(find_or_prepare(*arguments))
    return str(found[0].path.absolute())

  path = distributed.share("token cache", find)
  problem = None
  if not found:
    try:
      found.append(token_cache.TokenCache(path))
    except UserError as error:
      problem = (
        f"{error} Process 0 has that cache: give a CACHE_DIR that all hosts"
        " share, or copy the folder to the same place on each."
      )
  distributed.agree("token cache opened", problem)
  return found[0]


def describe(cache: token_cache.TokenCache) -> str:
  """Returns lines: where the cache is, its examples, how the teacher did.

  And what its texts hold that the vocabulary cannot spell, or another split
  has.
  """
  lines = [f"Token cache {cache.path}"]
  for name, task in cache.tasks.items():
    sizes = ", ".join(f"{split} {n}" for split, n in task.splits.items())
    lines.append(f"  {name}: {sizes}")
  if cache.identity["settings"].get("shuffle_rationales"):
    lines.append(
      "  rationales of train are shuffled: each example has another's"
      " (SHUFFLE_RATIONALES)"
    )
  # The tasks of a mixture are made from the same records.
  for split, counts in next(iter(cache.tasks.values())).teacher_counts.items():
    right, wrong = counts["labels_right"], counts["labels_wrong"]
    statuses = {key: n for key, n in counts.items() if key in STATUSES}
    if not statuses:
      continue
    rows = sum(statuses.values())
    shown = ", ".join(f"{key} {n}" for key, n in statuses.items())
    lines.append(
      f"  teacher on {split}: {right} of {rows} labels right"
      f" ({right / rows:.2%}), {wrong} argue for another answer; {shown}"
    )
  lines += [f"  {line}" for line in text_survey.load_survey(cache).describe()]
  return "\n".join(lines)


def check_teacher_labels(
  cache: token_cache.TokenCache, max_not_ok_share: float
) -> None:
  """Refuses to train on teacher labels too many of which are not ok.

  Args:
    cache: what will be trained on.
    max_not_ok_share: of the training rows, 0..1.

  Raises:
    UserError: with the counts.
  """
  for name, task in cache.tasks.items():
    counts = task.teacher_counts.get("train", {})
    statuses = {key: n for key, n in counts.items() if key in STATUSES}
    total = sum(statuses.values())
    if not task.uses_teacher_labels or not total:
      continue
    share = 1 - statuses.get("ok", 0) / total
    if share > max_not_ok_share:
      counts = ", ".join(f"{key} {n}" for key, n in sorted(statuses.items()))
      raise UserError(
        f"{name} trains on the teacher's labels, and {share:.1%} of its"
        f" {total} training rows are not ok ({counts}); the limit is"
        f" {max_not_ok_share:.1%}. Parse with TEACHER_PARSE = 'tolerant',"
        " mend those rows, or raise MAX_NOT_OK_SHARE."
      )


def _find(
  name: str,
  settings: settings_lib.DataSettings,
  vocabulary: vocab.Vocabulary,
  cache_dir: str,
) -> token_cache.TokenCache | None:
  """Opens the cache that fits, or logs how the nearest one is stale."""
  stale = []
  # Most caches of a name have the same tasks; their sources are hashed once.
  wanted_by_tasks: dict[tuple[str, ...], dict[str, Any]] = {}
  for path in token_cache.list_caches(cache_dir, name):
    try:
      found, tasks = token_cache.read_identity(path)
    except UserError as error:
      _log.warning("%s", error)
      continue
    if tasks not in wanted_by_tasks:
      wanted_by_tasks[tasks] = _make_identity(name, tasks, settings, vocabulary)
    wanted = wanted_by_tasks[tasks]
    # The source files may have stayed on the machine that prepared, and the
    # module of a user's own data set: trust the cache that all else fits.
    for key in ("sources", "data_sets"):
      if wanted[key] is None:
        found = {**found, key: None}
    if found == wanted:
      _log.info(FOUND, path)
      if wanted["sources"] is None:
        _log.warning("Its source files are not here, so they are not compared.")
      return token_cache.TokenCache(path)
    stale.append((path, token_cache.describe_differences(found, wanted)))
  if not stale:
    return None
  path, differences = min(stale, key=lambda item: len(item[1]))
  # Other settings make other data; anything else changed behind their back.
  only_settings = all(each.startswith("settings.") for each in differences)
  _log.log(
    logging.INFO if only_settings else logging.WARNING,
    STALE,
    path,
    "; ".join(differences),
  )
  return None


def _make_identity(name, tasks, settings, vocabulary) -> dict[str, Any]:
  shaping = {
    field: value
    for field, value in dataclasses.asdict(settings).items()
    if field not in _NOT_IDENTITY and (value or field not in _LATER_SETTINGS)
  }
  # Caches of other tasks are none the older for it.
  if not any(
    task_kinds.split_task_name(task)[1] == "span_corruption" for task in tasks
  ):
    del shaping["span_corruption_copies"]
  identity = token_cache.make_identity(
    name, shaping, vocabulary.sha256, _source_files(tasks, settings)
  )
  return identity | {"data_sets": _describe_data_sets(tasks)}


def _describe_data_sets(tasks) -> dict[str, Any] | None:
  """How answers are compared, and by which code a user's records are loaded.

  None where a data set is not known here.
  """
  try:
    specs = [datasets.get_dataset_spec(name) for name in _data_sets(tasks)]
  except UserError:
    return None
  described: dict[str, Any] = {
    spec.name: [spec.metric, *(spec.label_set or ())] for spec in specs
  }
  for spec in specs:
    source = load_code.hash_load_fn(spec.load_fn)
    if source is not None:
      described[f"{spec.name}.load_fn"] = source
  return described


def _data_sets(tasks) -> list[str]:
  return sorted({task_kinds.split_task_name(task)[0] for task in tasks})


def _source_files(tasks, settings) -> list[pathlib.Path] | None:
  """Files the tasks' examples are made from; None when they are not here."""
  try:
    return [
      file
      for dataset in _data_sets(tasks)
      for file in datasets.list_source_files(dataset, settings)
    ]
  except UserError:
    if settings.data_dir is not None:
      raise
    return None


def _import_tasks(name: str, task_module: str):
  """Imports SeqIO and the module that registers `name`."""
  try:
    with interrupts.deferred():
      seqio_cache = importlib.import_module("distill_jax.data.tf.seqio_cache")
      importlib.import_module(task_module)
      dataset, _ = task_kinds.split_task_name(name)
      if dataset in datasets.names():
        # A program's own records have no module that registers tasks.
        register = importlib.import_module("distill_jax.tasks.register")
        register.ensure_tasks(dataset)
  except ImportError as error:
    raise UserError(
      f"There is no token cache for {name} with these settings, and it cannot"
      f" be built here: {error}. {_explain_import(error, task_module)} Or run"
      " --run_mode=prepare on another machine, and copy the cache's folder"
      " into CACHE_DIR here."
    ) from error
  return seqio_cache


def require_own_tasks(task_module: str) -> None:
  """Imports the module that registers a user's own data sets and tasks.

  Args:
    task_module: MIXTURE_OR_TASK_MODULE.

  Raises:
    UserError: it cannot be imported.
  """
  try:
    with interrupts.deferred():
      importlib.import_module(task_module)
  except ImportError as error:
    raise UserError(
      f"MIXTURE_OR_TASK_MODULE {task_module!r} cannot be imported: {error}."
      f" {_explain_import(error, task_module)}"
    ) from error


def _explain_import(error: ImportError, task_module: str) -> str:
  package = (error.name or "").partition(".")[0]
  if package == task_module.partition(".")[0] != "distill_jax":
    return (
      f"MIXTURE_OR_TASK_MODULE is {task_module!r}: run the command in the"
      " folder that holds that module, or install it."
    )
  return "Install what tokenizes: pip install 'distill_jax[data]'."
