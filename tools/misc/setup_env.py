"""Build the project's virtual environment: ``python3 tools/misc/setup_env.py .venv``.

Needs only Python 3.11, the version of the pins, with ``venv``. Each finished step leaves a stamp in the
environment, so that a second call does nothing and an interrupted one resumes; compiled objects of mmcv are
kept, too. The system's Python is never changed.

``--versions NAME`` uses the versions in ``requirements/versions/NAME.txt`` instead of the pinned ones:
another torch, or the forks of OpenMMLab.
"""

import argparse
import hashlib
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
VERSIONS = REQUIREMENTS / 'versions'
NAME_FORKS = ROOT / 'mmmobilemamba/utils/forks.py'
FORKS = runpy.run_path(str(NAME_FORKS))['FORKS']
MMCV_SECONDS_PER_OBJECT = 19  # on one core
# The interpreter's flags include debug symbols, which triple the build time. Newer setuptools use CFLAGS
# instead of the interpreter's flags, so optimisation and NDEBUG must be repeated: without optimisation,
# RoIAlign and NMS take two to three times as long, and asserts abort PANet.
MMCV_CFLAGS = '-g0 -O3 -DNDEBUG'
CXX20_SINCE = (2, 14)  # since this torch, its headers need C++20; mmcv sets C++17
IMPORTS = 'torch, torchvision, mmengine, mmcv.ops, mmdet, mmseg, mmpretrain, mmmobilemamba'


class StepError(RuntimeError):
    """A step failed; the message says why and what to do."""


class Environment:
    """A virtual environment that is built in stamped steps.

    Args:
        path (Path): Folder of the environment.
        versions (str): Name of a file in ``requirements/versions`` that overrides the pins.
    """

    def __init__(self, path, versions=None):
        self.path = path
        self.versions = pinned_versions(versions)
        self.python = path / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
        self.log = path / 'setup.log'
        self.stamps = path / '.steps'

    def run(self, command, why, remedy, cwd=ROOT, env=None, on_wait=None):
        """Run ``command`` with its output in the log; call ``on_wait`` every 15 s until it ends.

        Raises:
            StepError: If the command fails; contains the end of its output.
        """
        with open(self.log, 'a+', encoding='utf-8', errors='replace') as log:
            start = log.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=dict(os.environ, **(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            while True:
                try:
                    code = process.wait(timeout=15)
                    break
                except subprocess.TimeoutExpired:
                    if on_wait is not None:
                        on_wait()
                except KeyboardInterrupt:
                    process.terminate()
                    process.wait()
                    raise
            if code:
                log.seek(start)
                tail = ''.join(log.readlines()[-15:])
                raise StepError(f'{why}\n{tail}What to do: {remedy}\nFull output: {self.log}')

    def pip(self, *arguments, why, **kwargs):
        """Install with pip under the environment's pins."""
        pins = self.path / 'pins.txt'
        pins.write_text(''.join(f'{name}=={version}\n' for name, version in self.versions.items()))
        self.run(
            [self.python, '-m', 'pip', 'install', '-c', pins, *arguments],
            why,
            'check the network (or the pip index you have configured) and run the command again; '
            'it resumes there.',
            **kwargs,
        )

    def distribution(self, name):
        """The distribution to install for ``name``: itself, or its fork."""
        fork = FORKS.get(name)
        return fork if fork in self.versions else name

    def ask(self, code):
        """Run code with the environment's Python and return what it prints."""
        return subprocess.check_output([self.python, '-c', code], text=True).strip()


def create(env):
    """Create the environment."""
    config = env.path / 'pyvenv.cfg'
    if config.is_file() and f'version = {platform.python_version()}' not in config.read_text():
        for name in ('bin', 'lib', 'include'):  # of another Python; venv would keep them
            shutil.rmtree(env.path / name, ignore_errors=True)
    env.run(
        [sys.executable, '-m', 'venv', env.path],
        'python -m venv failed.',
        'on Debian and Ubuntu, `apt-get install python3-venv`; then run the command again.',
    )
    env.pip('setuptools', 'wheel', 'ninja', 'psutil', why='The build tools did not install.')


def install_torch(env):
    """Install PyTorch and torchvision from the same index."""
    env.pip('torch', 'torchvision', why='PyTorch did not install.')


def install_mmcv(env):
    """Install mmcv with its operators, from a cached wheel or from source."""
    name = env.distribution('mmcv')
    version = env.versions[name]
    torch = env.ask('import torch; print(torch.__version__)')
    python = env.ask('import sys; print("cp%d%d" % sys.version_info[:2])')
    # Without a visible GPU, mmcv builds only its CPU operators.
    device = env.ask('import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
    flags = MMCV_CFLAGS.replace(' ', '')  # wheels built with other flags are kept, but not used
    shelf = cache_dir(env) / f'torch{torch}-{python}-{device}-{platform.machine()}{flags}'
    wheel = next(shelf.glob(f'{name.replace("-", "_")}-{version}-*.whl'), None)
    if wheel is None:
        wheel = build_mmcv(env, name, version, shelf)
    else:
        say(f'    reusing {wheel}')
    env.pip('--no-deps', '--force-reinstall', wheel, why=f'The wheel {wheel} did not install; delete it.')


def install_packages(env):
    """Install the OpenMMLab codebases, mim, and the packages for tests and demo."""
    names = ('runtime', 'optional', 'demo', 'deploy', 'tests', 'weights')
    lines = [line for name in names for line in read_lines(REQUIREMENTS / f'{name}.txt')]
    env.pip(*requirements(env, [*lines, 'mmengine']), why='The packages did not install.')
    env.pip('-r', REQUIREMENTS / 'mim.txt', why='The packages that mim needs did not install.')
    env.pip('--no-deps', env.distribution('openmim'), why='mim did not install.')
    env.run(
        [env.python, NAME_FORKS],
        'The forks could not be registered under the original names.',
        f'delete {env.path} and run the command again.',
    )


def install_project(env):
    """Install this project in editable mode."""
    env.pip('--no-deps', '--no-build-isolation', '-e', ROOT, why='The project did not install.')


def check(env):
    """Check that everything imports."""
    env.run(
        [env.python, '-c', f'import {IMPORTS}'],
        'The finished environment cannot import its packages.',
        f'delete {env.path} and run the command again.',
        cwd=env.path,
    )


STEPS = (
    ('environment', create, '10 s', ()),
    ('torch', install_torch, '1 to 3 minutes: a download of about 2 GB', ()),
    ('mmcv', install_mmcv, 'seconds from a cached wheel, else about 10 minutes on 2 cores', ()),
    (
        'packages',
        install_packages,
        '1 to 2 minutes',
        ('runtime', 'optional', 'demo', 'deploy', 'tests', 'mim'),
    ),
    ('project', install_project, '10 s', ()),
    ('check', check, '20 s', ()),
)


def requirements(env, lines):
    """Lines of requirements files, with pinned forks in place of the original packages."""
    names = [re.match(r'[\w.-]+', line).group() for line in lines]
    forks = [env.distribution(name) for name in names]
    return [line if fork == name else fork for line, name, fork in zip(lines, names, forks)]


def build_mmcv(env, name, version, shelf):
    """Build mmcv's wheel in the folder of the environment and store a copy on ``shelf``.

    Ninja keeps finished objects, so an interrupted build resumes. If ``shelf`` is not writable, the copy is
    stored in the environment.
    """
    work = env.path / 'build'
    source = work / f'{name.replace("-", "_")}-{version}'
    if not (source / 'setup.py').is_file():
        shutil.rmtree(work, ignore_errors=True)
        command = [env.python, '-m', 'pip', 'download', '--no-deps', '--no-build-isolation']
        env.run(
            [*command, '--no-binary', name, '-d', work, f'{name}=={version}'],
            'The source of mmcv did not download.',
            'check the network and run the command again.',
        )
        unpack(work / f'{source.name}.tar.gz', work / 'unpacking')
        (work / 'unpacking' / source.name).rename(source)
    if tuple(map(int, env.versions['torch'].split('.')[:2])) >= CXX20_SINCE:
        recipe = source / 'setup.py'
        recipe.write_text(recipe.read_text().replace('-std=c++17', '-std=c++20'))
    jobs = int(os.environ.get('MAX_JOBS') or os.cpu_count() or 1)
    said = [0.0]

    def progress():
        total, done = count_objects(source)
        if total and time.time() - said[0] >= 60:
            said[0] = time.time()
            left = (total - done) * MMCV_SECONDS_PER_OBJECT / jobs / 60
            say(f'    {done} of {total} files compiled, about {left:.0f} min left')

    env.run(
        [env.python, 'setup.py', 'bdist_wheel'],
        'mmcv did not compile.',
        'a C++ compiler is needed (Debian and Ubuntu: `apt-get install g++`). '
        'With little memory, set MAX_JOBS=1. Then run the command again; it resumes.',
        cwd=source,
        env={
            'MMCV_WITH_OPS': '1',
            'CFLAGS': f'{os.environ.get("CFLAGS", "")} {MMCV_CFLAGS}'.strip(),
            'MAX_JOBS': str(jobs),
            'PATH': f'{env.python.parent}{os.pathsep}{os.environ.get("PATH", "")}',
        },
        on_wait=progress,
    )
    built = next((source / 'dist').glob('*.whl'))
    try:
        wheel = keep(built, shelf)
    except OSError as error:
        say(f'    the wheel is not kept for other environments: {error}')
        wheel = keep(built, env.path / 'wheels')
    shutil.rmtree(work)
    return wheel


def keep(built, shelf):
    """Copy a wheel to ``shelf`` atomically, and return its path there."""
    shelf.mkdir(parents=True, exist_ok=True)
    partial = shelf / f'{built.name}.{os.getpid()}.part'
    shutil.copyfile(built, partial)
    return partial.rename(shelf / built.name)


def count_objects(source):
    """Number of source files to compile, and of finished objects."""
    recipe = next(source.glob('build/temp*/build.ninja'), None)
    total = recipe.read_text().count(': compile ') if recipe else 0
    return total, sum(1 for _ in source.glob('build/temp*/**/*.o'))


def unpack(archive, folder):
    """Unpack a source archive, with the ``data`` filter if this Python has it."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, 'data_filter'):
            tar.extractall(folder, filter='data')
        else:
            tar.extractall(folder)


def cache_dir(env):
    """The user's cache folder for wheels, with a subfolder per torch, Python and flags.

    For a user without a home directory, it is in the environment.
    """
    named = os.environ.get('XDG_CACHE_HOME')
    try:
        base = Path(named) if named else Path.home() / '.cache'
    except RuntimeError:
        return env.path / 'wheels'
    return base / 'mmmobilemamba' / 'wheels'


def read_lines(path):
    """Lines of a requirements file without comments."""
    lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def pinned_versions(name):
    """All pins (dict of name: version); ``requirements/versions/NAME.txt``, if given, overrides them."""
    files = [REQUIREMENTS / 'pinned.txt', *([VERSIONS / f'{name}.txt'] if name else [])]
    return dict(line.split('==') for file in files for line in read_lines(file))


def fingerprint(env, step, files):
    """A hash of the inputs of a step: its requirements files, the pins, and mmcv's flags."""
    text = ''.join((REQUIREMENTS / f'{name}.txt').read_text() for name in files)
    text += repr(env.versions) + sys.version + str(ROOT) + (MMCV_CFLAGS if step is install_mmcv else '')
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def say(text):
    """Print a message without buffering."""
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('path', type=Path, help='folder of the virtual environment')
    parser.add_argument(
        '--versions',
        choices=sorted(path.stem for path in VERSIONS.glob('*.txt')),
        help='use these versions instead of the known-good ones',
    )
    args = parser.parse_args()
    env = Environment(args.path.resolve(), args.versions)
    if sys.version_info[:2] != (3, 11):
        sys.exit(
            f'The pins of requirements/pinned.txt are for Python 3.11, and {sys.executable} is '
            f'{platform.python_version()}. Name another one: make env PYTHON=python3.11'
        )

    env.stamps.mkdir(parents=True, exist_ok=True)
    start = time.time()
    redo = False
    for number, (name, step, expected, files) in enumerate(STEPS, 1):
        stamp, content = env.stamps / name, fingerprint(env, step, files)
        if not redo and stamp.is_file() and stamp.read_text() == content:
            continue
        redo = True  # later steps build on this one
        say(f'[{number}/{len(STEPS)}] {step.__doc__.strip().splitlines()[0]} ({expected})')
        try:
            step(env)
        except StepError as error:
            sys.exit(f'\nStep {number} of {len(STEPS)}, {name}, failed: {error}')
        except (OSError, subprocess.SubprocessError, StopIteration) as error:
            sys.exit(
                f'\nStep {number} of {len(STEPS)}, {name}, failed: {error!r}\nWhat to do: check that the '
                f'disk has space and that you own {env.path}, and run the command again; it resumes there.'
            )
        except KeyboardInterrupt:
            sys.exit(f'\nInterrupted in step {number}, {name}. Run the command again; it resumes there.')
        stamp.write_text(content)
    if redo:
        say(f'Ready in {time.time() - start:.0f} s: {env.path}')


if __name__ == '__main__':
    main()
