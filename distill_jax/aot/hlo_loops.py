"""How often the loops of a compiled program run, read from its text.

Compilers for TPUs do not note it, and the step is not always one: a loop that
passes parts of an array around a ring of devices is unrolled by two.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_CALLEE = re.compile(
  r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_WHILE = re.compile(
  r" while\(.*?%?([\w.\-]+)\), condition=%?([\w.\-]+), body=%?([\w.\-]+)"
)
_KNOWN_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Of types, only tuples' have a parenthesis after a space, and no name before.
_INSTRUCTION = re.compile(
  r"\s*(ROOT )?%?([\w.\-]+) = .*? ([a-z][a-z\d\-]*)\(([^()]*)\)(.*)"
)
_NAME = re.compile(r"%?([\w.\-]+)(?:,|$)")
_INDEX = re.compile(r"\bindex=(\d+)")
_DIRECTION = re.compile(r"\bdirection=(\w+)")
# What hands its one operand on.
_COPIES = ("copy", "copy-start", "copy-done", "bitcast", "convert")
# Compared the other way around.
_MIRRORED = {"GT": "LT", "GE": "LE"}

# Stands for the name of what a computation returns.
_ROOT = ""


class Loop(NamedTuple):
  """Names of the tuple that a loop starts from and of its two computations."""

  given: str
  condition: str
  body: str


class _Value(NamedTuple):
  """An integer: an element of the loop's tuple, or of none, plus a constant."""

  element: int | None
  plus: int


# Of a called computation; None: of a loop's own, whose one parameter is the
# tuple.
_Arguments = list[_Value | None] | None


class _Instruction(NamedTuple):
  """A line, without its type."""

  opcode: str
  operands: list[str]
  argument: str
  attributes: str


def split_computations(hlo_text: str) -> tuple[str, dict[str, list[str]]]:
  """Cuts a program into its computations.

  Args:
    hlo_text: optimized HLO.

  Returns:
    The name of the one the program starts with, and the lines of each.
  """
  entry, computations = "", {}
  lines: list[str] = []
  for line in hlo_text.splitlines():
    if line.startswith(" "):
      lines.append(line)
    elif match := _COMPUTATION.match(line):
      lines = computations[match[2]] = []
      if match[1]:
        entry = match[2]
  return entry, computations


def find_callees(line: str) -> list[str]:
  """Returns the computations that a line calls, loops' not among them.

  Args:
    line: of a computation.
  """
  callees = _CALLEE.findall(line)
  if match := _BRANCHES.search(line):
    callees += [name.strip().lstrip("%") for name in match[1].split(",")]
  return callees


def find_loop(line: str) -> Loop | None:
  """Returns the loop that a line runs.

  Args:
    line: of a computation.
  """
  match = _WHILE.search(line)
  return Loop(*match.groups()) if match else None


class TripCounter:
  """Counts how often the loops of a program run."""

  def __init__(self, computations: Mapping[str, Sequence[str]]):
    """Makes a counter.

    Args:
      computations: of `split_computations`.
    """
    self._computations = computations
    self._indexed: dict[str, dict[str, _Instruction]] = {}

  def count(self, line: str, computation: str) -> int | None:
    """Counts the runs of a loop's body.

    As the compiler notes beside it. Else the condition is looked up for a
    comparison of an element of the loop's tuple with a constant, and the body
    for the constant that it adds to this element. A loop that may end earlier,
    by another condition beside, counts in full.

    Args:
      line: of the loop.
      computation: that the line is one of. Where it does not tell what the
        element is at first, it is 0, as in loops of JAX.

    Returns:
      The number, or None where the text does not tell.
    """
    if match := _KNOWN_TRIP_COUNT.search(line):
      return int(match[1])
    loop = find_loop(line)
    if loop is None:
      return None

    def find_first(element: int) -> int | None:
      tuple_ = self._get(computation).get(loop.given)
      if tuple_ is None or tuple_.opcode != "tuple":
        return None
      value = self._follow(tuple_.operands[element], computation, None)
      return value.plus if value and value.element is None else None

    for counter, limit, is_included in self._find_limits(loop.condition):
      step = self._find_step(loop.body, counter)
      last: int | None = 0
      if limit.element is not None:  # One that the loop carries along.
        is_fixed = self._find_step(loop.body, limit.element) == 0
        last = find_first(limit.element) if is_fixed else None
      if step is not None and step > 0 and last is not None:
        distance = last + limit.plus + is_included - (find_first(counter) or 0)
        return max(0, -(-distance // step))
    return None

  def _find_limits(self, condition: str) -> list[tuple[int, _Value, bool]]:
    """Returns elements that are to stay below a limit, or to reach it too."""
    found = []

    def look(name: str, computation: str, arguments: _Arguments):
      instruction = self._get(computation).get(name)
      if instruction is None:
        return
      if instruction.opcode == "compare":
        left, right = (
          self._follow(operand, computation, arguments)
          for operand in instruction.operands
        )
        match = _DIRECTION.search(instruction.attributes)
        direction = match[1] if match else ""
        if direction in _MIRRORED:
          left, right, direction = right, left, _MIRRORED[direction]
        if (
          direction in ("LT", "LE")
          and left is not None
          and right is not None
          and left.element is not None
        ):
          limit = _Value(right.element, right.plus - left.plus)
          found.append((left.element, limit, direction == "LE"))
      elif callees := find_callees(instruction.attributes):
        inner = [
          self._follow(operand, computation, arguments)
          for operand in instruction.operands
        ]
        look(_ROOT, callees[0], inner)
      elif instruction.opcode in ("and", *_COPIES):
        for operand in instruction.operands:
          look(operand, computation, arguments)

    look(_ROOT, condition, None)
    return found

  def _find_step(self, body: str, element: int) -> int | None:
    """Returns what a run of a loop's body adds to an element."""
    root = self._get(body).get(_ROOT)
    if root is None or root.opcode != "tuple":
      return None
    value = self._follow(root.operands[element], body, None)
    return value.plus if value and value.element == element else None

  def _get(self, computation: str) -> dict[str, _Instruction]:
    if computation not in self._indexed:
      lines = self._computations.get(computation, ())
      self._indexed[computation] = _index(lines)
    return self._indexed[computation]

  def _follow(
    self, name: str, computation: str, arguments: _Arguments
  ) -> _Value | None:
    """Returns a value; there are no arguments in a loop's own computations."""
    instruction = self._get(computation).get(name)
    if instruction is None:
      return None

    def follow(operand: str) -> _Value | None:
      return self._follow(operand, computation, arguments)

    opcode, operands, argument, attributes = instruction
    if opcode == "constant":
      number = _to_integer(argument)
      return None if number is None else _Value(None, number)
    if opcode == "parameter":
      return None if arguments is None else arguments[int(argument)]
    if opcode == "get-tuple-element":
      return self._follow_element(instruction, computation, arguments)
    if opcode in _COPIES:
      return follow(operands[0])
    if opcode == "add":
      left, right = map(follow, operands)
      if left is None or right is None:
        return None
      if left.element is not None and right.element is not None:
        return None
      element = right.element if left.element is None else left.element
      return _Value(element, left.plus + right.plus)
    if callees := find_callees(attributes):
      return self._follow(_ROOT, callees[0], list(map(follow, operands)))
    return None

  def _follow_element(
    self,
    instruction: _Instruction,
    computation: str,
    arguments: _Arguments,
  ) -> _Value | None:
    match = _INDEX.search(instruction.attributes)
    source = self._get(computation).get(instruction.operands[0])
    if match is None or source is None:
      return None
    index = int(match[1])
    if source.opcode == "parameter" and arguments is None:
      return _Value(index, 0)  # Of the loop's tuple.
    if source.opcode == "tuple":
      return self._follow(source.operands[index], computation, arguments)
    callees = find_callees(source.attributes)
    root = self._get(callees[0]).get(_ROOT) if callees else None
    if root is None or root.opcode != "tuple":
      return None
    inner = [
      self._follow(operand, computation, arguments)
      for operand in source.operands
    ]
    return self._follow(root.operands[index], callees[0], inner)


def _index(lines: Sequence[str]) -> dict[str, _Instruction]:
  """Returns instructions by name, and what the computation returns."""
  found = {}
  for line in lines:
    if match := _INSTRUCTION.match(line):
      is_root, name, opcode, argument, attributes = match.groups()
      operands = [
        _NAME.findall(part)[-1]
        for part in re.sub(r"/\*.*?\*/", "", argument).split(", ")
        if _NAME.search(part)
      ]
      found[name] = _Instruction(opcode, operands, argument, attributes)
      if is_root:
        found[_ROOT] = found[name]
  return found


def _to_integer(argument: str) -> int | None:
  return int(argument) if re.fullmatch(r"-?\d+", argument) else None
