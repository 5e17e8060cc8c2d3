"""The report of a sweep: one HTML page, and the same tables as plain text.

The page holds its style and figures, asks nothing of the network and runs
nothing. Every text is escaped: predictions are a model's, and may hold
anything.
"""

import base64
import dataclasses
import html
import importlib.metadata
import os
import pathlib
import platform
import textwrap
from collections.abc import Mapping, Sequence

from distill_jax.experiments import results, tables
from distill_jax.files import atomic

_PACKAGES = ("distill_jax", "jax", "jaxlib", "flax", "optax", "numpy")
_SHOWN_CHARACTERS = 2000
# Should a text ever get past the escaping, the policy still lets it load and
# run nothing.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .35rem .8rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #666; }
.wide { overflow-x: auto; }
.note, figcaption { color: #555; font-size: .85rem; max-width: 48rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.example { border-left: 3px solid #ddd; padding-left: 1rem; margin: 1.5rem 0; }
.right { color: #0072b2; } .wrong { color: #b34700; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .8rem; }
</style>
"""


@dataclasses.dataclass(frozen=True)
class ReportFigure:
  """A picture of the report.

  Attributes:
    path: a PNG file.
    caption: what it shows.
  """

  path: str | os.PathLike[str]
  caption: str


@dataclasses.dataclass(frozen=True)
class ExamplePrediction:
  """What one arm made of one test example.

  Attributes:
    id: the example's; predictions of one example are shown together.
    arm: the arm.
    input: the example's input.
    target: the right label.
    prediction: the predicted label.
    is_correct: whether that counts as right; None: the target is no answer of
      the task.
    rationale: the predicted rationale, if one was asked for.
  """

  id: str
  arm: str
  input: str
  target: str
  prediction: str
  is_correct: bool | None
  rationale: str | None = None


def describe_environment() -> dict[str, str]:
  """Returns the machine and the versions of the packages that matter."""
  environment = {
    "machine": f"{platform.platform()}, {os.cpu_count()} CPU cores",
    "python": platform.python_version(),
  }
  for package in _PACKAGES:
    try:
      environment[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return environment


def format_table(
  rows: Sequence[results.RunResult],
  comparisons: Sequence[tuple[str, str]] | None = None,
  failures: Sequence[results.RunFailure] = (),
  num_planned: int = 0,
) -> str:
  """Returns the report's tables as plain text, verdicts included.

  Args:
    rows: one result a run.
    comparisons: pairs of arms to compare; None: every two.
    failures: runs that gave no result, listed at the end.
    num_planned: see `verdicts.compare_arms`.

  Returns:
    Aligned lines, with what they mean below each table.

  Raises:
    UserError: a run occurs twice, or a comparison is none.
  """
  parts = []
  for table in tables.make_tables(rows, comparisons, failures, num_planned):
    parts.append(_format_columns(table.columns, table.lines))
    parts += [textwrap.fill(note, 80) for note in table.notes]
  return "\n\n".join(parts)


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  rows: Sequence[results.RunResult],
  figures: Sequence[ReportFigure],
  settings: str,
  notes: Sequence[str],
  examples: Sequence[ExamplePrediction] = (),
  environment: Mapping[str, str] | None = None,
  comparisons: Sequence[tuple[str, str]] | None = None,
  failures: Sequence[results.RunFailure] = (),
  num_planned: int = 0,
) -> None:
  """Writes the report as one HTML file that needs no other.

  Args:
    path: the file; replaced as a whole or not at all.
    title: the page's heading.
    rows: one result a run.
    figures: pictures, embedded.
    settings: the gin configuration of the runs.
    notes: paragraphs below the heading.
    examples: predictions to show, in the order given; long texts are cut.
    environment: name -> value; None describes this process.
    comparisons: pairs of arms to compare; None: every two.
    failures: runs that gave no result, listed below the other tables.
    num_planned: see `verdicts.compare_arms`.

  Raises:
    UserError: a run occurs twice, or a comparison is none.
  """
  if environment is None:
    environment = describe_environment()
  sections = [
    f"<h1>{html.escape(title)}</h1>",
    *(f"<p>{html.escape(note)}</p>" for note in notes),
    *map(
      _make_table_section,
      tables.make_tables(rows, comparisons, failures, num_planned),
    ),
    *map(_make_figure, figures),
    *_make_example_section(examples),
    "<h2>Settings and environment</h2>",
    "<details><summary>gin configuration</summary>"
    f"<pre>{html.escape(settings)}</pre></details>",
    _make_html_table(("What", "Value"), list(environment.items())),
  ]
  title_element = f"<title>{html.escape(title)}</title>\n</head>\n<body>\n"
  page = _HEAD + title_element + "\n".join(sections) + "\n</body>\n</html>\n"
  # JSON can carry half of a surrogate pair, which UTF-8 cannot.
  atomic.write_bytes(path, page.encode(errors="backslashreplace"))


def _format_columns(
  header: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
  widths = [
    max(map(len, column)) for column in zip(header, *lines, strict=True)
  ]
  rule = ["-" * width for width in widths]
  return "\n".join(
    "  ".join(
      cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip()
    for line in (header, rule, *lines)
  )


def _escape_shown(text: str) -> str:
  """Escapes a model's text, cut to what a reader will look at."""
  if len(text) > _SHOWN_CHARACTERS:
    num_left_out = len(text) - _SHOWN_CHARACTERS
    text = f"{text[:_SHOWN_CHARACTERS]} [{num_left_out:,} characters more]"
  return html.escape(text)


def _make_html_table(
  header: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
  body = "\n".join(
    "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
    for line in lines
  )
  return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _make_table_section(table: tables.Table) -> str:
  return "\n".join(
    [
      f"<h2>{html.escape(table.title)}</h2>",
      '<div class="wide">',
      _make_html_table(table.columns, table.lines),
      "</div>",
      *(f'<p class="note">{html.escape(note)}</p>' for note in table.notes),
    ]
  )


def _make_figure(figure: ReportFigure) -> str:
  png = base64.b64encode(pathlib.Path(figure.path).read_bytes()).decode()
  caption = html.escape(figure.caption)
  return (
    f'<figure><img alt="{caption}" src="data:image/png;base64,{png}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _make_example_section(examples: Sequence[ExamplePrediction]) -> list[str]:
  if not examples:
    return []
  by_id: dict[str, list[ExamplePrediction]] = {}
  for example in examples:
    by_id.setdefault(example.id, []).append(example)
  return ["<h2>Example predictions</h2>", *map(_make_example, by_id.values())]


def _make_example(predictions: Sequence[ExamplePrediction]) -> str:
  has_rationales = any(each.rationale is not None for each in predictions)
  lines = []
  for each in predictions:
    verdict = '<td class="wrong">✗ wrong</td>'
    if each.is_correct:
      verdict = '<td class="right">✓ correct</td>'
    elif each.is_correct is None:
      verdict = "<td>not scored</td>"
    rationale = ""
    if has_rationales:
      rationale = f'<td class="text">{_escape_shown(each.rationale or "")}</td>'
    lines.append(
      f"<tr><td>{html.escape(each.arm)}</td>"
      f'<td class="text">{_escape_shown(each.prediction)}</td>'
      f"{verdict}{rationale}</tr>\n"
    )
  example = predictions[0]
  return (
    '<div class="example">\n'
    f'<p class="text">{_escape_shown(example.input)}</p>\n'
    f'<p>Target: <b class="text">{_escape_shown(example.target)}</b></p>\n'
    "<table>\n<tr><th>Arm</th><th>Prediction</th><th>Verdict</th>"
    f"{'<th>Rationale</th>' if has_rationales else ''}</tr>\n"
    f"{''.join(lines)}</table>\n</div>"
  )
