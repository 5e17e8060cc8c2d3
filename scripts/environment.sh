# Makes .venv with the locked dependencies; sourced by quickstart.sh and test.sh.
#
#   set_up_environment "[test]"    installs distill_jax and the extra, once
#
# PYTHON names the interpreter that makes .venv (default python3, 3.11 or later).

set_up_environment() {
  local extra=$1 python=${PYTHON:-python3} stamp
  stamp=.venv/installed-$(
    { echo "$extra"; cat setup.py scripts/constraints.txt; } | cksum | tr ' ' -
  )
  if [ ! -e "$stamp" ]; then
    "$python" - <<'CHECK' || return 2
import sys
if sys.version_info < (3, 11):
  sys.exit("distill_jax needs Python 3.11 or later; this is "
           + sys.version.split()[0] + ". Set PYTHON to another interpreter.")
CHECK
    echo "Setting up .venv (once, about 3 GB)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv || return 2
    local requirement=".${extra}"
    # uv installs the same wheels several times faster; pip does where it fails.
    # Like pip, it is to trust the certificates that the system trusts.
    export UV_NATIVE_TLS=1
    .venv/bin/python -m pip install -q --disable-pip-version-check \
      -c scripts/constraints.txt uv &&
      .venv/bin/uv pip install -q --python .venv/bin/python \
        -c scripts/constraints.txt -e "$requirement" ||
      .venv/bin/python -m pip install --disable-pip-version-check -q \
        -c scripts/constraints.txt -e "$requirement" || return 1
    rm -f .venv/installed-*
    touch "$stamp"
  fi
}
