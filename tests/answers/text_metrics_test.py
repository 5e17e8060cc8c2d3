"""Tests of answers/text_metrics.py against numbers worked out by hand."""

import collections
import json
import math
import socket

import pytest
from sentences import TEXTS

from distill_jax.answers import text_metrics


@pytest.mark.parametrize(
  "num_correct, num_examples", [(0, 10), (3, 10), (148, 200), (10, 10)]
)
def test_wilson_interval_is_the_formula(num_correct, num_examples):
  z = 1.959963984540054
  share = num_correct / num_examples
  centre = (share + z**2 / (2 * num_examples)) / (1 + z**2 / num_examples)
  half = (
    z
    / (1 + z**2 / num_examples)
    * math.sqrt(
      share * (1 - share) / num_examples + z**2 / (4 * num_examples**2)
    )
  )
  assert text_metrics.wilson_interval(num_correct, num_examples) == (
    pytest.approx((centre - half, centre + half), abs=1e-9)
  )


def test_wilson_interval_widens_with_confidence_and_handles_no_examples():
  low, high = text_metrics.wilson_interval(5, 10, confidence=0.99)
  narrow_low, narrow_high = text_metrics.wilson_interval(5, 10)
  assert low < narrow_low < narrow_high < high
  assert text_metrics.wilson_interval(0, 0) == (0, 1)


def test_label_metrics_by_hand():
  predictions = ["a", "b", None, "a", "c", None]
  targets = ["a", "a", "a", None, "c", None]
  metrics = text_metrics.label_metrics(predictions, targets)
  low, high = text_metrics.wilson_interval(2, 4)
  assert metrics == {
    "label_accuracy": 0.5,
    "label_accuracy_low": low,
    "label_accuracy_high": high,
    "num_examples": 4,
    "num_correct": 2,
    "num_unparsed": 1,
    "num_gold_outside_label_set": 2,
  }
  assert text_metrics.judge_labels(predictions, targets) == [
    True,
    False,
    False,
    None,
    True,
    None,
  ]


def test_label_metrics_of_no_examples_claims_nothing():
  metrics = text_metrics.label_metrics([], [])
  assert metrics["num_examples"] == 0
  assert (metrics["label_accuracy_low"], metrics["label_accuracy_high"]) == (
    (0, 1)
  )


@pytest.mark.parametrize(
  "score_fn",
  [
    text_metrics.label_metrics,
    text_metrics.judge_labels,
    lambda p, t: text_metrics.classification_metrics(p, t, ["a"]),
    text_metrics.rationale_metrics,
  ],
)
def test_lists_of_unequal_length_are_refused(score_fn):
  with pytest.raises(ValueError):
    score_fn(["a", "a"], ["a"])


@pytest.mark.filterwarnings("error")
def test_classification_metrics_by_hand():
  #          target      a    a    a    b    b    d
  predictions = ["a", "a", "b", "b", "?", "a"]
  targets = ["a", "a", "a", "b", "b", "other"]
  metrics = text_metrics.classification_metrics(
    predictions, targets, ["a", "b", "never"]
  )
  a, b, never = (metrics["per_class"][label] for label in ("a", "b", "never"))
  assert a == pytest.approx(
    {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3}
  )
  assert b == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
  assert never == {"precision": None, "recall": None, "f1": None, "support": 0}
  assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
  assert metrics["confusion_labels"] == ["a", "b", "never", "other"]
  assert metrics["confusion_matrix"] == [
    [2, 1, 0, 0],
    [0, 1, 0, 1],
    [0, 0, 0, 0],
    [1, 0, 0, 0],
  ]
  assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.filterwarnings("error")
def test_a_class_that_is_never_predicted_has_no_precision_but_f1_zero():
  metrics = text_metrics.classification_metrics(
    ["a", "a"], ["a", "b"], ["a", "b"]
  )
  b = metrics["per_class"]["b"]
  assert (b["precision"], b["recall"], b["f1"]) == (None, 0, 0)
  assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_of_texts_that_are_all_outside_the_set_is_unknown():
  metrics = text_metrics.classification_metrics(["?"], ["!"], ["a", "b"])
  assert metrics["macro_f1"] is None
  assert metrics["confusion_matrix"][2] == [0, 0, 1]


def _slow_rouge_l(prediction, target):
  p, t = prediction.split(), target.split()
  table = collections.defaultdict(int)
  for i in range(len(p)):
    for j in range(len(t)):
      table[i, j] = max(
        table[i - 1, j], table[i, j - 1], table[i - 1, j - 1] + (p[i] == t[j])
      )
  common = table[len(p) - 1, len(t) - 1] if p and t else 0
  return 2 * common / (len(p) + len(t)) if common else 0


def _slow_bleu(predictions, targets):
  log_precisions = []
  for n in (1, 2, 3, 4):
    num_matches = num_ngrams = 0
    for prediction, target in zip(predictions, targets, strict=True):
      counts = []
      for words in (prediction.split(), target.split()):
        counts.append(
          collections.Counter(
            tuple(words[i : i + n]) for i in range(len(words) - n + 1)
          )
        )
      num_matches += (counts[0] & counts[1]).total()
      num_ngrams += counts[0].total()
    log_precisions.append(math.log(num_matches / num_ngrams))
  lengths = [
    sum(len(text.split()) for text in texts) for texts in (predictions, targets)
  ]
  brevity = min(1, math.exp(1 - lengths[1] / lengths[0]))
  return 100 * brevity * math.exp(sum(log_precisions) / 4)


def test_rationale_metrics_against_slow_versions(monkeypatch):
  def refuse(*args):
    raise AssertionError("went to the network")

  monkeypatch.setattr(socket, "socket", refuse)
  predictions = [
    "a cat sat on the red mat today",
    "take 25 from 76 to get 51",
    "",
  ]
  targets = [
    "the cat sat on the red mat",
    "subtract 25 from 76 to get the price 51",
    "nothing was predicted here",
  ]
  metrics = text_metrics.rationale_metrics(predictions, targets)
  rouge = [
    _slow_rouge_l(prediction, target)
    for prediction, target in zip(predictions, targets, strict=True)
  ]
  assert metrics == pytest.approx(
    {
      "rationale_accuracy": 0,
      "num_rationales_right": 0,
      "rouge_l": 100 * sum(rouge) / 3,
      "bleu": _slow_bleu(predictions, targets),
      "num_examples": 3,
      "mean_prediction_words": 15 / 3,
      "mean_target_words": 20 / 3,
      "rouge_tokenizer": "ascii_words",
      "bleu_tokenizer": "13a",
    }
  )
  assert rouge[0] == pytest.approx(2 * 6 / (8 + 7))


@pytest.mark.filterwarnings("error")
def test_rationale_metrics_at_the_ends():
  same = text_metrics.rationale_metrics(
    ["one two three four"] * 2, ["one two three four"] * 2
  )
  assert (same["rouge_l"], same["bleu"]) == pytest.approx((100, 100))
  empty = text_metrics.rationale_metrics(["", ""], ["", "some text"])
  assert (empty["rouge_l"], empty["bleu"]) == (0, 0)
  assert empty["mean_target_words"] == 1
  none = text_metrics.rationale_metrics([], [])
  assert none.keys() == same.keys() and not any(none.values())


def test_right_rationales_are_counted():
  metrics = text_metrics.rationale_metrics(
    ["4 legs and 6 legs .", "6 legs and 4 legs .", " 4 Legs  and 6 legs", ""],
    ["4 legs and 6 legs ."] * 3 + [""],
  )
  assert metrics["num_rationales_right"] == 2
  assert metrics["rationale_accuracy"] == 0.5


@pytest.mark.parametrize("language", TEXTS)
def test_identical_texts_of_any_language_score_a_hundred(language):
  texts = [TEXTS[language]] * 2
  metrics = text_metrics.rationale_metrics(texts, texts)
  assert (metrics["rouge_l"], metrics["bleu"]) == pytest.approx((100, 100))
  assert metrics["mean_target_words"] > 1
  half = [TEXTS[language][: len(TEXTS[language]) // 2]] * 2
  metrics = text_metrics.rationale_metrics(half, texts)
  assert 30 < metrics["rouge_l"] < 90
  assert 0 < metrics["bleu"] < 90


def test_the_tokenizers_are_those_of_the_targets_and_are_recorded():
  chinese, english = TEXTS["Chinese"], TEXTS["English"]
  for predictions in ([chinese], [english], [""]):
    metrics = text_metrics.rationale_metrics(predictions, [chinese])
    assert metrics["rouge_tokenizer"] == "unicode_words"
    assert metrics["bleu_tokenizer"] == "zh"
    assert metrics["mean_target_words"] == 16
  none = text_metrics.rationale_metrics([], [])
  assert none["rouge_tokenizer"] is none["bleu_tokenizer"] is None


def test_perplexity():
  assert text_metrics.perplexity(0, 3) == 1
  # A uniform guess among 32 words costs log 32 nats a token.
  assert text_metrics.perplexity(7 * math.log(32), 7) == pytest.approx(32)
  assert text_metrics.perplexity(1e6, 1) == math.inf
  with pytest.raises(ValueError, match="0 tokens"):
    text_metrics.perplexity(0, 0)
