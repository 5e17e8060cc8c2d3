"""Tests of student/student.py: what `infer` writes comes out for any text."""

import json
import logging
import time

import pytest
import tiny_run
from tiny_run import fixture_model_dir as fixture_model_dir

import distill_jax
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.runs import infer

_TEXTS = [
  "one",
  "",
  "two </s> three <pad> <extra_id_0>",
  "東京 Ω",
  "a\nb",
  "x" * 99,
]


@pytest.fixture(name="student", scope="module")
def fixture_student(model_dir):
  return distill_jax.load_student(model_dir)


def _infer(tmp_path, rows, **settings):
  """Returns what `--run_mode=infer` writes for the same inputs."""
  source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
  source.write_text("".join(json.dumps(row) + "\n" for row in rows))
  infer.run(
    infer.InferRun(str(source), str(output), mesh=tiny_run.MESH, **settings),
    overwrite=True,
  )
  return [json.loads(line) for line in output.read_text().splitlines()]


def test_predictions_are_those_of_infer(student, model_dir, tmp_path):
  rows = _infer(
    tmp_path,
    [{"input": text} for text in _TEXTS],
    model_dir=str(model_dir),
    with_rationale=True,
  )
  predicted, explained = student.predict(_TEXTS), student.explain(_TEXTS)
  for row, prediction, rationale in zip(
    rows, predicted, explained, strict=True
  ):
    assert (row["prediction"], row["finish_reason"]) == (
      prediction.text,
      prediction.finish_reason,
    )
    assert (row["predicted_rationale"], row["rationale_finish_reason"]) == (
      rationale.text,
      rationale.finish_reason,
    )
  assert len({prediction.text for prediction in predicted}) > 2


def test_scores_are_those_of_infer(student, model_dir, tmp_path):
  targets = ["1", "", "two", "</s>", "Ω", "y" * 11]
  rows = _infer(
    tmp_path,
    [
      {"input": text, "target": target}
      for text, target in zip(_TEXTS, targets, strict=True)
    ],
    model_dir=str(model_dir),
    mode="score",
  )
  found = student.score(_TEXTS, targets=targets)
  assert found == [
    (row["log_likelihood"], row["num_target_tokens"]) for row in rows
  ]
  # "</s>" in a target is four letters and no end.
  assert found[3].num_target_tokens == 5


@pytest.mark.parametrize(
  "decoding",
  [
    DecodingConfig("beam", num_beams=2),
    DecodingConfig("sample", num_samples=2, seed=3, max_decode_length=5),
  ],
)
def test_other_decodings_are_those_of_infer(
  student, model_dir, tmp_path, decoding
):
  rows = _infer(
    tmp_path,
    [{"input": text} for text in _TEXTS],
    model_dir=str(model_dir),
    decoding=decoding,
  )
  predicted = student.predict(_TEXTS, decoding=decoding)
  assert [row["prediction"] for row in rows] == [
    prediction.text for prediction in predicted
  ]
  if decoding.num_samples > 1:
    assert [row["predictions"] for row in rows] == [
      [sample.text for sample in prediction.samples] for prediction in predicted
    ]


def test_a_limit_of_tokens_cuts(student):
  (prediction,) = student.predict(["one"], max_decode_length=2)
  assert prediction.finish_reason == "length"
  (longer,) = student.predict(["one"])
  assert longer.text.startswith(prediction.text)


def test_a_text_does_not_depend_on_its_neighbours(student):
  assert student.predict(_TEXTS)[3] == student.predict([_TEXTS[3]])[0]


def test_nothing_gives_nothing(student):
  assert student.predict([]) == student.explain(()) == []
  assert student.score([], targets=[]) == []


@pytest.mark.parametrize(
  "texts, told",
  [
    ("one", "it must be a list of texts. Put one text in brackets"),
    (None, "texts is None; it must be a list"),
    (["a", 3], r"texts\[1\] is 3, of the type int; it must be text"),
    (["\ud800"], r"texts\[0\] holds half a surrogate pair at character 0"),
  ],
)
def test_what_is_no_text(student, texts, told):
  for call in (student.predict, student.explain):
    with pytest.raises(UserError, match=told):
      call(texts)
  with pytest.raises(UserError, match=told):
    student.score(texts, targets=["1"])


def test_what_cannot_be_scored(student):
  with pytest.raises(UserError, match="2 texts were given and 1 targets"):
    student.score(["a", "b"], targets=["1"])
  with pytest.raises(UserError, match=r"targets\[1\]: .* has 13 tokens"):
    student.score(["a", "b"], targets=["1", "2" * 12])


def test_inputs_that_are_trimmed_are_counted(student, caplog):
  student.predict(["one", "x" * 99])
  assert "1 of 2 inputs have more than the 32 tokens of a row" in caplog.text


def test_a_prefix_of_ones_own(student, model_dir, tmp_path):
  rows = _infer(
    tmp_path, [{"input": "one"}], model_dir=str(model_dir), input_prefix="Q: "
  )
  (prediction,) = student.predict(["one"], prefix="Q: ")
  assert prediction.text == rows[0]["prediction"]
  with pytest.raises(UserError, match=r"prefix\[0\] is 3"):
    student.predict(["one"], prefix=3)


def test_one_warm_request_is_fast(student, caplog):
  caplog.set_level(logging.INFO)
  student.predict(["one"])
  seconds = []
  for text in ("two", "three", "four"):
    started = time.perf_counter()
    student.predict([text])
    seconds.append(time.perf_counter() - started)
  # Compiling takes a second and more.
  assert min(seconds) < 0.5, seconds


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax"])
def test_a_saved_student_is_the_same(student, tmp_path, file_format):
  folder = tmp_path / "saved"
  student.save(folder, format=file_format)
  saved = distill_jax.load_student(
    folder,
    vocab_path="bytes",
    feature_lengths={"inputs": 32, "targets": 12},
  )
  assert saved.predict(_TEXTS, prefix="predict: ") == student.predict(_TEXTS)
  with pytest.raises(UserError, match="saved exists"):
    student.save(folder, format=file_format)
  student.save(folder, format=file_format, overwrite=True)


def test_a_form_that_there_is_not(student, tmp_path):
  with pytest.raises(UserError, match="format is 'onnx'; it must be one of"):
    student.save(tmp_path / "saved", format="onnx")
  with pytest.raises(UserError, match="dtype is 'int8'; it must be one of"):
    student.save(tmp_path / "saved", dtype="int8")
  assert not (tmp_path / "saved").exists()
