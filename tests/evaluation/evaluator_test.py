"""The evaluator with a student that knows four answers by heart."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny_student
from small_vocabulary import make_vocabulary
from synthetic_cache import make_task_info

from distill_jax.answers import arithmetic
from distill_jax.data import token_cache, vocab
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.decoding import strategy
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import evaluator as evaluator_lib
from distill_jax.evaluation import length_buckets
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import step as step_lib

VOCABULARY = vocab.load_vocabulary(vocab.BYTES)
# Every letter's id is below 128.
CONFIG = dataclasses.replace(tiny_student.CONFIG, vocab_size=128)
LENGTHS = {"inputs": 8, "targets": 16}
LABEL = make_task_info("label")
ANSWERS = {
  "a ball": "yes",
  "a bell": "no",
  "a bill": "yes",
  "the sum": "wet answer: no",
}


def make_example(inputs, targets):
  to_ids = lambda text: np.asarray([*VOCABULARY.encode(text), 1], np.int32)
  return token_cache.Example(
    f"id of {inputs}", to_ids(inputs), to_ids(targets), inputs, targets
  )


def make_examples(**changes):
  """Returns an example each of `ANSWERS`; changes: other targets by word."""
  return [
    make_example(inputs, changes.get(inputs.split()[1], targets))
    for inputs, targets in ANSWERS.items()
  ]


def make_evaluator(mesh, **kwargs):
  model = T5(CONFIG, sharding.make_constrain_fn(mesh))
  return Evaluator(model, mesh, VOCABULARY, LENGTHS, **kwargs)


@pytest.fixture(scope="module")
def student():
  """Trained until it answers `ANSWERS`; on one device."""
  run = tiny_student.start("adamw", config=CONFIG)
  ((batch, _),) = pipeline.make_eval_batches(make_examples(), LABEL, LENGTHS, 4)
  run.take_steps([batch] * 120)
  return run


@pytest.fixture(scope="module")
def evaluator(student):
  # Four examples fill one batch and leave two rows of the second empty.
  return make_evaluator(student.mesh, batch_rows=3)


def test_label_metrics(student, evaluator):
  examples = make_examples(bell="yes")
  metrics, rows = evaluator.evaluate(student.state.params, examples, LABEL)
  assert rows == [
    {
      "id": f"id of {inputs}",
      "input": inputs,
      "target": "yes" if inputs == "a bell" else answer,
      "prediction": answer,
      "finish_reason": "stop",
      "correct": inputs != "a bell",
    }
    for inputs, answer in ANSWERS.items()
  ]
  assert metrics["label_accuracy"] == 0.75
  assert metrics["num_correct"] == 3
  assert metrics["num_examples"] == 4
  assert "classes" not in metrics


def compute_log_likelihoods(params, examples):
  """Returns log-likelihood and number of tokens of each target, by numpy."""
  ((batch, _),) = pipeline.make_eval_batches(
    examples, LABEL, LENGTHS, len(examples)
  )
  logits = jax.jit(
    lambda params, batch: step_lib.apply_model(
      T5(CONFIG), params, batch, enable_dropout=False
    )
  )(params, batch)
  logits = np.asarray(logits, np.float64)
  targets = batch[batch_lib.DECODER_TARGET_TOKENS]
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  picked = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  is_target = targets > 0
  return (picked * is_target).sum(-1), is_target.sum(-1)


def test_the_loss_against_numpy(student, evaluator):
  examples = make_examples(bell="yes")
  scores = evaluator.score(student.state.params, examples, LABEL)
  expected, counts = compute_log_likelihoods(student.state.params, examples)
  loss = -expected.sum() / counts.sum()
  assert scores["num_tokens"] == 4 + 4 + 4 + 15
  np.testing.assert_allclose(scores["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(scores["perplexity"], math.exp(loss), rtol=1e-5)


def test_log_likelihoods_against_numpy(student, evaluator):
  examples = make_examples(bell="yes", bill="")
  expected, _ = compute_log_likelihoods(student.state.params, examples)
  found, counts = evaluator.compute_log_likelihoods(
    student.state.params, examples, LABEL
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # EOS counts, so an empty target has a token too.
  assert counts.tolist() == [4, 4, 1, 15]
  assert np.argmin(found) in (1, 2)  # Those the student did not learn.


def test_of_choices_the_likeliest_is_predicted(student, evaluator):
  examples = make_examples(bell="yes", sum="no")
  choices = [
    ("no", "yes"),
    ("yes", "no"),
    ("maybe", "perhaps"),
    ("no", "a rather long answer: no", "wet answer: no"),
  ]
  metrics, rows = evaluator.evaluate(
    student.state.params, examples, LABEL, choices
  )
  assert [row["prediction"] for row in rows][:2] == ["yes", "no"]
  # Unlike decoding, it never leaves the choices, even bad ones.
  assert rows[2]["prediction"] in choices[2]
  assert rows[3]["prediction"] == "wet answer: no"
  assert [row["correct"] for row in rows] == [True, False, False, False]
  assert metrics["label_accuracy"] == 0.25
  for example, answers, row in zip(examples, choices, rows, strict=True):
    assert row["choices"] == list(answers)
    found = row["choice_log_likelihoods"]
    assert row["prediction"] == answers[int(np.argmax(found))]
    if "long" in "".join(answers):
      continue  # Longer than the rows of training.
    expected, _ = compute_log_likelihoods(
      student.state.params,
      [make_example(example.inputs_text, answer) for answer in answers],
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_choice_is_trimmed(student, evaluator):
  # Trimmed to a row of training the two would be equal.
  answers = ("wet answer: no or yes", "wet answer: no or not")
  (scores,) = evaluator.rank_choices(
    student.state.params, make_examples()[:1], LABEL, [answers]
  )
  assert scores[0] != scores[1]


def test_of_equal_choices_the_first_is_predicted(student, evaluator):
  _, rows = evaluator.evaluate(
    student.state.params,
    make_examples()[:1],
    LABEL,
    [("yes", "no", "yes")],
  )
  scores = rows[0]["choice_log_likelihoods"]
  assert scores[0] == scores[2] > scores[1]
  assert rows[0]["prediction"] == "yes"


def test_a_closed_label_set_has_classes(student, evaluator):
  info = dataclasses.replace(LABEL, label_set=("yes", "no"))
  metrics, _ = evaluator.evaluate(
    student.state.params, make_examples(bell="yes", sum="no"), info
  )
  assert metrics["num_unparsed"] == 1  # "wet answer: no" is no label
  per_class = metrics["classes"]["per_class"]
  assert per_class["yes"]["support"] == 3
  assert per_class["yes"]["recall"] == pytest.approx(2 / 3)


def test_a_joint_task_compares_the_labels_in_the_texts(student, evaluator):
  examples = make_examples(
    ball="dry answer: no",
    bell="so answer: no",
    bill="answer: yes",
    sum="dry answer: no",
  )
  info = make_task_info("joint")
  metrics, rows = evaluator.evaluate(student.state.params, examples, info)
  # Without its marker a rationale is no answer, whatever it says.
  assert [row["correct"] for row in rows] == [False, False, False, True]
  assert metrics["label_accuracy"] == 0.25
  assert metrics["num_unparsed"] == 3
  assert rows[3]["prediction"] == "wet answer: no"
  assert rows[3]["target"] == "dry answer: no"


def evaluate_as_decoded(info, targets, predictions, vocabulary, choices=None):
  """Evaluates a student that writes the ids of `predictions`.

  Of choices it finds all equally likely.
  """
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  evaluator = Evaluator(
    T5(CONFIG), mesh, vocabulary, {"inputs": 8, "targets": 32}, len(targets)
  )
  to_ids = lambda text: np.asarray([*vocabulary.encode(text), 1], np.int32)
  examples = [
    token_cache.Example(
      f"{index}", np.asarray([5, 1], np.int32), to_ids(target), "?", target
    )
    for index, target in enumerate(targets)
  ]
  written = [to_ids(text) for text in predictions]

  def decode(params, decoder_params, inputs, row_ids, length):
    rows = np.zeros((len(targets), 1, 32), np.int32)
    for row, ids in zip(rows, written, strict=True):
      row[0, : len(ids)] = ids
    return rows

  evaluator._decode = decode
  evaluator._score = lambda params, batch: (
    np.zeros(len(batch[batch_lib.DECODER_TARGET_TOKENS])),
    np.ones(len(batch[batch_lib.DECODER_TARGET_TOKENS])),
  )
  return evaluator.evaluate({}, examples, info, choices)


@pytest.fixture(name="small")
def fixture_small(tmp_path):
  return make_vocabulary(tmp_path)


def test_labels_that_the_vocabulary_cannot_spell_are_never_right(small):
  metrics, rows = evaluate_as_decoded(
    LABEL, ["<", ">", "yes"] * 4, ["<", "<", "yes"] * 4, small
  )
  assert metrics["num_correct"] == 4
  assert metrics["num_unparsed"] == 8
  assert [row["target"] for row in rows[:3]] == ["<", ">", "yes"]
  assert [row["correct"] for row in rows[:3]] == [False, False, True]
  closed = dataclasses.replace(LABEL, label_set=("<", ">"))
  with pytest.raises(UserError, match="'<' and '>' have the same token ids"):
    evaluate_as_decoded(closed, ["<", ">"], ["<", ">"], small)


def test_choices_that_the_vocabulary_cannot_spell_are_never_right(small):
  metrics, rows = evaluate_as_decoded(
    LABEL,
    ["<", "yes"],
    ["", ""],
    small,
    [("<", ">", "yes"), ("yes", "<", ">")],
  )
  assert [row["correct"] for row in rows] == [False, True]
  assert metrics["num_unparsed"] == 1
  assert rows[0]["choices"] == ["<", ">", "yes"]


@pytest.mark.parametrize("path", [None, vocab.BYTES])
@pytest.mark.parametrize("label", ["½", "…", "x²", "two  blanks", "a\ttab"])
def test_a_label_that_the_vocabulary_rewrites_is_one_label(path, label):
  vocabulary = vocab.load_vocabulary(path)
  info = dataclasses.replace(LABEL, label_set=(label, "no"))
  labels = [label, label, "no"]
  metrics, rows = evaluate_as_decoded(
    info, labels, [label, "no", "no"], vocabulary
  )
  assert [row["correct"] for row in rows] == [True, False, True]
  assert metrics["num_unparsed"] == 0
  per_class = metrics["classes"]["per_class"]
  assert per_class[label]["support"] == 2
  assert per_class[label]["recall"] == 0.5
  assert per_class["no"]["precision"] == 0.5
  metrics, rows = evaluate_as_decoded(
    info, labels, ["", "", ""], vocabulary, [("no", label)] * 3
  )
  assert [row["correct"] for row in rows] == [False, False, True]
  assert rows[0]["choices"] == ["no", label]


def test_gold_labels_outside_the_set_are_left_out():
  info = dataclasses.replace(LABEL, label_set=("yes", "no"))
  metrics, rows = evaluate_as_decoded(
    info,
    ["YES", "maybe", "no", "", "no."],
    ["yes", "maybe", "yes", "no", "No"],
    vocab.load_vocabulary(None),
  )
  assert [row["correct"] for row in rows] == [True, None, False, None, True]
  assert metrics["num_gold_outside_label_set"] == 2
  assert (metrics["num_examples"], metrics["num_correct"]) == (3, 2)
  assert metrics["label_accuracy"] == 2 / 3
  assert metrics["classes"]["confusion_matrix"] == [
    [1, 0, 0],
    [1, 1, 0],
    [0, 0, 0],
  ]
  metrics, _ = evaluate_as_decoded(
    info, ["maybe"], ["maybe"], vocab.load_vocabulary(None)
  )
  assert (metrics["num_examples"], metrics["num_correct"]) == (0, 0)
  assert "classes" not in metrics


def test_equations_are_compared_exactly():
  info = dataclasses.replace(LABEL, metric="equation")
  metrics, _ = evaluate_as_decoded(
    info, ["3.6", "0.3"], ["8.8 - 5.2", "0.1 + 0.2"], VOCABULARY
  )
  assert metrics["label_accuracy"] == 1


@pytest.mark.parametrize(
  "target, texts, correct",
  [
    (
      ("rationale", "label"),
      [
        ("My rationale: x. answer: no", "a rationale: b answer: yes"),
        ("the answer: is answer: no", "answer: no"),
        ("so answer: no", "no"),
      ],
      [False, True, False],
    ),
    (
      ("label", "rationale"),
      [
        ("no rationale: the answer: yes", "yes rationale: the answer: no"),
        ("no rationale: a rationale: b", "no"),
      ],
      [False, True],
    ),
  ],
)
def test_the_task_knows_the_order_of_a_joint_target(target, texts, correct):
  info = dataclasses.replace(make_task_info("joint"), target=target)
  _, rows = evaluate_as_decoded(
    info, *zip(*texts, strict=True), vocab.load_vocabulary(None)
  )
  assert [row["correct"] for row in rows] == correct


def test_rationales_are_compared_with_the_text_of_the_data_set(small):
  info = make_task_info("rationale")
  texts = ["a  big ½ of … it", "x < 3"]
  metrics, rows = evaluate_as_decoded(
    info, texts, texts, vocab.load_vocabulary(None)
  )
  assert metrics["rouge_l"] == 100
  assert [row["target"] for row in rows] == texts
  # The student's " ⁇ " is no "<".
  metrics, rows = evaluate_as_decoded(
    info, ["u v < w x y z"], ["u v < w x y z"], small
  )
  assert metrics["bleu"] < 100


def test_rationales_are_compared_by_their_words(student, evaluator):
  info = make_task_info("rationale")
  metrics, rows = evaluator.evaluate(
    student.state.params, make_examples(sum="wet"), info
  )
  # Three match; of "wet answer: no" one word of three: F = 2 / (3 + 1).
  assert metrics["rouge_l"] == pytest.approx(100 * 3.5 / 4)
  assert metrics["loss"] > 0
  assert "label_accuracy" not in metrics
  assert "correct" not in rows[0]


def test_beams_find_the_answers_too(student):
  evaluator = make_evaluator(
    student.mesh, batch_rows=4, decoding=DecodingConfig(num_beams=2)
  )
  predictions = evaluator.predict(student.state.params, make_examples(), LABEL)
  assert predictions == list(ANSWERS.values())


def test_samples_do_not_depend_on_batches_or_devices(student):
  config = DecodingConfig("sample", temperature=1.5, seed=5, num_samples=2)
  params = student.state.params
  mesh = {"data": 2, "fsdp": 2, "model": 2}
  sharded = tiny_student.start("adamw", mesh, CONFIG)
  weights = jax.device_put(params, sharded.shardings.params)
  examples = make_examples()

  def sample(mesh, batch_rows, params, first_rows):
    evaluator = make_evaluator(mesh, batch_rows=batch_rows, decoding=config)
    calls = zip(first_rows, [*first_rows[1:], len(examples)], strict=True)
    return [
      texts
      for start, end in calls
      for texts in evaluator.predict_samples(
        params, examples[start:end], LABEL, start
      )
    ]

  expected = sample(student.mesh, 4, params, [0])
  assert len({text for texts in expected for text in texts}) > 4
  assert sample(student.mesh, 2, params, [0, 1]) == expected
  assert sample(sharded.mesh, 3, weights, [0]) == expected


def test_a_shorter_decoding(student):
  evaluator = make_evaluator(
    student.mesh, batch_rows=4, decoding=DecodingConfig(max_decode_length=2)
  )
  params, examples = student.state.params, make_examples()
  predictions = evaluator.predict(params, examples, LABEL)
  assert predictions == ["ye", "no", "ye", "we"]
  samples = evaluator.predict_samples(params, examples, LABEL)
  assert [texts[0].finish_reason for texts in samples] == ["length"] * 4


@pytest.mark.parametrize(
  "decoding",
  [
    DecodingConfig(max_decode_length=3),
    DecodingConfig(num_beams=2, max_decode_length=3),
    DecodingConfig(
      "sample", temperature=1e-3, num_samples=2, max_decode_length=3
    ),
  ],
  ids=lambda config: config.strategy,
)
def test_a_text_that_was_cut_says_so(student, decoding):
  """Three bytes hold "no" with its end, and "yes" without."""
  evaluator = make_evaluator(student.mesh, batch_rows=4, decoding=decoding)
  params, examples = student.state.params, make_examples()
  for texts, answer in zip(
    evaluator.predict_samples(params, examples, LABEL),
    ANSWERS.values(),
    strict=True,
  ):
    reason = "stop" if answer == "no" else "length"
    # A beam of sequences that end is preferred to one that does not.
    if decoding.strategy != "beam":
      assert texts == [(answer[:3], reason)] * decoding.num_samples
    assert [len(text.text) < 3 for text in texts] == [
      text.finish_reason == "stop" for text in texts
    ]
  _, rows = evaluator.evaluate(params, examples, LABEL)
  assert [row["finish_reason"] for row in rows] == [
    texts[0].finish_reason
    for texts in evaluator.predict_samples(params, examples, LABEL)
  ]


def test_buckets_change_nothing_and_keep_the_order(student, monkeypatch):
  rng = np.random.default_rng(0)
  lengths = [3, 60, 9, 30, 31, 2, 64, 100, 17, 12]
  examples = [
    make_example("".join(rng.choice(list("abc xyz"), length)), answer)
    for length, answer in zip(lengths, ["yes", "no"] * 5, strict=True)
  ]
  model = T5(CONFIG, sharding.make_constrain_fn(student.mesh))
  params = tiny_student.make_params(CONFIG)  # Whose answers are odd.

  def evaluate():
    evaluator = Evaluator(
      model, student.mesh, VOCABULARY, {"inputs": 64, "targets": 16}, 4
    )
    return (
      evaluator.predict(params, examples, LABEL),
      evaluator.compute_log_likelihoods(params, examples, LABEL),
    )

  shapes = set()
  make_batches = pipeline.make_eval_batches

  def note_shapes(*args):
    for batch, rows in make_batches(*args):
      shapes.add(batch[batch_lib.ENCODER_INPUT_TOKENS].shape)
      yield batch, rows

  monkeypatch.setattr(pipeline, "make_eval_batches", note_shapes)
  predictions, (scores, counts) = evaluate()
  assert shapes == {(4, 64), (4, 32), (2, 8)}
  assert len(set(predictions)) > 1
  assert counts.tolist() == [4, 3] * 5

  monkeypatch.setattr(
    length_buckets, "round_up", lambda size, largest, *_: largest
  )
  shapes.clear()
  expected, (expected_scores, expected_counts) = evaluate()
  assert shapes == {(4, 64)}
  assert predictions == expected
  np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
  np.testing.assert_array_equal(counts, expected_counts)


def test_decoding_ends_when_the_examples_do(student, monkeypatch):
  """Rows that are left over in a batch must not go on."""
  evaluator = make_evaluator(student.mesh, batch_rows=3)
  steps = []

  def count(step_fn, cache, row_ids, **kwargs):
    def count_step(tokens, step, cache):
      jax.debug.callback(lambda step: steps.append(int(step)), step)
      return step_fn(tokens, step, cache)

    return strategy.decode(
      kwargs.pop("config"), count_step, cache, row_ids, **kwargs
    )

  monkeypatch.setattr(
    evaluator_lib,
    "decode",
    lambda config, *args, **kwargs: count(*args, config=config, **kwargs),
  )
  examples = make_examples()[:2]  # "yes" and "no"
  evaluator.predict(student.state.params, examples, LABEL)
  jax.effects_barrier()
  assert sorted(steps) == [0, 1, 2, 3]


def test_a_label_longer_than_any_is_cut_and_wrong(student, evaluator):
  # Eight tokens, as many as the longest label rounded up.
  said = "wet answ"
  info = dataclasses.replace(
    LABEL,
    label_set=("yes", "no", said),
    lengths={"train": {"targets": {"3": 2, "4": 1, "5": 1}}},
  )
  examples = make_examples(sum=said)
  metrics, rows = evaluator.evaluate(student.state.params, examples, info)
  assert [row["prediction"] for row in rows] == [
    *list(ANSWERS.values())[:3],
    said + evaluator_lib.CUT_MARK,
  ]
  assert [row["correct"] for row in rows] == [True, True, True, False]
  assert metrics["num_unparsed"] == 1


def test_a_cut_equation_is_none():
  assert arithmetic.equations_equal("3 + 4", "7")
  said = "3 + 4" + evaluator_lib.CUT_MARK
  assert arithmetic.evaluate_equation(said) is None


@pytest.mark.parametrize(
  "kind,longest,decoding",
  [
    ("rationale", "5", None),
    ("joint", "5", None),
    # As long as the targets of training: nothing to cut.
    ("label", "15", None),
    # What is cut from a beam may be the better one.
    ("label", "5", DecodingConfig(num_beams=2)),
    # The user's word counts.
    ("label", "5", DecodingConfig(max_decode_length=16)),
  ],
)
def test_what_is_not_cut(student, kind, longest, decoding):
  info = dataclasses.replace(
    make_task_info(kind), lengths={"test": {"targets": {longest: 1}}}
  )
  evaluator = make_evaluator(student.mesh, batch_rows=4, decoding=decoding)
  _, rows = evaluator.evaluate(student.state.params, make_examples(), info)
  assert [row["prediction"] for row in rows] == list(ANSWERS.values())


def test_batch_size_padding_rows_and_mesh_change_nothing(student, evaluator):
  """Of inputs that the student never saw, so that its answers are odd."""
  examples = [
    make_example(inputs, "yes")
    for inputs in ("sun", "a moon", "b", "the ox", "dull")
  ]
  params = student.state.params
  mesh = {"data": 2, "fsdp": 2, "model": 2}
  sharded = tiny_student.start("adamw", mesh, CONFIG)
  subjects = [
    (evaluator, params),
    (make_evaluator(student.mesh, batch_rows=1), params),
    # Four shards share the rows, so 3 become 4.
    (
      make_evaluator(sharded.mesh, batch_rows=3),
      jax.device_put(params, sharded.shardings.params),
    ),
  ]
  results = [
    (
      subject.predict(weights, examples, LABEL),
      subject.score(weights, examples, LABEL),
    )
    for subject, weights in subjects
  ]
  predictions, scores = results[0]
  assert len(set(predictions)) > 1
  assert not set(predictions) <= set(ANSWERS.values())
  for other_predictions, other_scores in results[1:]:
    assert other_predictions == predictions
    assert other_scores == pytest.approx(scores, rel=1e-5)


def test_dropped_spans_are_scored_and_not_decoded(student, evaluator):
  info = make_task_info("span_corruption")
  examples = make_examples()
  params = student.state.params
  metrics, rows = evaluator.evaluate(params, examples, info)
  assert metrics == evaluator.score(params, examples, info)
  assert [row["target"] for row in rows] == list(ANSWERS.values())
  assert {row["prediction"] for row in rows} == {None}
  assert all("correct" not in row for row in rows)
