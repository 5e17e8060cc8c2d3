"""Scores of predicted text against target text.

Everything takes lists of plain strings, or of what labels have in common, and
returns values that JSON can hold. Predictions are a model's: they are compared
and counted, never executed.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, cast

import numpy as np
import sacrebleu
import scipy.stats
import sklearn.metrics
from rouge_score import rouge_scorer

from distill_jax.answers import equality, text_tokens

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


def label_metrics(
  predictions: Sequence[Hashable | None], targets: Sequence[Hashable | None]
) -> dict[str, float]:
  """Scores predicted labels by their keys, see `data.label_reader`.

  Args:
    predictions: one key an example; None: the text is no label at all.
    targets: the keys of the right labels, in the same order; None: the gold
      label is no answer of the task, which leaves the example out.

  Returns:
    `label_accuracy` in [0, 1] with its 95% Wilson bounds `label_accuracy_low`
    and `label_accuracy_high`; `num_examples`, `num_correct`; `num_unparsed`,
    the predictions that are no label; `num_gold_outside_label_set`, the
    examples left out of all these. Of no examples the accuracy is 0, somewhere
    between 0 and 1.

  Raises:
    ValueError: predictions and targets differ in number.
  """
  verdicts = judge_labels(predictions, targets)
  scored = [
    (prediction, verdict)
    for prediction, verdict in zip(predictions, verdicts, strict=True)
    if verdict is not None
  ]
  num_correct = sum(verdict for _, verdict in scored)
  low, high = wilson_interval(num_correct, len(scored))
  return {
    "label_accuracy": num_correct / max(len(scored), 1),
    "label_accuracy_low": low,
    "label_accuracy_high": high,
    "num_examples": len(scored),
    "num_correct": num_correct,
    "num_unparsed": sum(prediction is None for prediction, _ in scored),
    "num_gold_outside_label_set": len(verdicts) - len(scored),
  }


def judge_labels(
  predictions: Sequence[Hashable | None], targets: Sequence[Hashable | None]
) -> list[bool | None]:
  """Says of each example whether its prediction is right.

  Args:
    predictions: as in `label_metrics`.
    targets: as in `label_metrics`.

  Returns:
    None where the gold label is no answer of the task.

  Raises:
    ValueError: predictions and targets differ in number.
  """
  return [
    None if target is None else prediction == target
    for prediction, target in zip(predictions, targets, strict=True)
  ]


def classification_metrics(
  predictions: Sequence[Hashable | None],
  targets: Sequence[Hashable | None],
  label_set: Sequence[str],
) -> dict[str, Any]:
  """Scores each class of a closed label set.

  Args:
    predictions: one label an example, None or what is no class where there is
      none.
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
  index: dict[Hashable | None, int] = {
    label: i for i, label in enumerate(label_set)
  }
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
) -> dict[str, Any]:
  """Measures how much predicted rationales share with the teacher's.

  Overlap of words says nothing about whether a rationale is sound, and where
  there is one way to write it, equality does. What a word is depends on the
  script of the targets, see `text_tokens.choose`.

  Args:
    predictions: one text an example; may be empty.
    targets: the teacher's rationales, in the same order.

  Returns:
    `rationale_accuracy`: share of predictions that are the teacher's text, but
    for case, blanks and a final full stop, in [0, 1], and
    `num_rationales_right`. `rouge_l`: mean F-measure of the longest common
    subsequence, 0 to 100, over lower-cased words without stemming. `bleu`:
    BLEU-4 of the corpus, 0 to 100, with sacrebleu's exponential smoothing.
    `num_examples`, `mean_prediction_words`, `mean_target_words` (split at white
    space, or where the script has none, the characters that ROUGE counts).
    `rouge_tokenizer` and `bleu_tokenizer`: names of what was used. Of no
    examples every number is 0 and the names are None.

  Raises:
    ValueError: predictions and targets differ in number.
  """
  tokenizers = text_tokens.choose(targets)
  # The stemmer and sentence splitter would have nltk look for downloads.
  scorer = rouge_scorer.RougeScorer(
    ["rougeL"], use_stemmer=False, tokenizer=tokenizers.rouge
  )
  rouge_l = [
    scorer.score(target, prediction)["rougeL"].fmeasure
    for prediction, target in zip(predictions, targets, strict=True)
  ]
  if not rouge_l:
    numbers = (
      "rationale_accuracy",
      "num_rationales_right",
      "rouge_l",
      "bleu",
      "num_examples",
      "mean_prediction_words",
      "mean_target_words",
    )
    return dict.fromkeys(numbers, 0) | {
      "rouge_tokenizer": None,
      "bleu_tokenizer": None,
    }
  # `force` only silences advice about text that looks tokenized already.
  bleu = sacrebleu.corpus_bleu(
    predictions, [targets], force=True, tokenize=tokenizers.bleu
  )
  num_right = sum(
    equality.labels_equal(prediction, target, "exact_match")
    for prediction, target in zip(predictions, targets, strict=True)
  )
  return {
    "rationale_accuracy": num_right / len(targets),
    "num_rationales_right": num_right,
    "rouge_l": 100 * sum(rouge_l) / len(rouge_l),
    "bleu": bleu.score,
    "num_examples": len(rouge_l),
    "mean_prediction_words": _mean_words(predictions, tokenizers),
    "mean_target_words": _mean_words(targets, tokenizers),
    "rouge_tokenizer": tokenizers.rouge_name,
    "bleu_tokenizer": tokenizers.bleu,
  }


def _mean_words(
  texts: Sequence[str], tokenizers: text_tokens.Tokenizers
) -> float:
  return sum(map(tokenizers.count_words, texts)) / len(texts)


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
