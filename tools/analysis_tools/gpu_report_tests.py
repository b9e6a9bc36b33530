"""Runs the GPU tests for ``gpu_report.py``: first, and with nothing else on the GPU."""

import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from gpu_report_order import CORES

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    'tests/test_on_a_gpu.py',
    'tests/test_ops/test_triton*.py',
)
SELECTED = 'gpu'  # runs tests with this in their names
PROCESSES = 16  # at most
# Seconds: limit for the tests, time for pytest to exit, time for its processes to import undisturbed.
LIMIT, INTERRUPTED, HEAD_START = 90, 5, 15
KEPT_OUTPUT = 20_000  # characters


class GpuTests:
    """Tests of the repository, in a separate process."""

    def __init__(self):
        paths = [str(path) for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
        command = [sys.executable, '-m', 'pytest', '-q', '-ra', '-p', 'no:cacheprovider', '--durations=15']
        command += ['-k', SELECTED, *paths]
        if find_spec('xdist') is not None:
            command += ['-n', str(min(PROCESSES, CORES))]
        self.begin = time.monotonic()
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / 'log'
        with self.log.open('w') as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def wait(self, seconds):
        """Wait up to some seconds; returns whether the tests have finished."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, part, end):
        """Wait until ``end`` (of ``time.monotonic``) at most, and record the result."""
        if not self.wait(min(end, self.begin + LIMIT) - time.monotonic()):
            part.content['error'] = f'not done after {time.monotonic() - self.begin:.0f} s'
            self.stop()
        part.content.update(
            passed=self.process.returncode == 0,
            seconds=time.monotonic() - self.begin,
            output=self.log.read_text(errors='replace')[-KEPT_OUTPUT:],
        )
        self.folder.cleanup()
        part.save()

    def stop(self):
        """Interrupt pytest, so that it reports failures so far; kill it if it does not exit."""
        self.process.send_signal(signal.SIGINT)
        if not self.wait(INTERRUPTED):
            self.process.kill()
            self.process.wait()
