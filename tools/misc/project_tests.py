"""Test the recipes of ``configs/projects`` in environments of their own: ``make test-projects``.

Each project gets a virtual environment that sees the packages of ``make env``; its own pins, in
``requirements/project-NAME.txt``, come first. Some releases refuse to be imported beside the known-good set:
``PROJECTS`` says which lines of the installed copies are mended, and why. A project that cannot be installed
is named and skipped.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from setup_env import REQUIREMENTS, ROOT, Environment, StepError, say


class Mend(NamedTuple):
    """A line of an installed package, what stands there instead, and why."""

    file: str
    old: str
    new: str
    why: str


class Project(NamedTuple):
    """What a project is imported as, and what is mended in it."""

    package: str
    mends: tuple = ()


PROJECTS = dict(
    mmpose=Project('mmpose'),
    mmocr=Project(
        'mmocr',
        (
            Mend(
                'mmocr/__init__.py',
                "mmdet_maximum_version = '3.2.0'",
                "mmdet_maximum_version = '3.4.0'",
                'mmdet 3.3.0 is refused: https://github.com/open-mmlab/mmocr/pull/2023, not released',
            ),
        ),
    ),
    mmaction2=Project(
        'mmaction',
        (
            Mend(
                'mmaction/models/localizers/__init__.py',
                'from .drn.drn import DRN\n',
                '',
                'the wheel lacks that folder: https://github.com/open-mmlab/mmaction2/issues/2714',
            ),
            Mend('mmaction/models/localizers/__init__.py', ", 'DRN'", '', 'the same'),
        ),
    ),
    mmrotate=Project(
        'mmrotate',
        (
            Mend(
                'mmrotate/__init__.py',
                "mmdet_maximum_version = '3.1.0'",
                "mmdet_maximum_version = '3.3.0'",
                'mmdet 3.3.0 is refused: https://github.com/open-mmlab/mmrotate/issues/1046',
            ),
            Mend(
                'mmrotate/models/detectors/refine_single_stage.py',
                'from collections import Sequence',
                'from collections.abc import Sequence',
                'Python 3.10 and later: https://github.com/open-mmlab/mmrotate/issues/859',
            ),
        ),
    ),
)


def packages_of(python):
    """The ``site-packages`` of an environment."""
    code = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    return Path(subprocess.check_output([str(python), '-c', code], text=True).strip())


def install(name, base, folder):
    """Make the environment of a project, unless it is there, and return it.

    Args:
        name (str): One of ``PROJECTS``.
        base (Environment): That of ``make env``.
        folder (Path): Where those of the projects are.

    Raises:
        StepError: If the project cannot be installed or imported.
    """
    env = Environment(folder / name)
    made, content = env.path / '.made', fingerprint(name, base)
    if made.is_file() and made.read_text() == content:
        return env
    shutil.rmtree(env.path, ignore_errors=True)
    env.path.mkdir(parents=True)
    again = 'see that there is a network and room on the disk, and run the command again.'
    env.run([base.python, '-m', 'venv', env.path], 'python -m venv failed.', again)
    packages = packages_of(env.python)
    # What is seen through this file pip neither installs again nor removes: it is outside of the environment.
    line = f'import site; site.addsitedir({str(packages_of(base.python))!r})\n'
    (packages / 'base.pth').write_text(line, encoding='utf-8')
    command = [env.python, '-m', 'pip', 'install', '--no-cache-dir', '--no-deps']
    env.run([*command, '-r', REQUIREMENTS / f'project-{name}.txt'], f'{name} did not install.', again)
    project = PROJECTS[name]
    for mend in project.mends:
        apply(mend, packages)
        say(f'    mended {mend.file}: {mend.why}')
    code = f'import {project.package}.models, {project.package}.datasets, {project.package}.apis'
    env.run([env.python, '-W', 'ignore', '-c', code], f'{name} cannot be imported.', again, cwd=env.path)
    made.write_text(content)
    return env


def apply(mend, packages):
    """Replace the one place in a file of ``packages`` that reads as expected.

    Raises:
        StepError: If there is none, or more than one: it is another version.
    """
    path = packages / mend.file
    text = path.read_text(encoding='utf-8')
    if text.count(mend.old) != 1:
        raise StepError(
            f'{path} does not have {mend.old!r} once.\nWhat to do: change PROJECTS in {__file__}.'
        )
    path.write_text(text.replace(mend.old, mend.new), encoding='utf-8')


def fingerprint(name, base):
    """A hash over what an environment is made of."""
    files = (REQUIREMENTS / f'project-{name}.txt', REQUIREMENTS / 'pinned.txt')
    text = ''.join(path.read_text() for path in files) + repr(PROJECTS[name])
    return hashlib.sha256(f'{text}{base.path}{sys.version}'.encode()).hexdigest()[:16]


def run_tests(name, env):
    """Run the tests of a project in its environment; returns whether they pass."""
    command = [env.python, '-m', 'pytest', '-m', 'projects', ROOT / f'tests/test_projects/test_{name}.py']
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    result = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False)
    return result.returncode == 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('base', type=Path, help='the environment of `make env`')
    parser.add_argument('folder', type=Path, help='where those of the projects are made')
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'default: {" ".join(PROJECTS)}')
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(PROJECTS))
    if unknown:
        parser.error(f'there is no project {", ".join(unknown)}; there are {", ".join(PROJECTS)}')
    base, results = Environment(args.base.resolve()), {}
    for name in args.names or PROJECTS:
        say(f'{name}: its environment, and its tests (1 to 3 minutes)')
        try:
            env = install(name, base, args.folder.resolve())
        except (StepError, OSError, subprocess.SubprocessError) as error:
            say(f'    {error}')
            results[name] = 'skipped: cannot be installed here'
        else:
            results[name] = 'passed' if run_tests(name, env) else 'FAILED'
    say('\n'.join(f'{name:12}{result}' for name, result in results.items()))
    if 'passed' not in results.values() or 'FAILED' in results.values():
        sys.exit(1)


if __name__ == '__main__':
    main()
