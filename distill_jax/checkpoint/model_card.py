"""What a Hugging Face folder says of itself: README.md, generation settings.

Names and prefixes come from data: they are quoted, so that none of them ends
its line, its code or its Markdown.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from distill_jax.checkpoint import hf
from distill_jax.checkpoint.stored_model import StoredModel
from distill_jax.run_folder import run_record

FILE = "README.md"
_GENERATION = "generation_config.json"
_TOKENIZER = "tokenizer_config.json"
# What the example asks for where the length of the answers is not known.
_NEW_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class _Run:
  """What a run's record tells of the model.

  Attributes:
    task: task or mixture that it was trained on.
    step: of the checkpoint.
    tasks: description of each task, see `token_cache.TaskInfo`.
    lengths: tokens of "inputs" and "targets"; may be empty.
    initial: name of the checkpoint it began with; None: with random weights.
  """

  task: str
  step: int
  tasks: Mapping[str, Mapping[str, Any]]
  lengths: Mapping[str, int]
  initial: str | None


def write_card(folder: pathlib.Path, stored: StoredModel) -> None:
  """Adds a model card to a folder, and lengths to its settings.

  Args:
    folder: that `hf.write_hf` and `hf_tokenizer.write_tokenizer` wrote.
    stored: what was converted. A checkpoint of a run tells its task, prefixes
      and lengths; of others the card says what is known.
  """
  run = _read_run(stored)
  if run and "targets" in run.lengths:
    _add(folder / _GENERATION, "max_new_tokens", run.lengths["targets"])
  form = hf.get_form(stored.config)
  for key, value in form.make_generation_fn(stored.config).items():
    _add(folder / _GENERATION, key, value)
  if run and "inputs" in run.lengths and (folder / _TOKENIZER).is_file():
    _add(folder / _TOKENIZER, "model_max_length", run.lengths["inputs"])
  (folder / FILE).write_text(
    _make_card(stored, run, (folder / _TOKENIZER).is_file()),
    encoding="utf-8",
    errors="backslashreplace",
  )


def _read_run(stored: StoredModel) -> _Run | None:
  path = pathlib.Path(stored.path)
  if (
    stored.file_format != "orbax"
    or stored.path.startswith("gs://")
    or not re.fullmatch(r"[0-9]+", path.name)
  ):
    return None
  record = run_record.read_record(path.parent.parent)
  if record is None:
    return None
  identity = record.identity
  initial = identity.get("initial_checkpoint_path")
  return _Run(
    task=str(identity["task"]),
    step=int(path.name),
    tasks=identity["tasks"],
    lengths=identity["feed"]["feature_lengths"],
    # Where it lay is nobody else's business.
    initial=initial and pathlib.PurePath(str(initial)).name,
  )


def _add(path: pathlib.Path, key: str, value: Any) -> None:
  settings = json.loads(path.read_text(encoding="utf-8")) | {key: value}
  path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _make_card(
  stored: StoredModel, run: _Run | None, has_tokenizer: bool
) -> str:
  parts = [
    "---",
    "library_name: transformers",
    "# License: to be filled in, as `license: apache-2.0`.",
    "---",
    "",
    f"# {_name(stored, run)}",
    "",
    f"{stored.config.describe()}, written by distill-jax-convert.",
    "",
    "## Use",
    "",
    "```python",
    *_make_example(run, has_tokenizer, hf.get_form(stored.config).auto_class),
    "```",
    "",
    *_describe_use(stored, run, has_tokenizer),
    "",
    "## Training",
    "",
    *_describe_training(stored, run),
    "",
    "## License",
    "",
    "To be filled in: that of the data, of the teacher's answers and of the"
    " model it began with all count.",
    "",
  ]
  return "\n".join(parts)


def _name(stored: StoredModel, run: _Run | None) -> str:
  if run is not None:
    return f"{_quote(run.task)}, step {run.step}"
  return _quote(stored.path.rstrip("/").rpartition("/")[2])


def _make_example(
  run: _Run | None, has_tokenizer: bool, auto_class: str
) -> list[str]:
  prefixes = _list_prefixes(run)
  first = next(iter(prefixes.values()), "")
  tokenizer = (
    'transformers.AutoTokenizer.from_pretrained("path/to/this/folder")'
  )
  if not has_tokenizer:
    tokenizer = 'transformers.AutoTokenizer.from_pretrained("its/vocabulary")'
  is_known = run is not None and "targets" in run.lengths
  length = "" if is_known else f", max_new_tokens={_NEW_TOKENS}"
  is_limited = has_tokenizer and run is not None and "inputs" in run.lengths
  truncation = ", truncation=True" if is_limited else ""
  return [
    "import transformers",
    "",
    f"tokenizer = {tokenizer}",
    f"model = transformers.{auto_class}.from_pretrained(",
    '  "path/to/this/folder"',
    ")",
    f"prefix = {first!r}",
    'text = prefix + "..."',
    f'inputs = tokenizer(text, return_tensors="pt"{truncation})',
    f"ids = model.generate(**inputs{length})",
    "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
  ]


def _describe_use(
  stored: StoredModel, run: _Run | None, has_tokenizer: bool
) -> list[str]:
  lines = []
  prefixes = _list_prefixes(run)
  if prefixes:
    lines.append("Each input begins with its task's prefix, blanks included:")
    lines.append("")
    lines += [
      f"- {_quote(prefix) if prefix else 'no prefix'}: task {_quote(name)}"
      for name, prefix in prefixes.items()
    ]
  else:
    lines.append("What its inputs begin with is not known here.")
  if run is not None and run.lengths:
    lengths = ", ".join(
      f"{name} {length}" for name, length in sorted(run.lengths.items())
    )
    lines += ["", f"Lengths of training, in tokens: {lengths}."]
  if not has_tokenizer:
    lines += ["", "No vocabulary lay beside the model; give its own."]
  elif not stored.uses_bytes:
    lines += [
      "",
      "Give text in Unicode's composed form (NFC): letters in pieces (NFD) may"
      " be split otherwise than in training. So may a mark of its own (an"
      " accent, a variation selector) behind a letter or sign that the"
      " vocabulary rewrites, such as ½, ², … or a full-width letter:"
      " transformers loses that mark.",
    ]
  for note in hf.get_form(stored.config).list_notes_fn(stored.config):
    lines += ["", note]
  return lines


def _describe_training(stored: StoredModel, run: _Run | None) -> list[str]:
  if run is None:
    return [f"Not known: converted from a checkpoint of {stored.file_format}."]
  lines = [f"Trained on {_quote(run.task)} for {run.step} steps."]
  if run.initial:
    lines.append(f"It began with the weights of {_quote(run.initial)}.")
  else:
    lines.append("It began with random weights.")
  for name, info in run.tasks.items():
    by = " by a teacher" if info.get("uses_teacher_labels") else ""
    count = info.get("splits", {}).get("train")
    size = "" if count is None else f", {count} examples"
    lines += ["", f"- {_quote(name)}: {info['kind']}{by}{size}"]
  return lines


def _list_prefixes(run: _Run | None) -> dict[str, str]:
  """Returns each task's prefix, those that give labels first."""
  if run is None:
    return {}
  names = sorted(run.tasks, key=lambda name: run.tasks[name]["kind"] != "label")
  return {name: str(run.tasks[name]["inputs_prefix"]) for name in names}


def _quote(text: str) -> str:
  """Returns a code span of Markdown that holds any text."""
  quoted = json.dumps(text, ensure_ascii=False)
  runs = re.findall("`+", quoted)
  fence = "`" * (max(map(len, runs), default=0) + 1)
  return f"{fence}{quoted}{fence}"
