"""The set-up: nothing to do the second time, and failures that say what to do."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..conftest import ROOT, load_script

setup_env = load_script('tools/misc/setup_env.py')
OURS = Path(sys.prefix)


@pytest.mark.skipif(not (OURS / '.steps' / 'check').is_file(), reason='not an environment of `make env`')
def test_second_call_changes_nothing():
    def state():
        return {path: path.stat().st_mtime_ns for path in (OURS / '.steps').iterdir()}

    before, start = state(), time.time()
    command = [sys.executable, str(ROOT / 'tools/misc/setup_env.py'), str(OURS)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.time() - start < 10
    assert result.stdout == result.stderr == ''
    assert state() == before


def test_a_step_that_fails_says_why_and_what_to_do(tmp_path):
    env = setup_env.Environment(tmp_path)
    with pytest.raises(setup_env.StepError) as error:
        env.run([sys.executable, '-c', 'raise SystemExit("no such wheel")'], 'torch failed.', 'try again.')
    text = str(error.value)
    assert text.splitlines()[:2] == ['torch failed.', 'no such wheel']
    assert 'What to do: try again.' in text and str(tmp_path / 'setup.log') in text


def test_main_stops_at_the_broken_step_and_resumes_there(tmp_path, monkeypatch, capsys):
    calls = []

    def good(env):
        """First."""
        calls.append('good')

    def broken(env):
        """Second."""
        calls.append('broken')
        raise setup_env.StepError('it broke.\nWhat to do: mend it')

    def after(env):
        """Third."""
        calls.append('after')

    steps = tuple((step.__name__, step, '1 s', ()) for step in (good, broken, after))
    monkeypatch.setattr(setup_env, 'STEPS', steps)
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', str(tmp_path / 'venv')])
    with pytest.raises(SystemExit, match=r'Step 2 of 3, broken, failed: it broke'):
        setup_env.main()
    assert calls == ['good', 'broken']

    mended = (steps[0], ('broken', good, '1 s', ()), steps[2])
    monkeypatch.setattr(setup_env, 'STEPS', mended)
    setup_env.main()
    assert calls == ['good', 'broken', 'good', 'after']
    assert 'Ready in' in capsys.readouterr().out
    setup_env.main()
    assert calls == ['good', 'broken', 'good', 'after']
    assert capsys.readouterr().out == ''


def test_progress_counts_objects(tmp_path):
    build = tmp_path / 'build' / 'temp.linux'
    (build / 'csrc').mkdir(parents=True)
    assert setup_env.count_objects(tmp_path) == (0, 0)
    (build / 'build.ninja').write_text('build a.o: compile a.cpp\nbuild b.o: compile b.cpp\n')
    (build / 'csrc' / 'a.o').touch()
    assert setup_env.count_objects(tmp_path) == (2, 1)


def test_pins_cover_the_known_good_set():
    assert setup_env.pinned('mmcv') == '2.1.0'
    assert setup_env.pinned('mmdet') == '3.3.0'
    major = int(setup_env.pinned('setuptools').split('.')[0])
    assert 65 <= major < 82
