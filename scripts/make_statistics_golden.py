"""Writes tests/testdata/statistics_golden.json with statsmodels as the oracle.

statsmodels is none of the project's packages; make an environment apart, and
run from the repository root:

  python3 -m venv /tmp/oracle
  /tmp/oracle/bin/pip install statsmodels
  PYTHONPATH=. /tmp/oracle/bin/python scripts/make_statistics_golden.py

Prints the largest deviation of each of our numbers from the oracle's. The file
holds cases with the oracle's numbers; `made_by` names the versions.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax.experiments import statistics

OUTPUT = pathlib.Path("tests/testdata/statistics_golden.json")
PAIRED_COUNTS = (
  (0, 0, 5), (1, 0, 5), (5, 0, 200), (0, 6, 200), (30, 15, 200), (15, 30, 100),
  (7, 7, 50), (150, 86, 1600), (300, 260, 1000), (12, 4, 1000),
)  # fmt: skip
FAMILIES = (
  (0.01,),
  (0.04, 0.01, 0.03),
  (0.5, 0.5, 0.001),
  (0.0, 0.02, 0.02, 0.9, 1.0),
)
ARMS = (
  ((0.332, 0.301, 0.35, 0.342, 0.318), (0.463, 0.44, 0.481, 0.452, 0.47)),
  ((0.5, 0.52), (0.55, 0.49)),
  ((0.6, 0.64, 0.58), (0.7, 0.61, 0.66, 0.72, 0.69)),
)
NUM_SEEDS = (2, 3, 5, 10, 20)

Case = dict[str, Any]


def ask_mcnemar() -> list[Case]:
  """Returns mid-p values and intervals of paired counts."""
  from statsmodels.stats import contingency_tables, weightstats

  cases = []
  for only_a, only_b, total in PAIRED_COUNTS:
    table = [[0, only_a], [only_b, total - only_a - only_b]]
    exact = contingency_tables.mcnemar(table, exact=True).pvalue
    fewer, discordant = min(only_a, only_b), only_a + only_b
    # The oracle has the exact p, which counts the observed table whole. Two
    # equal counts are the middle: the exact p counts it once, and is 1.
    whole = math.comb(discordant, fewer) / 2**discordant
    mid_p = 1.0 if only_a == only_b else exact - whole
    added = weightstats.DescrStatsW(
      [1.0, -1.0, 0.0],
      weights=[only_a + 0.5, only_b + 0.5, total - discordant + 1],
    )
    standard_error = added.std / math.sqrt(added.sum_weights)
    margin = 1.959963984540054 * standard_error
    cases.append({
      "counts": [only_a, only_b, total],
      "mid_p": mid_p,
      "low": max(added.mean - margin, -1),
      "high": min(added.mean + margin, 1),
      "standard_error": standard_error,
    })  # fmt: skip
  return cases


def ask_holm() -> list[Case]:
  """Returns Holm's adjusted p-values of some families."""
  from statsmodels.stats import multitest

  return [
    {
      "p_values": list(family),
      "adjusted": multitest.multipletests(family, method="holm")[1].tolist(),
    }
    for family in FAMILIES
  ]


def ask_welch() -> list[Case]:
  """Returns Welch's t tests, and the pooled one where an arm has one run."""
  from statsmodels.stats import weightstats

  cases = []
  for arm_a, arm_b in (*ARMS, (ARMS[0][0], ARMS[0][1][:1])):
    means = weightstats.CompareMeans(
      weightstats.DescrStatsW(arm_a), weightstats.DescrStatsW(arm_b)
    )
    usevar = "unequal" if min(len(arm_a), len(arm_b)) > 1 else "pooled"
    _, p_value, degrees = means.ttest_ind(usevar=usevar)
    low, high = means.tconfint_diff(usevar=usevar)
    cases.append({
      "accuracies": [list(arm_a), list(arm_b)],
      "p_value": p_value,
      "degrees_of_freedom": degrees,
      "low": low,
      "high": high,
    })  # fmt: skip
  return cases


def ask_power() -> list[Case]:
  """Returns which difference a t test shows in 80% of cases, in SDs."""
  from statsmodels.stats import power

  return [
    {
      "num_seeds": count,
      "effect": float(
        power.TTestIndPower().solve_power(
          nobs1=count, alpha=statistics.LEVEL, power=statistics.POWER
        )
      ),
    }
    for count in NUM_SEEDS
  ]


def answer(name: str, case: Mapping[str, Any]) -> dict[str, Any]:
  """Returns our numbers of one case, by the names of the oracle's.

  Args:
    name: "mcnemar", "holm", "welch" or "power".
    case: an entry of the file.
  """
  if name == "mcnemar":
    only_a, only_b, total = case["counts"]
    low, high, standard_error = statistics.agresti_min_interval(
      only_a, only_b, total
    )
    return {
      "mid_p": statistics.mcnemar_mid_p(only_a, only_b),
      "low": low,
      "high": high,
      "standard_error": standard_error,
    }
  if name == "holm":
    return {"adjusted": statistics.adjust_holm(case["p_values"])}
  if name == "welch":
    estimate = statistics.compare_means(*map(np.array, case["accuracies"]))
    return {
      key: getattr(estimate, key)
      for key in ("p_value", "degrees_of_freedom", "low", "high")
    }
  count = case["num_seeds"]
  # The pooled variance of two arms: one term.
  term = statistics.VarianceTerm(2 / count, 2 * count - 2)
  return {"effect": statistics.detectable_difference([term])}


def measure_deviations(golden: Mapping[str, Any]) -> dict[str, float]:
  """Returns how far our numbers are from the oracle's.

  Args:
    golden: what the file holds.

  Returns:
    "mcnemar mid_p" and so on -> the largest absolute deviation.
  """
  deviations: dict[str, float] = {}
  for name, cases in golden.items():
    if name == "made_by":
      continue
    for case in cases:
      for key, ours in answer(name, case).items():
        found = np.max(np.abs(np.subtract(ours, case[key])))
        label = f"{name} {key}"
        deviations[label] = max(deviations.get(label, 0.0), float(found))
  return deviations


def main(output: pathlib.Path = OUTPUT) -> None:
  """Writes the file and prints the deviations."""
  from importlib import metadata

  versions: Sequence[str] = [
    f"{package} {metadata.version(package)}"
    for package in ("statsmodels", "scipy", "numpy")
  ]
  golden = {
    "made_by": "scripts/make_statistics_golden.py: " + ", ".join(versions),
    "mcnemar": ask_mcnemar(),
    "holm": ask_holm(),
    "welch": ask_welch(),
    "power": ask_power(),
  }
  output.parent.mkdir(parents=True, exist_ok=True)
  output.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
  print(golden["made_by"])
  for label, deviation in measure_deviations(golden).items():
    print(f"{label:28} {deviation:.1e}")


if __name__ == "__main__":
  main()
