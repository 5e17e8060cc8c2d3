"""Tests of scripts/simulate_verdicts.py."""

import numpy as np
import pytest
from script_import import import_script

simulation = import_script("simulate_verdicts")


@pytest.mark.parametrize("difference", [0.0, 0.1])
@pytest.mark.parametrize("seed_sd, arm_sd", [(0.0, 0.0), (0.03, 1.0)])
def test_worlds_are_as_told(difference, seed_sd, arm_sd):
  worlds = list(
    simulation.draw_worlds(
      np.random.default_rng(1), 100, (3, 2), 2000, seed_sd, difference, arm_sd
    )
  )
  assert {(a.shape, b.shape) for a, b in worlds} == {((3, 2000), (2, 2000))}
  accuracies_a = np.array([a.mean(1) for a, _ in worlds])
  accuracies_b = np.array([b.mean(1) for _, b in worlds])
  assert accuracies_b.mean() == pytest.approx(0.5, abs=0.01)
  assert accuracies_a.mean() - accuracies_b.mean() == pytest.approx(
    difference, abs=0.01
  )
  # Between the seeds of a world, apart from the chance of single answers.
  answers = np.mean([a.mean(0).var() for a, _ in worlds])
  variance = np.mean(accuracies_a.var(axis=1, ddof=1))
  chance = (0.25 - answers) * 1.5 / 2000
  assert np.sqrt(max(variance - chance, 0)) == pytest.approx(seed_sd, abs=0.006)


def test_tables_are_printed(capsys):
  simulation.main(["--repetitions=2", "--num_examples=50"])
  printed = capsys.readouterr().out
  assert printed.count("| seeds |") == 3
  assert "| 1 and 5 | 3.0 | 0.0 | 0.0 |" in printed


def test_no_repetitions_are_refused(capsys):
  with pytest.raises(SystemExit):
    simulation.main(["--repetitions=0"])
  assert "at least 1" in capsys.readouterr().err
