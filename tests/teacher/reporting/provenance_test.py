"""Answers of a server that is not asked now."""

import logging

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import ledger
from distill_jax.teacher.reporting import provenance

_NOW, _OTHER = "http://now:8000/v1", "http://other:8000/v1"


def make_origins(*found):
  origins = provenance.Origins()
  for answered_by in found:
    origins.add(_NOW, answered_by)
  return origins


def test_the_same_address(caplog):
  provenance.check(make_origins(_NOW, _NOW), None)
  origins = make_origins()
  origins.add(None, _OTHER)
  provenance.check(origins, None)
  assert caplog.text == ""


def test_another_address_is_refused_with_counts():
  with pytest.raises(UserError) as caught:
    provenance.check(make_origins(_NOW, _OTHER, _OTHER), None)
  assert f"2 came from {_OTHER}, and the settings say {_NOW}" in str(
    caught.value
  )
  assert "ACCEPT_ADDRESSES" in str(caught.value)


@pytest.mark.parametrize(
  "accepted", ["any", [_OTHER], ["HTTP://other:8000/v1/"], (_NOW, _OTHER)]
)
def test_another_address_that_is_accepted_is_named(caplog, accepted):
  with caplog.at_level(logging.WARNING):
    provenance.check(make_origins(_OTHER, _OTHER), accepted)
  assert f"2 came from {_OTHER}" in caplog.text


def test_an_address_that_is_not_written_down(caplog):
  with caplog.at_level(logging.WARNING):
    provenance.check(make_origins(None, None, None), None)
  assert "3 answers are of a journal that does not say" in caplog.text


def test_origins_of_whole_journals():
  one = ledger.Ledger()
  for number, (model, address) in enumerate(
    [("m", _NOW), ("m", _OTHER), ("elsewhere", _OTHER)]
  ):
    key = f"{number:064x}"
    fields = {"key": key, "model": model, "address": address}
    one.note({"event": "request", **fields})
    one.note({"event": "response", **fields})
  origins = provenance.count_origins([one], {"m": _NOW})
  assert origins.count_elsewhere() == {(_NOW, _OTHER): 1}
  assert origins.count_unknown() == 0


@pytest.mark.parametrize("accepted", ["http://a", [5], 5, True])
def test_settings_that_cannot_be(accepted):
  with pytest.raises(UserError, match="^ACCEPT_ADDRESSES is"):
    provenance.check_accepted(accepted)
