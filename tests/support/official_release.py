"""The authors' released data sets, for tests that compare with real ones.

They are no part of the repository; where they are not at hand, such tests skip.
"""

import pathlib

import pytest

FOLDER = (
  pathlib.Path(__file__).parents[2].parent
  / "shared/data/distilling_step_by_step"
)
# Of a test or, as `pytestmark`, of a class.
NEEDED = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the official release is not at hand"
  ),
]
