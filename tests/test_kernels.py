"""The quick tests of the rooms where floats matter, once more under kernels that round otherwise.

Other processors add in another order. What depends on float rounding is compared as such: within a tolerance,
and where it is an order, up to ties within it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [f"tests/test_{name}.py" for name in ("activations", "reducers", "exemplars", "cluster", "salience")]
OTHER = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "3",
    "NBKIT_TEST_BATCH_TOKENS": "300",
}


@pytest.mark.slow
def test_the_numbers_hold_under_other_kernels_and_in_other_batches():
    # of test_cluster, what starts workers of its own is about errors, not numbers
    chosen = ["-m", "not slow", "-k", "not on_a_worker", "-p", "no:cacheprovider", *FILES]
    command = [sys.executable, "-m", "pytest", "-q", *chosen]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **OTHER}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:]


def test_the_switch_of_the_batches_is_heard():
    said = "from nbkit.activations import forward; import conftest; print(forward.BATCH_TOKENS)"
    environment = {**os.environ, **OTHER, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    ran = subprocess.run([sys.executable, "-c", said], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "300", ran.stderr
