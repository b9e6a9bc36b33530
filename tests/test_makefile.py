"""The Makefile in folders and with environments whose names have spaces and special characters."""

import os
import shutil
import subprocess

import pytest

from .conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
FOLDERS = ['my clone', "Jörg's (clone) & more"]
# Commands of each target: names of the programs and their first arguments.
RUNS = {
    'test-demo': [('mim', 'test', 'mmdet')],
    'test': [('python', '-m', 'pytest')],
    'quick': [('python', '-m', 'pytest')],
    'docs': [('sphinx-build', '-q', '-W')],
    'docs-links': [('sphinx-build', '-q', '-b', 'linkcheck')],
    'dist': [
        ('python', '-m', 'build'),
        ('python', 'tools/misc/check_wheel.py'),
        ('twine', 'check', '--strict'),
    ],
    'test-projects': [('python', 'tools/misc/project_tests.py')],
    'data': [('python', 'tools/dataset_converters/digits_scenes.py', 'data/digits_scenes')],
    'train-demo': [
        ('python', 'tools/dataset_converters/digits_scenes.py', 'data/digits_scenes'),
        ('mim', 'train', 'mmpretrain'),
        ('mim', 'train', 'mmdet'),
    ],
    'zoo-demo': [('python', 'tools/misc/zoo_demo.py', '--work-dir')],
    'lint': [('ruff', 'check', '.'), ('ruff', 'format', '--check'), ('mypy',)],
    'format': [('ruff', 'check', '--fix'), ('ruff', 'format', '.')],
}


@pytest.fixture(params=FOLDERS)
def clone(request, tmp_path):
    """A folder with the Makefile, and environments whose programs record their arguments."""
    folder = tmp_path / request.param
    (folder / 'requirements').mkdir(parents=True)
    for name in ('lint', 'docs', 'dist'):
        (folder / f'requirements/{name}.txt').touch()
    shutil.copy(ROOT / 'Makefile', folder)
    return folder


def fill(environment, log):
    (environment / 'bin').mkdir(parents=True)
    for name in ('python', 'mim', 'ruff', 'mypy', 'pip', 'sphinx-build', 'twine'):
        program = environment / 'bin' / name
        program.write_text(
            f'#!/bin/sh\n{{ echo {name}; for a in "$@"; do echo "$a"; done; echo; }} >> "{log}"\n'
        )
        program.chmod(0o755)
    (environment / '.made').touch()


def make(folder, *arguments):
    """Run make; returns the recorded calls (list of tuples)."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith('MAKE')}
    command = ['make', '-o', 'env', *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    calls = (folder / 'calls').read_text().strip().split('\n\n')
    (folder / 'calls').unlink()
    return [tuple(call.split('\n')) for call in calls]


@pytest.mark.parametrize('named', [False, True])
def test_every_target(clone, named):
    """With environments at their default paths and elsewhere, also with spaces in their names."""
    variables, places = [], [clone / name for name in ('.venv', '.venv-lint', '.venv-docs', '.venv-dist')]
    if named:
        places = [clone.parent / f'my {name}' for name in ('env', 'lint', 'docs', 'dist')]
        names = ('VENV', 'LINT_VENV', 'DOCS_VENV', 'DIST_VENV')
        variables = [*(f'{name}={place}' for name, place in zip(names, places)), 'WORK=the work']
    for place in places:
        fill(place, clone / 'calls')
    work = clone / ('the work' if named else 'work_dirs/demo')
    work.mkdir(parents=True)
    (work / 'best_coco_bbox_mAP_epoch_3.pth').touch()
    checkpoint = str((work / 'best_coco_bbox_mAP_epoch_3.pth').relative_to(clone))
    for target, expected in RUNS.items():
        calls = make(clone, target, *variables)
        assert [call[: len(start)] for call, start in zip(calls, expected)] == expected
        assert len(calls) == len(expected)
        if target == 'train-demo':  # the detector starts from the classifier
            start = f'{work.relative_to(clone)}/classifier'
            assert calls[1][-2:] == ('--work-dir', start)
            assert calls[2][-1] == f'model.backbone.init_cfg.checkpoint={start}/epoch_1.pth'
        if target == 'test-demo':
            assert calls[0][calls[0].index('--checkpoint') + 1] == checkpoint
    assert not (clone / checkpoint).exists()  # training removes older ones


def test_the_environment_of_the_linters(clone):
    """It is created if it is missing or older than its pins, and only once."""
    log = clone / 'calls'
    python = clone.parent / 'python'
    python.write_text(
        '#!/bin/sh\n'
        f'echo "made $4" >> "{log}"; echo >> "{log}"\n'
        'mkdir -p "$4/bin"; for name in python ruff mypy; do\n'
        'printf "#!/bin/sh\\n" > "$4/bin/$name"; chmod +x "$4/bin/$name"; done\n'
    )
    python.chmod(0o755)
    for _ in range(2):
        assert make(clone, 'lint', f'PYTHON={python}', 'LINT_VENV=the lint') == [('made the lint',)]
        log.touch()
        assert make(clone, 'lint', f'PYTHON={python}', 'LINT_VENV=the lint') == [('',)]
        os.utime(clone / 'the lint/.made', (0, 0))


def test_the_set_up_gets_the_whole_path(clone):
    (clone / 'tools/misc').mkdir(parents=True)
    (clone / 'tools/misc/setup_env.py').write_text(
        'import sys\nopen("calls", "w").write("\\n".join(sys.argv))\n'
    )
    subprocess.run(['make', 'env', 'VENV=/some where/env'], cwd=clone, check=True, capture_output=True)
    assert (clone / 'calls').read_text().split('\n')[1:] == ['/some where/env']
