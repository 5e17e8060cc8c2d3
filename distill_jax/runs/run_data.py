"""The token cache a run was trained on: opened, or made again if it is gone.

What is made again must be what the run recorded, or it is refused.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from distill_jax.data import token_cache, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.run_folder import run_record
from distill_jax.runs import prepare

_log = logging.getLogger(__name__)

# Another version may well write the same bytes, which are compared.
_VERSION = "distill_jax"


def open_cache(
  record: run_record.RunRecord,
  vocabulary: vocab.Vocabulary,
  given: DataSettings,
  task_module: str = prepare.DEFAULT_TASK_MODULE,
  cache_dir: str | None = None,
) -> token_cache.TokenCache:
  """Opens the token cache of a run; makes it again where its folder is gone.

  Args:
    record: of the run.
    vocabulary: of the run.
    given: says where files lie now (`data_dir`), and how an older run, which
      did not record it, shaped its examples.
    task_module: where it is not the one recorded.
    cache_dir: where to make it; None: where it was, if that folder is there,
      else under the user's cache folder.

  Raises:
    UserError: the cache is damaged; or it is gone and cannot be made again as
      it was.
  """
  path = pathlib.Path(record.token_cache_path)
  if path.exists():
    return token_cache.TokenCache(path)
  name = record.identity["task"]
  _log.warning(
    "The token cache of the run, %s, is gone; it is made again from what the"
    " run recorded.",
    path,
  )
  recorded = record.data or {}
  settings = given
  if recorded:
    settings = DataSettings(**recorded["settings"])
    settings = dataclasses.replace(
      settings, data_dir=given.data_dir or settings.data_dir
    )
    if task_module == prepare.DEFAULT_TASK_MODULE:
      task_module = recorded["task_module"]
  settings = dataclasses.replace(
    settings, vocab_path=vocabulary.path or vocab.BYTES
  )
  if cache_dir is None and path.parent.is_dir():
    cache_dir = str(path.parent)
  identity = prepare.identify(
    name, tuple(record.identity["tasks"]), settings, task_module
  )
  _check_identity(record, path, identity)
  cache = prepare.find_or_prepare(name, settings, task_module, cache_dir)
  if recorded and cache.file_hashes != recorded["files"]:
    _log.info("What was made instead is %s", cache.path)
    raise UserError(
      f"The token cache {path} of the run is gone, and what the same settings"
      f" make of {name} today, {cache.path}, holds other examples. Copy the"
      " former one back, or add MIXTURE_OR_TASK_NAME to evaluate on these."
    )
  return cache


def _check_identity(
  record: run_record.RunRecord,
  path: pathlib.Path,
  identity: Mapping[str, Any],
) -> None:
  """Refuses, before the work, to make something else than the run had."""
  if record.data is None:
    if token_cache.fingerprint(identity) == record.identity["token_cache"]:
      return
    raise UserError(
      f"The token cache {path} of the run is gone. The run is of an older"
      " version, which did not record how it was made, and these settings make"
      " another one. Give those of the run's config.gin (DATA_DIR, SUBSAMPLE,"
      " MIXTURE_OR_TASK_MODULE, ...), copy the cache back, or add"
      " MIXTURE_OR_TASK_NAME."
    )
  before = dict(record.data["identity"])
  if identity["sources"] is None and before["sources"] is not None:
    raise UserError(
      f"The token cache {path} of the run is gone, and the files it was made"
      " from are not here. Add DATA_DIR, or copy the cache back."
    )
  # What was not known when the cache was made, the bytes must show.
  unknown = {
    key: None for key in ("sources", "data_sets") if before.get(key) is None
  }
  ignored = {_VERSION: None, **unknown}
  differences = token_cache.describe_differences(
    before | ignored, {**identity, **ignored}
  )
  if differences:
    raise UserError(
      f"The token cache {path} of the run is gone, and would not be the same if"
      f" it were made again: {'; '.join(differences)}. Copy the former one"
      " back, or add MIXTURE_OR_TASK_NAME to evaluate on what there is now."
    )
