"""Measures how often the verdicts of a report are right, by simulation.

  python scripts/simulate_verdicts.py --repetitions=2000

Prints two tables: how often equal arms are called different (the level, 5% is
promised), and how often arms that differ are told apart (the power).

A world has n test examples. Example i is answered by a run of an arm with
probability 1 / (1 + exp(-(x_i + y_ai + e_r + shift_a))), independently of the
other runs:

* x_i, normal with SD 1.5: how easy the example is, the same for both arms;
* y_ai, normal: how easy it is for arm a besides. Arms that find different
  examples hard are equal on average over all examples and still differ on any
  one test set; SD 0 unless a row says so;
* e_r, normal: the run's seed. Its SD is chosen so that the accuracy has the SD
  in the table, the chance of single answers not counted;
* shift_a: the difference in the arms' quality.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.optimize

from distill_jax.experiments import statistics

EASE_SD = 1.5
# Points of the Gauss-Hermite rule over all that varies in one answer.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)


def measure_accuracy(shift: float, spread: float) -> float:
  """Returns the mean accuracy over all examples and seeds.

  Args:
    shift: the arm's quality.
    spread: SD of everything else in an answer's log-odds.
  """
  odds = shift + spread * _NODES
  return float(_WEIGHTS @ (1 / (1 + np.exp(-odds))) / _WEIGHTS.sum())


def draw_worlds(
  rng: np.random.Generator,
  num_worlds: int,
  num_seeds: tuple[int, int],
  num_examples: int,
  seed_sd: float,
  difference: float = 0.0,
  arm_sd: float = 0.0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Draws the answers of two arms, world after world.

  Args:
    rng: the source of chance.
    num_worlds: how many.
    num_seeds: runs of either arm.
    num_examples: test examples, the same for all runs of a world.
    seed_sd: SD of a run's accuracy over seeds, as a share.
    difference: true accuracy of the first arm minus that of the second, which
      is 50%.
    arm_sd: SD of an example's ease for one arm only.

  Yields:
    What each run of either arm answered right, two of [runs, examples].
  """
  spread = np.hypot(EASE_SD, arm_sd)
  # How far a small step of the log-odds moves the accuracy.
  slope = (measure_accuracy(0.01, spread) - 0.5) / 0.01
  run_sd = seed_sd / slope
  spread = np.hypot(spread, run_sd)
  shift = 0.0
  if difference:
    shift = scipy.optimize.brentq(
      lambda shift: measure_accuracy(shift, spread) - 0.5 - difference, -9, 9
    )
  for _ in range(num_worlds):
    ease = rng.normal(0, EASE_SD, num_examples)
    arms = []
    for count, quality in zip(num_seeds, (shift, 0.0), strict=True):
      odds = (
        quality
        + ease
        + rng.normal(0, arm_sd, num_examples)
        + rng.normal(0, run_sd, (count, 1))
      )
      arms.append(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)))
    yield arms[0], arms[1]


def is_shown(correct_a: np.ndarray, correct_b: np.ndarray) -> bool:
  """Says whether the report's verdict is that the arms differ."""
  estimate = statistics.compare_paired(correct_a, correct_b)
  return estimate.p_value < statistics.LEVEL


def is_shown_by_welch(correct_a: np.ndarray, correct_b: np.ndarray) -> bool:
  """The same by Welch's t over the accuracies of the runs."""
  accuracies_a, accuracies_b = correct_a.mean(1), correct_b.mean(1)
  if np.ptp(accuracies_a) == np.ptp(accuracies_b) == 0:
    # By chance all runs of either arm agree: t is infinite.
    return accuracies_a[0] != accuracies_b[0]
  estimate = statistics.compare_means(accuracies_a, accuracies_b)
  return estimate.p_value < statistics.LEVEL


def is_shown_by_counts(correct_a: np.ndarray, correct_b: np.ndarray) -> bool:
  """The same where only counts were kept."""
  estimate = statistics.compare_unpaired(
    *(
      [(int(run.sum()), len(run)) for run in correct]
      for correct in (correct_a, correct_b)
    )
  )
  return estimate.p_value < statistics.LEVEL


def is_shown_by_examples(correct_a: np.ndarray, correct_b: np.ndarray) -> bool:
  """The same by test examples alone, as if seeds did not matter."""
  differences = correct_a.mean(0) - correct_b.mean(0)
  term = statistics.make_example_term(differences, (-1, 1))
  return abs(differences.mean()) > 1.96 * term.variance**0.5


RULES: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
  "verdict": is_shown,
  "Welch": is_shown_by_welch,
  "counts only": is_shown_by_counts,
  "examples only": is_shown_by_examples,
}


def measure_rates(
  seed: int, num_worlds: int, num_seeds: tuple[int, int], **world
) -> dict[str, float]:
  """Returns how often each rule calls two arms different.

  Args:
    seed: of the source of chance.
    num_worlds: worlds to draw.
    num_seeds: runs of either arm.
    **world: the rest of `draw_worlds`.

  Returns:
    Name of the rule -> share of the worlds. Welch's t is left out where an arm
    has one run.
  """
  rules = dict(RULES)
  if min(num_seeds) == 1:
    del rules["Welch"]
  counts = dict.fromkeys(rules, 0)
  rng = np.random.default_rng(seed)
  for correct_a, correct_b in draw_worlds(rng, num_worlds, num_seeds, **world):
    for name, rule in rules.items():
      counts[name] += rule(correct_a, correct_b)
  return {name: count / num_worlds for name, count in counts.items()}


def print_table(
  title: str, num_worlds: int, rows: Sequence[tuple[tuple[int, int], dict]]
) -> None:
  """Measures and prints one Markdown table.

  Args:
    title: the line above it.
    num_worlds: worlds a row.
    rows: runs of either arm and the rest of `draw_worlds`, one a row.
  """
  print(f"{title}\n")
  names = ["seeds", "seed SD", "arms' own SD", "true difference", *RULES]
  print("| " + " | ".join(names) + " |")
  print("|---" * len(names) + "|", flush=True)
  for index, (num_seeds, world) in enumerate(rows):
    rates = measure_rates(index, num_worlds, num_seeds, **world)
    cells = [
      " and ".join(map(str, num_seeds)),
      f"{100 * world['seed_sd']:.1f}",
      f"{world.get('arm_sd', 0.0):.1f}",
      f"{100 * world.get('difference', 0.0):.1f}",
      *(f"{rates[name]:.3f}" if name in rates else "" for name in RULES),
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
  print()


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints the tables of level and power.

  Args:
    arguments: the command line's; None: this process'.
  """
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--repetitions", type=int, default=2000)
  parser.add_argument("--num_examples", type=int, default=1000)
  options = parser.parse_args(arguments)
  if options.repetitions < 1 or options.num_examples < 1:
    parser.error("--repetitions and --num_examples must be at least 1")
  count, examples = options.repetitions, options.num_examples
  print(
    f"{count:,} worlds a row of {examples:,} test examples; seed SD and true"
    " difference in points.\n"
  )
  even = [(2, 2), (3, 3), (5, 5)]
  uneven = [(1, 3), (1, 5), (2, 5), (3, 5)]
  level = [
    (seeds, {"seed_sd": sd, "num_examples": examples})
    for sd in (0.0, 0.015, 0.03)
    for seeds in [(1, 1), *even, *uneven]
  ] + [
    (seeds, {"seed_sd": sd, "num_examples": examples, "arm_sd": 1.0})
    for sd in (0.0, 0.03)
    for seeds in even
  ]
  print_table("Equal arms called different, by rule:", count, level)
  power = [
    (
      seeds,
      {"seed_sd": sd, "num_examples": examples, "difference": difference},
    )
    for difference in (0.05, 0.1)
    for sd in (0.0, 0.015, 0.022, 0.03)
    for seeds in even
  ]
  print_table("Unequal arms told apart, by rule:", count, power)
  planned = []
  for sd in (0.015, 0.03):
    for seeds in even:
      # Of a run's accuracy on one test set, as users know it: with the chance
      # of single answers, p (1 - p) of which is 0.17 on average here.
      measured_sd = float(np.hypot(sd, (0.17 / examples) ** 0.5))
      difference = statistics.planned_difference(
        measured_sd, seeds[0], examples
      )
      if difference < 0.45:
        world = {"seed_sd": sd, "num_examples": examples}
        planned.append((seeds, world | {"difference": difference}))
  print_table(
    "The planned detectable difference, 80% promised:", count, planned
  )


if __name__ == "__main__":
  main()
