"""Test the recipes of ``configs/projects`` in separate environments: ``make test-projects``.

Each project gets a virtual environment on top of the packages of ``make env``; the pins in
``requirements/project-NAME.txt`` take precedence. Some releases cannot be imported with the known-good
versions. ``PROJECTS`` lists the lines that are patched in the installed copies, with the reason. A project
that cannot be installed is reported and skipped.
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


class Patch(NamedTuple):
    """A line of an installed package, its replacement, and the reason."""

    file: str
    old: str
    new: str
    why: str


class Project(NamedTuple):
    """Import name of a project, and patches of its installed copy."""

    package: str
    patches: tuple = ()


PROJECTS = dict(
    mmpose=Project('mmpose'),
    mmocr=Project(
        'mmocr',
        (
            Patch(
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
            Patch(
                'mmaction/models/localizers/__init__.py',
                'from .drn.drn import DRN\n',
                '',
                'the wheel lacks that folder: https://github.com/open-mmlab/mmaction2/issues/2714',
            ),
            Patch('mmaction/models/localizers/__init__.py', ", 'DRN'", '', 'the same'),
        ),
    ),
    mmrotate=Project(
        'mmrotate',
        (
            Patch(
                'mmrotate/__init__.py',
                "mmdet_maximum_version = '3.1.0'",
                "mmdet_maximum_version = '3.3.0'",
                'mmdet 3.3.0 is refused: https://github.com/open-mmlab/mmrotate/issues/1046',
            ),
            Patch(
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
    """Create the environment of a project, unless it is up to date, and return it.

    Args:
        name (str): One of ``PROJECTS``.
        base (Environment): The environment of ``make env``.
        folder (Path): Folder for the environments of all projects.

    Raises:
        StepError: If the project cannot be installed or imported.
    """
    env = Environment(folder / name)
    made, content = env.path / '.made', fingerprint(name, base)
    if made.is_file() and made.read_text() == content:
        return env
    shutil.rmtree(env.path, ignore_errors=True)
    env.path.mkdir(parents=True)
    again = 'check the network and the space on the disk, and run the command again.'
    env.run([base.python, '-m', 'venv', env.path], 'python -m venv failed.', again)
    packages = packages_of(env.python)
    # Adds the packages of the base environment. pip neither reinstalls nor removes these.
    line = f'import site; site.addsitedir({str(packages_of(base.python))!r})\n'
    (packages / 'base.pth').write_text(line, encoding='utf-8')
    command = [env.python, '-m', 'pip', 'install', '--no-cache-dir', '--no-deps']
    env.run([*command, '-r', REQUIREMENTS / f'project-{name}.txt'], f'{name} did not install.', again)
    project = PROJECTS[name]
    for patch in project.patches:
        apply(patch, packages)
        say(f'    patched {patch.file}: {patch.why}')
    code = f'import {project.package}.models, {project.package}.datasets, {project.package}.apis'
    env.run([env.python, '-W', 'ignore', '-c', code], f'{name} cannot be imported.', again, cwd=env.path)
    made.write_text(content)
    return env


def apply(patch, packages):
    """Apply a patch to a file in ``packages``.

    Raises:
        StepError: If the old text does not occur exactly once, as in another version.
    """
    path = packages / patch.file
    text = path.read_text(encoding='utf-8')
    if text.count(patch.old) != 1:
        raise StepError(
            f'{path} does not have {patch.old!r} once.\nWhat to do: change PROJECTS in {__file__}.'
        )
    path.write_text(text.replace(patch.old, patch.new), encoding='utf-8')


def fingerprint(name, base):
    """A hash of all inputs of an environment."""
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
    parser.add_argument('base', type=Path, help='environment of `make env`')
    parser.add_argument('folder', type=Path, help='folder for the environments of the projects')
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'projects (default: {" ".join(PROJECTS)})')
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
