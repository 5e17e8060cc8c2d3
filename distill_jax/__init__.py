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
  from distill_jax.decoding.strategy import DecodingConfig as DecodingConfig
  from distill_jax.errors import UserError as UserError
  from distill_jax.student.student import Prediction as Prediction
  from distill_jax.student.student import Score as Score
  from distill_jax.student.student import Student as Student
  from distill_jax.student.student import load_student as load_student

# Public name -> the module that has it.
_MODULES = {
  "DecodingConfig": "decoding.strategy",
  "Prediction": "student.student",
  "Score": "student.student",
  "Student": "student.student",
  "UserError": "errors",
  "load_student": "student.student",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
  value = getattr(module, name)
  globals()[name] = value  # Found without this function from now on.
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
