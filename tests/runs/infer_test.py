"""Tests of runs/infer.py: any input in, one prediction a line out, in order."""

import io
import json
import logging
import sys
import types

import numpy as np
import pytest
import run_settings
import tiny_run
from small_vocabulary import make_vocabulary
from tiny_run import fixture_model_dir as fixture_model_dir

from distill_jax.data import vocab
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Decoded
from distill_jax.runs import convert, infer
from distill_jax.student import loading
from distill_jax.student import student as student_lib

_LABEL = {
  "rate": 1.0,
  "kind": "label",
  "metric": "exact_match",
  "label_set": ["yes", "no"],
  "uses_teacher_labels": False,
  "inputs_prefix": "L:",
  "splits": {},
  "teacher_counts": {},
}
_TASKS = {
  "toy_label": _LABEL,
  "toy_rationale": _LABEL | {"kind": "rationale", "inputs_prefix": "R:"},
  "toy_joint": _LABEL | {"kind": "joint", "inputs_prefix": "J:"},
  "toy_joint_label_first": _LABEL | {"kind": "joint", "inputs_prefix": "J:"},
  "toy_equation": _LABEL | {"metric": "equation", "label_set": None},
  "toy_joint_equation": _LABEL | {"kind": "joint", "metric": "equation"},
}


class _Evaluator:
  """Predicts the input in capitals; remembers the sizes of its calls.

  A target's log-likelihood is minus its first id.
  """

  sizes: list[int] = []
  first_rows: list[int] = []

  def __init__(
    self,
    model,
    mesh,
    vocabulary,
    lengths,
    batch_rows,
    decoding,
    decode_layout="auto",
    num_row_buckets=4,
  ):
    self._vocabulary = vocabulary
    self._num_samples = decoding.num_samples

  def predict_samples(self, params, examples, info, first_row):
    self.first_rows.append(first_row)
    self.sizes.append(len(examples))
    assert all(example.inputs[-1] == 1 for example in examples)
    texts = [
      self._vocabulary.decode(example.inputs).upper() for example in examples
    ]
    return [
      [
        Decoded(text + "!" * sample, "length" if sample else "stop")
        for sample in range(self._num_samples)
      ]
      for text in texts
    ]

  def compute_log_likelihoods(self, params, examples, info):
    targets = [example.targets for example in examples]
    assert all(target[-1] == 1 for target in targets)
    return (
      np.array([-float(target[0]) for target in targets]),
      np.array([len(target) for target in targets]),
    )


@pytest.fixture(name="predict")
def fixture_predict(monkeypatch, tmp_path):
  """Returns what runs `infer` with a stand-in for the student."""
  monkeypatch.setattr(student_lib, "Evaluator", _Evaluator)
  monkeypatch.setattr(_Evaluator, "sizes", [])
  monkeypatch.setattr(_Evaluator, "first_rows", [])

  def predict(
    content,
    tasks=("toy_label", "toy_rationale"),
    overwrite=False,
    **changes,
  ):
    opened = types.SimpleNamespace(
      model=None,
      mesh=None,
      checkpoints=(None,),
      load_params=lambda checkpoint: None,
      origin="the run in /run",
      vocabulary=vocab.load_vocabulary("bytes"),
      feature_lengths={"inputs": 8, "targets": 8},
      record=types.SimpleNamespace(
        identity={"tasks": {name: _TASKS[name] for name in tasks}}
      ),
    )
    monkeypatch.setattr(loading, "open_model", lambda *_: opened)
    source, output = tmp_path / "in", tmp_path / "out.jsonl"
    source.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
    settings = {"model_dir": "/run", "batch_rows": 2} | changes
    infer.run(
      infer.InferRun(str(source), str(output), **settings), overwrite=overwrite
    )
    lines = output.read_text("utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]

  return predict


def test_jsonl_keeps_other_fields_and_order(predict):
  rows = [
    {"input": f"q{i}", "id": i, "meta": {"Ω": [None, 1.5]}} for i in range(40)
  ]
  found = predict("\n".join(json.dumps(row) for row in rows))
  assert found == [
    row | {"prediction": f"L:Q{row['id']}", "finish_reason": "stop"}
    for row in rows
  ]
  # By and by: what is held and lost at once is bounded.
  assert _Evaluator.sizes == [16, 16, 8]
  assert _Evaluator.first_rows == [0, 16, 32]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_plain_text_is_one_input_a_line(predict, end):
  rows = predict(f"one{end}{end}  two 東京 {{{end}three")
  assert [row["input"] for row in rows] == ["one", "  two 東京 {", "three"]
  assert rows[1]["prediction"] == "L:  TWO 東京 {"


def test_what_only_looks_like_the_end_of_a_line(predict):
  rows = predict("a\u2028b\x0bc\x85d\ne")
  assert [row["input"] for row in rows] == ["a\u2028b\x0bc\x85d", "e"]


def test_a_byte_order_mark_is_no_input(predict):
  (row,) = predict(b'\xef\xbb\xbf{"input": "a"}')
  assert row == {"input": "a", "prediction": "L:A", "finish_reason": "stop"}


def test_the_text_between_the_lines_may_hold_an_eos(predict, monkeypatch):
  seen = []

  def remember(self, params, examples, info, first_row):
    seen.extend(example.inputs.tolist() for example in examples)
    return [[Decoded("", "stop")] for _ in examples]

  monkeypatch.setattr(_Evaluator, "predict_samples", remember)
  predict("a</s>b")
  assert seen == [[76 + 3, 58 + 3, 97 + 3, 1, 98 + 3, 1]]


def test_rationales_are_given_when_asked_for(predict):
  (row,) = predict("a", with_rationale=True)
  assert row == {
    "input": "a",
    "prediction": "L:A",
    "finish_reason": "stop",
    "predicted_rationale": "R:A",
    "rationale_finish_reason": "stop",
  }


def test_of_several_samples_the_first_is_the_prediction(predict):
  (row,) = predict(
    "a",
    tasks=["toy_joint_label_first", "toy_rationale"],
    with_rationale=True,
    decoding=DecodingConfig("sample", num_samples=3),
  )
  assert row == {
    "input": "a",
    "prediction": "J:A",
    "predictions": ["J:A", "J:A!", "J:A!!"],
    "finish_reason": "stop",
    "finish_reasons": ["stop", "length", "length"],
    "predicted_rationale": "R:A",
    "predicted_rationales": ["R:A", "R:A!", "R:A!!"],
    "rationale_finish_reason": "stop",
    "rationale_finish_reasons": ["stop", "length", "length"],
  }
  with pytest.raises(UserError, match="in:1: there is a field 'predictions'"):
    predict(
      '{"input": "a", "predictions": 1}',
      overwrite=True,
      decoding=DecodingConfig("sample", num_samples=2),
    )


def test_what_the_vocabulary_cannot_spell_is_told(
  predict, tmp_path, monkeypatch, caplog
):
  small = make_vocabulary(tmp_path)
  predict("東京 < a\nb", overwrite=True)
  assert "cannot spell" not in caplog.text
  monkeypatch.setattr(vocab, "load_vocabulary", lambda _: small)
  predict("東京 < a\nb\nc < d", overwrite=True)
  assert (
    "2 of 3 inputs hold what the model's vocabulary cannot spell, which is"
    " unknown to the student: '<' (2), '東京' (1)." in caplog.text
  )
  caplog.clear()
  row = {"input": "a", "target": "<"}
  predict(json.dumps(row), overwrite=True)
  assert "cannot spell" not in caplog.text
  predict(json.dumps(row), mode="score", overwrite=True)
  assert "1 of 1 targets hold what the model's vocabulary" in caplog.text


def test_targets_are_scored(predict):
  rows = [
    {"input": f"q{i}", "target": "abc"[: i % 3], "prediction": i}
    for i in range(20)
  ]
  found = predict("\n".join(map(json.dumps, rows)), mode="score")
  scores = [(1, 1), (100, 2), (100, 3)]
  assert found == [
    row | {"log_likelihood": -float(first), "num_target_tokens": count}
    for row, (first, count) in zip(rows, scores * 7, strict=False)
  ]


@pytest.mark.parametrize(
  "content, told",
  [
    ("plain text", "is plain text. Give JSONL"),
    ('{"input": "a"}', "in:1: the field 'target' is missing"),
    ('{"target": "a"}', "in:1: the field 'input' is missing"),
    ('{"input": "a", "target": null}', "in:1: the field 'target' is missing"),
    (
      '{"input": "a", "target": "b", "log_likelihood": 0}',
      "in:1: there is a field 'log_likelihood' already",
    ),
    (
      '{"input": "a", "target": "1234567"}\n\n{"input": "a", "target": '
      '"12345678"}',
      "in:3: the target has 9 tokens with EOS; .* in /run has rows of 8",
    ),
  ],
)
def test_what_cannot_be_scored(predict, tmp_path, content, told):
  with pytest.raises(UserError, match=told):
    predict(content, mode="score")
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("mode", ["predict", "score"])
def test_inputs_that_are_trimmed_are_counted(predict, caplog, mode):
  # "L:" and EOS leave 5 of 8 tokens.
  rows = [{"input": "x" * i, "target": "a"} for i in range(3, 8)]
  predict("\n".join(map(json.dumps, rows)), mode=mode)
  assert "2 of 5 inputs have more than the 8 tokens" in caplog.text
  caplog.clear()
  predict("\n".join(map(json.dumps, rows[:3])), mode=mode, overwrite=True)
  assert caplog.text == ""


def test_a_student_of_rationales_alone_gives_those(predict):
  (row,) = predict("a", tasks=["toy_rationale"])
  assert row == {
    "input": "a",
    "predicted_rationale": "R:A",
    "rationale_finish_reason": "stop",
  }


def test_a_joint_student_gives_its_label(predict):
  (row,) = predict("so answer: b", tasks=["toy_joint"])
  # The stand-in's "ANSWER:" is no marker, and a rationale is no answer.
  assert row["prediction"] == ""


@pytest.mark.parametrize(
  "task, texts, labels",
  [
    ("toy_joint", ["a answer: b"], ["b"]),
    ("toy_joint", ["My rationale: x. answer: no"], ["no"]),
    ("toy_joint", ["c"], [""]),
    ("toy_joint_label_first", ["c"], ["c"]),
    ("toy_joint_label_first", ["no rationale: the answer: x"], ["no"]),
    (
      "toy_joint_label_first",
      ["no rationale: x", "yes", "no rationale: a answer: b"],
      ["no", "yes", "no"],
    ),
  ],
)
def test_a_label_is_read_out_of_a_joint_text(
  predict, monkeypatch, task, texts, labels
):
  _let_predict(monkeypatch, *(Decoded(text, "stop") for text in texts))
  (row,) = predict("a", tasks=[task])
  assert row["prediction"] == labels[0]
  if len(labels) > 1:
    assert row["predictions"] == labels


def _let_predict(monkeypatch, *samples):
  """Makes the stand-in predict these samples, whatever is asked."""
  monkeypatch.setattr(_Evaluator, "predict_samples", lambda *_: [list(samples)])


def test_an_equation_is_given_with_its_value(predict, monkeypatch):
  texts = [
    "(4 + 4) / 2",
    "1.1 * 3",
    "8.8 - 5.2",
    "1 / 3",
    "12",
    "many",
    "1 / 0",
  ]
  _let_predict(monkeypatch, *(Decoded(text, "stop") for text in texts))
  (row,) = predict(
    "a",
    tasks=["toy_equation"],
    decoding=DecodingConfig("sample", num_samples=7),
  )
  assert row["prediction_value"] == 4
  values = row["prediction_values"]
  assert values == [4, 3.3, 3.6, 1 / 3, 12, None, None]
  assert [type(values[0]), type(values[4])] == [int, int]


def test_the_value_of_an_equation_behind_its_rationale(predict, monkeypatch):
  _let_predict(monkeypatch, Decoded("so answer: 5 x", "length"))
  (row,) = predict("a", tasks=["toy_joint_equation"])
  assert row == {
    "input": "a",
    "prediction": "5 x",
    "prediction_value": None,
    "finish_reason": "length",
  }


def test_rationales_of_a_student_that_learned_none(predict):
  with pytest.raises(UserError, match="run in /run learned toy_label"):
    predict("a", tasks=["toy_label"], with_rationale=True)


@pytest.mark.parametrize(
  "content, told",
  [
    ('{"input": "a"}\n\n{"input": ', "in:3: not a JSON object: Expecting valu"),
    ('{"input": "a"}\n[1]', "in:2: the field 'input' is missing"),
    ('{"input": "a"}\n{"inputs": "a"}', "in:2: the field 'input' is missing"),
    ('{"input": 3}', "in:1: the field 'input' is missing, or no text"),
    ('{"input": "a"}\n' + "[" * 100_000, "in:2: not a JSON object: maximum re"),
    (r'{"input": "\ud800"}', "in:1: not a JSON object: .*surrogates"),
    (r'{"input": "a", "meta": "\udc00"}', "in:1: .*surrogates"),
    ('{"input": "a", "prediction": 1}', "in:1: there is a field 'prediction'"),
    (
      '{"input": "a"}\n{"input": "a", "predicted_rationale": ""}',
      "in:2: there is a field 'predicted_rationale' already",
    ),
    ('{"input": "a", "finish_reason": ""}', "is a field 'finish_reason' alr"),
    ('{"input": "a", "prediction_value": 1}', "field 'prediction_value' alrea"),
    (
      '{"input": "a", "rationale_finish_reason": null}',
      "there is a field 'rationale_finish_reason' already",
    ),
    (b"a\n\nb\xff\n", "in:3 is not UTF-8"),
  ],
)
def test_bad_input_is_named_before_anything_is_written(
  predict, tmp_path, content, told
):
  with pytest.raises(UserError, match=told):
    predict(content)
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("content", ["", " \n\r\n\t"])
@pytest.mark.parametrize("mode", ["predict", "score"])
def test_an_empty_input_gives_an_empty_output(
  predict, monkeypatch, caplog, content, mode
):
  monkeypatch.setattr(student_lib, "Evaluator", None)
  assert predict(content, mode=mode) == []
  assert "in is empty, so the output is" in caplog.text


def test_an_empty_input_without_a_model_is_a_mistake(predict, tmp_path):
  with pytest.raises(UserError, match="Neither CHECKPOINT_PATH nor MODEL_DIR"):
    predict("", model_dir=None)
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_lines_are_skipped_when_asked(predict, caplog):
  caplog.set_level(logging.INFO)
  content = b"\n".join(
    [
      b'{"input": "a"}',
      b'{"input": ',
      b'{"input": "b", "prediction": 1}',
      b'{"input": "\xff"}',
      b"",
      b'{"input": 3}',
      b"[1]",
      b"null",
      b'{"input": "c"}',
    ]
  )
  rows = predict(content, skips_bad_lines=True)
  assert [row["input"] for row in rows] == ["a", "c"]
  assert "6 bad lines are skipped:" in caplog.text  # A blank one is none.
  for number in (2, 3, 4, 6, 7):
    assert f"in:{number}" in caplog.text
  assert "and 1 more" in caplog.text
  assert "2 inputs" in caplog.text and "6 bad lines skipped" in caplog.text


def test_targets_that_cannot_be_scored_are_skipped_when_asked(predict, caplog):
  caplog.set_level(logging.INFO)
  rows = [
    {"input": "a", "target": "12345678"},
    {"input": "b"},
    {"input": "c", "target": "1"},
  ]
  (row,) = predict(
    "\n".join(map(json.dumps, rows)), mode="score", skips_bad_lines=True
  )
  assert row["input"] == "c"
  assert "1 inputs" in caplog.text and "2 bad lines skipped" in caplog.text
  assert "in:1: the target has 9 tokens" in caplog.text


def test_bytes_that_are_no_text_are_no_empty_input(predict):
  with pytest.raises(UserError, match="nothing but bad lines, 1 of.*in:1 is n"):
    predict(b"\xff\n\n", skips_bad_lines=True)


@pytest.mark.parametrize("mode", ["predict", "score"])
def test_an_input_of_bad_lines_alone_is_a_mistake(predict, tmp_path, mode):
  content = '{"input": "a", "target": "12345678", "prediction": ""}\n' * 3
  with pytest.raises(UserError, match="nothing but bad lines, 3 of.*in:1:"):
    predict(content, mode=mode, skips_bad_lines=True)
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_input_that_is_not_there(tmp_path):
  settings = infer.InferRun(f"{tmp_path}/absent", f"{tmp_path}/out", "/run")
  with pytest.raises(UserError, match="INPUT_PATH cannot be read.*absent"):
    infer.run(settings)


def test_output_is_not_replaced_unasked(predict, tmp_path):
  (tmp_path / "out.jsonl").write_text("precious")
  with pytest.raises(UserError, match="out.jsonl exists. Add --overwrite"):
    predict("a")
  assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_output_that_cannot_be_written_is_told_before_the_work(
  predict, tmp_path, monkeypatch
):
  monkeypatch.setattr(student_lib, "Evaluator", None)
  (tmp_path / "out.jsonl").mkdir()
  with pytest.raises(UserError, match="out.jsonl is a folder"):
    predict("a")
  settings = infer.InferRun(
    f"{tmp_path}/in", f"{tmp_path}/in/out.jsonl", "/run"
  )
  with pytest.raises(UserError, match="OUTPUT_PATH cannot be written: .*in'"):
    infer.run(settings)


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"batch_rows": 0}, "batch_rows is 0; it must be"),
    ({"mode": "rank"}, "mode is 'rank'; it must be one of 'predict', 'score'"),
    ({"mode": "score", "with_rationale": True}, "and with_rationale is set"),
    (
      {"mode": "score", "decoding": DecodingConfig(num_beams=2)},
      "nothing reads the settings of decoding, .*'num_beams': 2",
    ),
  ],
)
def test_settings_that_cannot_be(changes, told):
  with pytest.raises(UserError, match=told):
    infer.InferRun("in", "out", **changes)


def test_a_failure_leaves_no_output(predict, tmp_path, monkeypatch):
  monkeypatch.setattr(_Evaluator, "predict_samples", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    predict("a")
  assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture(name="run_on_stdin")
def fixture_run_on_stdin(model_dir, monkeypatch, capsys):
  """Returns what runs the trained student on the standard streams."""

  def run(content, **changes):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    settings = infer.InferRun(
      "-", "-", str(model_dir), mesh=tiny_run.MESH, **changes
    )
    assert infer.run(settings) == content.count(b"\n")
    return [json.loads(x) for x in capsys.readouterr().out.splitlines()]

  return run


def test_a_sample_does_not_depend_on_the_batch_size(run_on_stdin):
  content = b"".join(b"question %d\n" % i for i in range(20))
  decoding = DecodingConfig("sample", seed=1)
  # In chunks of 64 rows (8 devices), 8 batches each, and in one chunk.
  rows = run_on_stdin(content, batch_rows=1, decoding=decoding)
  assert run_on_stdin(content, batch_rows=24, decoding=decoding) == rows
  assert len({row["prediction"] for row in rows}) > 15


def test_a_trained_student_scores(run_on_stdin):
  rows = [{"input": "one", "target": "1"}, {"input": "two", "target": "two"}]
  lines = [json.dumps(row).encode() + b"\n" for row in rows]
  found = run_on_stdin(b"".join(lines), mode="score")
  assert [row["num_target_tokens"] for row in found] == [2, 4]
  assert all(row["log_likelihood"] < 0 for row in found)
  (alone,) = run_on_stdin(lines[1], mode="score")
  assert alone == found[1]


def test_a_trained_student_on_the_standard_streams(run_on_stdin):
  def predict(content):
    return run_on_stdin(content, with_rationale=True)

  rows = predict(b"one\ntwo\n")
  assert [list(row) for row in rows] == [
    [
      "input",
      "prediction",
      "finish_reason",
      "predicted_rationale",
      "rationale_finish_reason",
    ]
  ] * 2
  # A row's neighbours do not change what is predicted for it.
  assert predict(b"two\nthree\none\n")[::2] == rows[::-1]


@pytest.fixture(name="build")
def fixture_build(monkeypatch):
  """Returns what builds the run's settings from its gin file and bindings."""
  yield from run_settings.make_builder(
    monkeypatch,
    "gin/runs/infer.gin",
    infer.InferRun,
    "INPUT_PATH = 'in'",
    "OUTPUT_PATH = 'out'",
  )


def test_the_macros_arrive(build):
  run_settings.check_decoding_macros(build)
  sampling = build("DECODING = 'sample'", "NUM_SAMPLES = 3")
  assert sampling.decoding.num_samples == 3
  assert build("INFER_MODE = 'score'").mode == "score"
  assert build("SKIP_BAD_LINES = True").skips_bad_lines
  built = build(
    "INPUT_PREFIX = 'a'",
    "MIXTURE_OR_TASK_NAME = 'b'",
    "MIXTURE_OR_TASK_MODULE = 'c'",
    "VOCAB_PATH = '/d'",
    "TASK_FEATURE_LENGTHS = {'inputs': 1, 'targets': 2}",
  )
  assert (
    built.input_prefix,
    built.mixture_or_task_name,
    built.task_module,
    built.vocab_path,
    built.feature_lengths,
  ) == ("a", "b", "c", "/d", {"inputs": 1, "targets": 2})


@pytest.fixture(name="student")
def fixture_student(model_dir, tmp_path):
  """The trained student as a checkpoint of another program."""
  folder = tmp_path / "student"
  convert.convert(str(model_dir), str(folder), destination_format="hf")
  return folder


def test_a_checkpoint_of_no_run_predicts(student, model_dir, tmp_path):
  """Its texts are those of the run it was made from, with the same prefix."""
  source = tmp_path / "in"
  source.write_text("one\ntwo\n")

  def predict(name, **changes):
    output = tmp_path / name
    infer.run(
      infer.InferRun(str(source), str(output), mesh=tiny_run.MESH, **changes)
    )
    return [json.loads(line) for line in output.read_text().splitlines()]

  expected = predict("of_run", model_dir=str(model_dir))
  given = {
    "checkpoint_path": str(student),
    "feature_lengths": {"inputs": 32, "targets": 12},
  }
  assert predict("prefix", input_prefix="predict: ", **given) == expected
  assert predict("plain", **given) != expected
  with pytest.raises(UserError, match="TASK_FEATURE_LENGTHS must be given"):
    predict("none", checkpoint_path=str(student))
  with pytest.raises(UserError, match="lies in no run MIXTURE_OR_TASK_NAME sa"):
    predict("none", with_rationale=True, **given)
  rows = predict(
    "task",
    mixture_or_task_name="word_problems_distill",
    with_rationale=True,
    **given,
  )
  # Its answers are equations, so they have values.
  assert [list(row) for row in rows] == [
    [
      "input",
      "prediction",
      "prediction_value",
      "finish_reason",
      "predicted_rationale",
      "rationale_finish_reason",
    ]
  ] * 2
  assert [row["prediction"] for row in rows] == [
    row["prediction"] for row in expected
  ]


@pytest.mark.parametrize(
  "prefix, prediction", [(None, "L:A"), ("", "A"), ("Q: ", "Q: A")]
)
def test_the_prefix_of_inputs_can_be_replaced(predict, prefix, prediction):
  (row,) = predict("a", input_prefix=prefix)
  assert row["prediction"] == prediction


def test_a_prefix_for_two_tasks_is_refused():
  with pytest.raises(UserError, match="input_prefix is 'a', and with_rational"):
    infer.InferRun("in", "out", input_prefix="a", with_rationale=True)
