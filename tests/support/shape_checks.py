"""Checks annotations while tests run: shapes, dtypes and types.

pyproject.toml names it to jaxtyping's import hook, with the packages that are
checked.
"""

import beartype

# As PEP 484 and pyright have it, an int will do where a float is asked for.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
