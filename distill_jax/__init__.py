"""distill_jax: Distilling Step-by-Step in JAX.

What is public is below; each name is imported when it is first used.

Example:
  >>> import distill_jax as dj
  >>> student = dj.load_student("runs/svamp")
  >>> len(student.predict(["Luke scored 84 points ..."]))
  1
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
  from distill_jax.data.records import Record as Record
  from distill_jax.decoding.strategy import DecodingConfig as DecodingConfig
  from distill_jax.errors import UserError as UserError
  from distill_jax.model import presets as presets
  from distill_jax.runs.from_python import Run as Run
  from distill_jax.runs.from_python import evaluate as evaluate
  from distill_jax.runs.from_python import train as train
  from distill_jax.student.opening import load_student as load_student
  from distill_jax.student.predictions import Prediction as Prediction
  from distill_jax.student.predictions import Score as Score
  from distill_jax.student.student import Student as Student

# Public name -> the module that has it.
_MODULES = {
  "DecodingConfig": "decoding.strategy",
  "Prediction": "student.predictions",
  "Record": "data.records",
  "Run": "runs.from_python",
  "Score": "student.predictions",
  "Student": "student.student",
  "UserError": "errors",
  "evaluate": "runs.from_python",
  "load_student": "student.opening",
  "presets": "model.presets",
  "train": "runs.from_python",
}
# The type checker reads the imports above.
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
  # A name is a module's own, or that of something in it.
  value = getattr(module, name, module)
  globals()[name] = value  # Found without this function from now on.
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
