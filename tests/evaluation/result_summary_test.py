"""Tests of evaluation/result_summary.py."""

from distill_jax.evaluation import result_summary


def test_accuracy_has_its_interval_and_counts():
  said = result_summary.summarize(
    "toy_label/test at step 3",
    {
      "label_accuracy": 0.25,
      "label_accuracy_low": 0.1,
      "label_accuracy_high": 0.5,
      "num_correct": 3,
      "num_examples": 12,
      "num_unparsed": 1,
      "num_gold_outside_label_set": 2,
      "loss": 1.25,
    },
  )
  assert said.splitlines() == [
    "toy_label/test at step 3",
    "  accuracy 25.00%, 95% interval 10.00% to 50.00%, 3 of 12 right, 1"
    " unparsed",
    "  left out: 2 gold labels are no answer",
    "  loss 1.25",
  ]


def test_a_rationale_names_its_tokenizers():
  said = result_summary.summarize(
    "t", {"rouge_tokenizer": "zh_words", "bleu_tokenizer": "zh", "bleu": 10.5}
  )
  assert said.splitlines() == [
    "t",
    "  words for ROUGE: zh_words, for BLEU: zh",
    "  bleu 10.5",
  ]
