"""One function registers every task and mixture of a data set.

To add your own data set, write a module like this one and name it with
`--gin.MIXTURE_OR_TASK_MODULE="'my_tasks'"`:

  from distill_jax.data import datasets
  from distill_jax.tasks import register

  register.register_dataset(
    datasets.jsonl_dataset(
      "my_set", "/data/my_set/{split}.jsonl", metric="exact_match"
    )
  )
"""

import functools
from typing import Any, cast

import seqio

from distill_jax.answers import text_metrics
from distill_jax.data import datasets, task_kinds, vocab
from distill_jax.data import settings as settings_lib
from distill_jax.data.label_reader import LabelReader
from distill_jax.data.tf import seqio_preprocessors, seqio_source

_VOCABULARY = seqio_source.ConfiguredVocabulary()
_OUTPUT_FEATURES = {
  name: seqio.Feature(vocabulary=_VOCABULARY, add_eos=True)
  for name in ("inputs", "targets")
}


def register_dataset(spec: datasets.DatasetSpec) -> None:
  """Registers `<name>_<kind>` tasks and `<name>_distill` mixtures.

  Args:
    spec: the data set.
  """
  datasets.register_dataset(spec)
  for kind_name, kind in task_kinds.KINDS.items():
    _register_task(spec, kind_name, kind)
  for mixture_name, kinds in task_kinds.MIXTURES.items():
    seqio.MixtureRegistry.add(
      f"{spec.name}_{mixture_name}",
      [f"{spec.name}_{kind}" for kind in kinds],
      default_rate=1.0,
    )


def ensure_tasks(name: str) -> None:
  """Registers the tasks of a data set that has none yet.

  Args:
    name: of a data set that is known to `datasets`.
  """
  tasks = {f"{name}_{kind}" for kind in task_kinds.KINDS}
  if not tasks & set(seqio.TaskRegistry.names()):
    register_dataset(datasets.get_dataset_spec(name))


def _register_task(spec, kind_name, kind):
  if kind.loss == "span_corruption":
    # No metric: of what was dropped from a text, loss says all there is to say.
    seqio.TaskRegistry.add(
      f"{spec.name}_{kind_name}",
      source=cast(Any, seqio_source.make_span_source(spec)),
      preprocessors=[seqio.preprocessors.append_eos_after_trim],
      output_features=_OUTPUT_FEATURES,
      metric_fns=[],
    )
    return
  seqio.TaskRegistry.add(
    f"{spec.name}_{kind_name}",
    source=cast(
      Any,  # SeqIO's own source does not match its own protocol.
      seqio_source.make_record_source(
        spec, use_teacher_labels=kind.uses_teacher_labels
      ),
    ),
    preprocessors=[
      functools.partial(seqio_preprocessors.make_inputs_and_targets, kind=kind),
      seqio_preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=_OUTPUT_FEATURES,
    metric_fns=[_make_metric_fn(spec, kind)],
  )


def _make_metric_fn(spec, kind):
  def load_vocabulary():
    return vocab.load_vocabulary(settings_lib.current_settings().vocab_path)

  def label_metrics(targets, predictions):
    labels = LabelReader(spec.metric, spec.label_set, load_vocabulary())
    read = functools.partial(task_kinds.extract_label, target=kind.target)
    return text_metrics.label_metrics(
      [labels.read_prediction(read(text)) for text in predictions],
      [labels.read(read(text)) for text in targets],
    )

  def rationale_metrics(targets, predictions):
    normalize = load_vocabulary().normalize
    metrics = text_metrics.rationale_metrics(
      predictions, [normalize(text) for text in targets]
    )
    # SeqIO logs numbers; which tokenizers were used is none.
    return {
      name: value
      for name, value in metrics.items()
      if isinstance(value, int | float)
    }

  return rationale_metrics if kind.loss == "rationale" else label_metrics
