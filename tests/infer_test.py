"""Tests of infer.py: any input in, one prediction a line out, in order."""

import io
import json
import sys
import types

import pytest
import tiny_run
from tiny_run import fixture_model_dir as fixture_model_dir

from distill_jax import infer, run_loading
from distill_jax.data import vocab
from distill_jax.errors import UserError

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
}


class _Evaluator:
  """Predicts the input in capitals; remembers the sizes of its calls."""

  sizes: list[int] = []

  def __init__(self, model, mesh, vocabulary, lengths, batch_rows, num_beams):
    self._vocabulary = vocabulary

  def predict(self, params, examples, info):
    self.sizes.append(len(examples))
    assert all(example.inputs[-1] == 1 for example in examples)
    return [
      self._vocabulary.decode(example.inputs).upper() for example in examples
    ]


@pytest.fixture(name="predict")
def fixture_predict(monkeypatch, tmp_path):
  """Returns what runs `infer` with a stand-in for the student."""
  monkeypatch.setattr(infer, "Evaluator", _Evaluator)
  monkeypatch.setattr(_Evaluator, "sizes", [])

  def predict(content, tasks=("toy_label", "toy_rationale"), **changes):
    loaded = types.SimpleNamespace(
      model=None,
      mesh=None,
      params=None,
      model_dir="/run",
      vocabulary=vocab.load_vocabulary("bytes"),
      feature_lengths={"inputs": 8, "targets": 8},
      record=types.SimpleNamespace(
        identity={"tasks": {name: _TASKS[name] for name in tasks}}
      ),
    )
    monkeypatch.setattr(run_loading, "load_run", lambda *_: loaded)
    source, output = tmp_path / "in", tmp_path / "out.jsonl"
    source.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
    settings = {"model_dir": "/run", "batch_rows": 2} | changes
    infer.run(infer.InferRun(str(source), str(output), **settings))
    lines = output.read_text("utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]

  return predict


def test_jsonl_keeps_other_fields_and_order(predict):
  rows = [
    {"input": f"q{i}", "id": i, "meta": {"Ω": [None, 1.5]}} for i in range(40)
  ]
  found = predict("\n".join(json.dumps(row) for row in rows))
  assert found == [row | {"prediction": f"L:Q{row['id']}"} for row in rows]
  # By and by: what is held and lost at once is bounded.
  assert _Evaluator.sizes == [16, 16, 8]


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
  assert row == {"input": "a", "prediction": "L:A"}


def test_the_text_between_the_lines_may_hold_an_eos(predict, monkeypatch):
  seen = []

  def remember(self, params, examples, info):
    seen.extend(example.inputs.tolist() for example in examples)
    return ["" for _ in examples]

  monkeypatch.setattr(_Evaluator, "predict", remember)
  predict("a</s>b")
  assert seen == [[76 + 3, 58 + 3, 97 + 3, 1, 98 + 3, 1]]


def test_rationales_are_given_when_asked_for(predict):
  (row,) = predict("a", with_rationale=True)
  assert row == {
    "input": "a",
    "prediction": "L:A",
    "predicted_rationale": "R:A",
  }


def test_a_student_of_rationales_alone_gives_those(predict):
  (row,) = predict("a", tasks=["toy_rationale"])
  assert row == {"input": "a", "predicted_rationale": "R:A"}


def test_a_joint_student_gives_its_label(predict):
  (row,) = predict("so answer: b", tasks=["toy_joint"])
  # The stand-in's "ANSWER:" is no marker: all of the text is the label.
  assert row["prediction"] == "J:SO ANSWER: B"


@pytest.mark.parametrize("text, label", [("a answer: b", "b"), ("c", "c")])
def test_a_label_is_read_out_of_a_joint_text(predict, monkeypatch, text, label):
  monkeypatch.setattr(_Evaluator, "predict", lambda *_: [text])
  (row,) = predict("a", tasks=["toy_joint"])
  assert row["prediction"] == label


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
    ("", "in has no lines"),
    (" \n\r\n\t", "in has no lines"),
    (b"a\xff\n", "in is not UTF-8"),
  ],
)
def test_bad_input_is_named_before_anything_is_written(
  predict, tmp_path, content, told
):
  with pytest.raises(UserError, match=told):
    predict(content)
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
  monkeypatch.setattr(infer, "Evaluator", None)
  (tmp_path / "out.jsonl").mkdir()
  with pytest.raises(UserError, match="out.jsonl is a folder"):
    predict("a")
  settings = infer.InferRun(
    f"{tmp_path}/in", f"{tmp_path}/in/out.jsonl", "/run"
  )
  with pytest.raises(UserError, match="OUTPUT_PATH cannot be written: .*in'"):
    infer.run(settings)


@pytest.mark.parametrize(
  "field, macro", [("batch_rows", "BATCH_SIZE"), ("num_beams", "NUM_BEAMS")]
)
def test_numbers_below_one(field, macro):
  with pytest.raises(UserError, match=f"{macro} is 0; it must be"):
    infer.InferRun("in", "out", **{field: 0})


def test_a_failure_leaves_no_output(predict, tmp_path, monkeypatch):
  monkeypatch.setattr(_Evaluator, "predict", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    predict("a")
  assert not (tmp_path / "out.jsonl").exists()


def test_a_trained_student_on_the_standard_streams(
  model_dir, monkeypatch, capsys
):
  def predict(content):
    stdin = types.SimpleNamespace(buffer=io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    settings = infer.InferRun(
      "-", "-", str(model_dir), with_rationale=True, mesh=tiny_run.MESH
    )
    assert infer.run(settings) == content.count(b"\n")
    return [json.loads(x) for x in capsys.readouterr().out.splitlines()]

  rows = predict(b"one\ntwo\n")
  assert [list(row) for row in rows] == [
    ["input", "prediction", "predicted_rationale"]
  ] * 2
  # A row's neighbours do not change what is predicted for it.
  assert predict(b"two\nthree\none\n")[::2] == rows[::-1]
