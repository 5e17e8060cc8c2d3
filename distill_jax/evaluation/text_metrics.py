"""Scores of predicted text against target text.

Layer 1; imports `answers` and knows neither models, tokens nor files.
Everything takes lists of plain strings and returns numbers that JSON can hold.
Predictions are a model's: they are compared and counted, never executed.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import numpy as np
import sacrebleu
import scipy.stats
import sklearn.metrics
from rouge_score import rouge_scorer

from distill_jax.answers import arithmetic
from distill_jax.errors import UserError

LabelMetric = Literal["exact_match", "equation"]

OTHER = "other"


def wilson_interval(
  num_correct: int, num_examples: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Returns Wilson's score interval of a proportion.

  Args:
    num_correct: successes.
    num_examples: trials, taken as independent. With none the interval is
      (0, 1): nothing is known.
    confidence: two-sided coverage, in (0, 1).

  Returns:
    Lower and upper bound, in [0, 1].
  """
  if num_examples == 0:
    return 0.0, 1.0
  interval = scipy.stats.binomtest(num_correct, num_examples).proportion_ci(
    confidence, method="wilson"
  )
  return float(interval.low), float(interval.high)


def is_correct(prediction: str, target: str, metric: LabelMetric) -> bool:
  """Says whether a predicted label is right.

  Source: the authors' metrics.py. Exact match neither folds case nor strips.
  Equations are right when both evaluate to the same number; they are parsed,
  where the authors' code hands them to Python's `eval`.

  Args:
    prediction: text of the model.
    target: text of the label.
    metric: "exact_match" or "equation".

  Returns:
    True when right. An equation that does not evaluate is wrong.

  Raises:
    UserError: there is no such metric.
  """
  if metric == "exact_match":
    return prediction == target
  if metric == "equation":
    return arithmetic.equations_equal(prediction, target)
  raise UserError(
    f"There is no label metric {metric!r}; use 'exact_match' or 'equation'."
  )


def label_metrics(
  predictions: Sequence[str],
  targets: Sequence[str],
  metric: LabelMetric,
  label_set: Collection[str] | None = None,
) -> dict[str, float]:
  """Scores predicted labels.

  Args:
    predictions: one text an example.
    targets: the right labels, in the same order.
    metric: as in `is_correct`.
    label_set: the labels there are, for exact match over a closed set.

  Returns:
    `label_accuracy` in [0, 1] with its 95% Wilson bounds `label_accuracy_low`
    and `label_accuracy_high`; `num_examples`, `num_correct`; `num_unparsed`,
    the predictions that are no label at all: equations that do not evaluate,
    or texts outside `label_set` (0 where any text may be a label). Of no
    examples the accuracy is 0, somewhere between 0 and 1.

  Raises:
    UserError: there is no such metric.
    ValueError: predictions and targets differ in number.
  """
  num_correct = sum(
    is_correct(prediction, target, metric)
    for prediction, target in zip(predictions, targets, strict=True)
  )
  if metric == "equation":
    num_unparsed = sum(
      arithmetic.evaluate_equation(prediction) is None
      for prediction in predictions
    )
  elif label_set is None:
    num_unparsed = 0
  else:
    num_unparsed = sum(
      prediction not in label_set for prediction in predictions
    )
  low, high = wilson_interval(num_correct, len(predictions))
  return {
    "label_accuracy": num_correct / max(len(predictions), 1),
    "label_accuracy_low": low,
    "label_accuracy_high": high,
    "num_examples": len(predictions),
    "num_correct": num_correct,
    "num_unparsed": num_unparsed,
  }


def classification_metrics(
  predictions: Sequence[str], targets: Sequence[str], label_set: Sequence[str]
) -> dict[str, Any]:
  """Scores each class of a closed label set.

  Args:
    predictions: one text an example; any text.
    targets: the right labels, in the same order.
    label_set: the classes, without repetition.

  Returns:
    `per_class`: label -> `precision`, `recall`, `f1` in [0, 1] and `support`
    (targets of that class); a ratio with nothing to divide by is None.
    `macro_f1`: mean F1 over the classes that occur as target or prediction,
    None if none does. `confusion_labels`: `label_set` and "other", the text
    outside it. `confusion_matrix`: counts, [target][prediction], in that order.

  Raises:
    ValueError: predictions and targets differ in number, or there are none.
  """
  index = {label: i for i, label in enumerate(label_set)}
  outside = len(label_set)
  predicted = [index.get(text, outside) for text in predictions]
  actual = [index.get(text, outside) for text in targets]
  # Untyped: scikit-learn's types know neither NaN nor a row of classes here.
  score_classes = cast(Any, sklearn.metrics.precision_recall_fscore_support)
  # Empty classes come back as NaN: neither a warning nor a score of zero.
  columns = score_classes(
    actual, predicted, labels=range(outside), zero_division=np.nan
  )  # four of [classes]
  per_class = {}
  for label, scores in zip(label_set, np.transpose(columns), strict=True):
    precision, recall, f1, support = scores
    per_class[label] = {
      "precision": _none_if_nan(precision),
      "recall": _none_if_nan(recall),
      "f1": _none_if_nan(f1),
      "support": int(support),
    }
  f1_values = columns[2][~np.isnan(columns[2])]
  matrix = np.zeros((outside + 1, outside + 1), int)
  np.add.at(matrix, (actual, predicted), 1)
  return {
    "per_class": per_class,
    "macro_f1": float(f1_values.mean()) if f1_values.size else None,
    "confusion_labels": [*label_set, OTHER],
    "confusion_matrix": matrix.tolist(),
  }


def _none_if_nan(value: float) -> float | None:
  return None if math.isnan(value) else float(value)


def rationale_metrics(
  predictions: Sequence[str], targets: Sequence[str]
) -> dict[str, float]:
  """Measures how much predicted rationales share with the teacher's.

  Overlap of words, which says nothing about whether a rationale is sound.

  Args:
    predictions: one text an example; may be empty.
    targets: the teacher's rationales, in the same order.

  Returns:
    `rouge_l`: mean F-measure of the longest common subsequence, 0 to 100, over
    lower-cased ASCII words without stemming. `bleu`: BLEU-4 of the corpus, 0
    to 100, sacrebleu's defaults (13a tokens, exponential smoothing).
    `num_examples`, `mean_prediction_words`, `mean_target_words` (split at white
    space). Of no examples every number is 0.

  Raises:
    ValueError: predictions and targets differ in number.
  """
  # The stemmer and sentence splitter would have nltk look for downloads.
  scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
  rouge_l = [
    scorer.score(target, prediction)["rougeL"].fmeasure
    for prediction, target in zip(predictions, targets, strict=True)
  ]
  if not rouge_l:
    return dict.fromkeys(
      (
        "rouge_l",
        "bleu",
        "num_examples",
        "mean_prediction_words",
        "mean_target_words",
      ),
      0,
    )
  # `force` only silences advice about text that looks tokenized already.
  bleu = sacrebleu.corpus_bleu(predictions, [targets], force=True)
  return {
    "rouge_l": 100 * sum(rouge_l) / len(rouge_l),
    "bleu": bleu.score,
    "num_examples": len(rouge_l),
    "mean_prediction_words": _mean_words(predictions),
    "mean_target_words": _mean_words(targets),
  }


def _mean_words(texts: Sequence[str]) -> float:
  return sum(len(text.split()) for text in texts) / len(texts)


def perplexity(loss_sum: float, num_tokens: float) -> float:
  """Returns the perplexity of tokens whose cross-entropies are summed.

  Args:
    loss_sum: sum of the cross-entropy, in nats.
    num_tokens: tokens in the sum.

  Returns:
    exp(mean cross-entropy), at least 1; infinity where a float cannot hold it.

  Raises:
    ValueError: there are no tokens.
  """
  if num_tokens <= 0:
    raise ValueError(f"perplexity of {num_tokens} tokens")
  try:
    return math.exp(loss_sum / num_tokens)
  except OverflowError:
    return math.inf
