"""Tests of experiments/report.py."""

import base64
import html.parser

import pytest
from run_results import make_run_of_200

from distill_jax.experiments import report, results
from distill_jax.experiments.results import RunResult

_ATTACK = "</td><script>alert(1)</script><img src=http://x.test/a onerror=b>"


ROWS = [
  make_run_of_200(arm, size, seed, num_correct)
  for arm, size, seed, num_correct in (
    ("finetune", 100, 0, 40),
    ("finetune", 100, 1, 50),
    ("distill", 100, 0, 90),
    ("distill", 100, 1, 100),
    ("finetune", 720, 0, 120),
    ("distill", 720, 0, 122),
  )
]


class _Reader(html.parser.HTMLParser):
  """Collects tags, their attributes and texts, and checks the nesting."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.texts, self._open = [], [], [], []
    self.feed(text)
    assert not self._open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += attributes
    if tag not in ("meta", "img"):
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def _write(tmp_path, **changes):
  path = tmp_path / "report.html"
  arguments = {
    "title": "SVAMP",
    "rows": ROWS,
    "figures": [],
    "settings": "A = 1",
    "notes": [],
  }
  report.write_report(path, **(arguments | changes))
  return path.read_text(encoding="utf-8")


def test_table_for_the_terminal():
  text = report.format_table(ROWS)
  lines = text.splitlines()
  assert lines[0].split("  ")[0] == "Trained on"
  assert lines[2].split() == (
    "100 finetune 22.5% 12.9% to 32.1% 20.0% to 25.0% 90 of 400 2 1.5".split()
  )
  assert [line.split()[:2] for line in lines[2:6]] == [
    ["100", "finetune"],
    ["100", "distill"],
    ["720", "finetune"],
    ["720", "distill"],
  ]
  # Columns start at the same place in every line.
  assert {line.index("%") for line in lines[2:6]} == {lines[2].index("%")}


def test_differences_are_read_honestly():
  text = report.format_table(ROWS)
  lines = text.splitlines()
  small, large = (
    next(
      line for line in lines if line.startswith(f"{size} ") and "minus" in line
    )
    for size in (100, 720)
  )
  assert "distill minus finetune" in small and "+25.0" in small
  assert small.endswith("distill higher (p = 0.004 after Holm)")
  assert "+1.0" in large
  assert large.endswith("no difference shown in these two runs")
  said = " ".join(text.split())
  assert "Warning: fewer than 3 seeds (distill minus finetune on 100" in said
  assert "they speak of these two runs only" in said


def test_declared_comparisons_and_failures_are_shown(tmp_path):
  failures = [results.RunFailure("distill", 100, 7, _ATTACK)]
  (none, one), (page_none, page_one) = zip(
    *(
      (
        report.format_table(ROWS, pairs, failures),
        _write(tmp_path, comparisons=pairs, failures=failures),
      )
      for pairs in ([], [("finetune", "distill")])
    ),
    strict=True,
  )
  for text in (none, page_none):
    assert "minus" not in text and "Holm" not in text
  for text in (one, page_one):
    assert "finetune minus distill" in text and "1 run failed" in text
  assert one.index("1 run failed") > one.index("minus")
  reader = _Reader(page_one)
  assert _ATTACK in "".join(reader.texts) and "script" not in reader.tags


def test_answers_that_cannot_be_paired_are_said_to_be(tmp_path):
  rows = [
    RunResult(m, 100, s, 50 + s, 100, {}, 1.0) for m in "ab" for s in (0, 1)
  ]
  for text in (report.format_table(rows), _write(tmp_path, rows=rows)):
    assert "b minus a on 100" in " ".join(text.split())
    assert "Not paired by example" in text


def test_report_holds_everything_in_one_file(tmp_path):
  png = b"\x89PNG any bytes"
  (tmp_path / "plot.png").write_bytes(png)
  settings = "TRAIN_STEPS = 300\n" * 500
  page = _write(
    tmp_path,
    figures=[report.ReportFigure(tmp_path / "plot.png", 'the "caption"')],
    settings=settings,
    notes=["A first note.", "A second note."],
    environment={"machine": "2 cores"},
  )
  reader = _Reader(page)
  text = "".join(reader.texts)
  for expected in (
    "SVAMP",
    "A first note.",
    "A second note.",
    "12.9% to 32.1%",
    "no difference shown in these two runs",
    'the "caption"',
    settings,
    "2 cores",
  ):
    assert expected in text
  sources = [value for name, value in reader.attributes if name == "src"]
  assert sources == ["data:image/png;base64," + base64.b64encode(png).decode()]
  assert "http://" not in page and "https://" not in page
  assert "script" not in reader.tags and "link" not in reader.tags


def test_every_text_is_escaped(tmp_path):
  rows = [
    RunResult(f"{_ATTACK}{m}", 10, 0, 1, 1, {"0": True}, 1.0) for m in "ab"
  ]
  (tmp_path / "plot.png").write_bytes(b"png")
  quote = '"><script>alert(2)</script>'
  plain = _Reader(
    _write(
      tmp_path,
      rows=rows,
      examples=[report.ExamplePrediction("0", "m", "i", "t", "p", True, "r")],
      figures=[report.ReportFigure(tmp_path / "plot.png", "caption")],
      notes=["note"],
      environment={"name": "value"},
    )
  )
  page = _write(
    tmp_path,
    title=_ATTACK,
    rows=rows,
    settings=_ATTACK,
    notes=[_ATTACK],
    figures=[report.ReportFigure(tmp_path / "plot.png", quote)],
    examples=[
      report.ExamplePrediction(
        "0", _ATTACK, _ATTACK, _ATTACK, _ATTACK, True, _ATTACK
      )
    ],
    environment={_ATTACK: _ATTACK},
  )
  reader = _Reader(page)
  assert reader.tags == plain.tags
  assert [name for name, _ in reader.attributes] == [
    name for name, _ in plain.attributes
  ]
  # Title twice, note, 4 table cells of arms, comparison, its notes, ...
  assert "".join(reader.texts).count(_ATTACK) >= 12
  assert ("alt", quote) in reader.attributes


def test_examples_are_grouped_with_their_verdicts(tmp_path):
  page = _write(
    tmp_path,
    examples=[
      report.ExamplePrediction("7", "finetune", "How many?", "4", "5", False),
      report.ExamplePrediction("8", "finetune", "And now?", "6", "6", True),
      report.ExamplePrediction("9", "finetune", "And then?", "?", "6", None),
      report.ExamplePrediction(
        "7", "distill", "How many?", "4", "4", True, "2+2"
      ),
    ],
  )
  assert page.count("How many?") == 1
  reader = _Reader(page)
  text = " ".join(" ".join(reader.texts).split())
  assert "How many? Target: 4" in text
  assert "finetune 5 ✗ wrong" in text and "distill 4 ✓ correct 2+2" in text
  assert "finetune 6 not scored" in text
  assert text.index("distill 4") < text.index("And now?")
  # Only the first example has a rationale to show.
  assert text.count("Rationale") == 1


def test_broken_and_endless_text_is_shown_as_far_as_it_goes(tmp_path):
  page = _write(
    tmp_path,
    examples=[
      report.ExamplePrediction("0", "m", "\ud800", "t", "x" * 10_000, False)
    ],
  )
  assert "\\ud800" in page
  assert "x" * 2000 + " [8,000 characters more]" in page


def test_a_failed_report_leaves_the_old_one(tmp_path):
  before = _write(tmp_path)
  with pytest.raises(FileNotFoundError):
    _write(tmp_path, figures=[report.ReportFigure("absent.png", "")])
  assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_environment_names_versions():
  environment = report.describe_environment()
  assert environment["python"].count(".") == 2
  assert "numpy" in environment and "CPU cores" in environment["machine"]
