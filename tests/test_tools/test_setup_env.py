"""The set-up: repeated runs do nothing, and errors say what to do."""

import importlib.util
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from ..conftest import ROOT, load_script

setup_env = load_script('tools/misc/setup_env.py')
OURS = Path(sys.prefix)
VERSIONS = sorted(path.stem for path in (ROOT / 'requirements/versions').iterdir())


def is_made_here():
    """Whether ``make env`` created this environment for this clone; otherwise, it would install again."""
    origin = metadata.distribution('mmmobilemamba').read_text('direct_url.json') or ''
    return (OURS / '.steps' / 'check').is_file() and f'"{ROOT.as_uri()}"' in origin


@pytest.mark.skipif(not is_made_here(), reason='not an environment of `make env` in this clone')
def test_second_call_changes_nothing():
    def state():
        return {path: path.stat().st_mtime_ns for path in (OURS / '.steps').iterdir()}

    stamp = (OURS / '.steps' / 'torch').read_text()
    (options,) = (
        ['--versions', name] if name else []
        for name in (None, *VERSIONS)
        if setup_env.fingerprint(setup_env.Environment(OURS, name), setup_env.install_torch, ()) == stamp
    )
    before, start = state(), time.time()
    command = [sys.executable, str(ROOT / 'tools/misc/setup_env.py'), str(OURS), *options]
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


def libraries_of(package):
    """Compiled libraries of an installed package, found without importing it."""
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    return list(Path(folder).glob('_ext*.so'))


@pytest.mark.skipif(not libraries_of('mmcv'), reason='mmcv without operators')
@pytest.mark.skipif(not is_made_here(), reason='not an environment of `make env` in this clone')
def test_the_operators_were_built_without_asserts():
    """Assertion symbols would be imported; builds with them are also not optimised."""
    for library in libraries_of('mmcv'):
        content = library.read_bytes()
        assert b'GLIBC' in content
        assert b'__assert_fail' not in content, f'{library} is of older flags: run `make env` again'


class Recorded(setup_env.Environment):
    """An environment that records its commands, all of which succeed."""

    def __init__(self, path, versions=None):
        super().__init__(path, versions)
        self.path.mkdir(parents=True, exist_ok=True)
        self.commands, self.variables = [], []

    def run(self, command, *args, env=None, cwd=None, **kwargs):
        self.commands.append([str(part) for part in command])
        self.variables.append(env)
        if 'bdist_wheel' in command:
            (cwd / 'dist').mkdir()
            (cwd / 'dist' / f'{cwd.name}-cp311-cp311-linux_x86_64.whl').write_text('a wheel')

    def ask(self, code):
        return '9.9.9' if '__version__' in code else 'any'


@pytest.fixture
def environment(tmp_path):
    """An environment with mmcv's source, so that nothing is downloaded."""
    env = Recorded(tmp_path / 'my env')
    source = env.path / 'build/mmcv-2.1.0'
    source.mkdir(parents=True)
    (source / 'setup.py').touch()
    return env


def installed(env):
    """The wheel installed by the last command."""
    return Path(env.commands[-1][-1])


def test_mmcv_is_optimised_and_its_wheel_kept(environment, tmp_path, monkeypatch):
    cache = tmp_path / 'the cache'
    monkeypatch.setenv('XDG_CACHE_HOME', str(cache))
    monkeypatch.setenv('CFLAGS', '-march=native')
    older = cache / 'mmmobilemamba/wheels' / f'torch9.9.9-any-any-{platform.machine()}'
    older.mkdir(parents=True)
    (older / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl').write_text('with asserts')
    setup_env.install_mmcv(environment)
    assert environment.variables[0]['CFLAGS'] == '-march=native -g0 -O3 -DNDEBUG'
    wheel = installed(environment)
    assert wheel.read_text() == 'a wheel' and cache in wheel.parents and older not in wheel.parents
    assert not (environment.path / 'build').exists()

    another = Recorded(tmp_path / 'another')
    setup_env.install_mmcv(another)
    assert installed(another) == wheel and len(another.commands) == 1


@pytest.mark.parametrize('home', ['none', 'read-only'])
def test_a_wheel_that_cannot_be_kept_is_installed(environment, monkeypatch, home):
    """A missing or full home directory must not fail after ten minutes of compiling."""

    def no_home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(setup_env.Path, 'home', no_home if home == 'none' else lambda: Path('/proc'))
    setup_env.install_mmcv(environment)
    wheel = installed(environment)
    assert environment.path in wheel.parents and wheel.read_text() == 'a wheel'


def test_other_flags_are_another_build(environment, monkeypatch):
    steps = {step: setup_env.fingerprint(environment, step, ()) for _, step, *_ in setup_env.STEPS}
    monkeypatch.setattr(setup_env, 'MMCV_CFLAGS', '-g0')
    changed = [step for step in steps if setup_env.fingerprint(environment, step, ()) != steps[step]]
    assert changed == [setup_env.install_mmcv]


@pytest.mark.parametrize('versions, standard', [(None, 17), ('torch2.6', 17), ('torch2.14', 20)])
def test_mmcv_is_compiled_for_the_standard_that_torch_asks_for(tmp_path, monkeypatch, versions, standard):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    env = Recorded(tmp_path / 'env', versions)

    def download(archive, folder):
        source = env.path / 'build/unpacking/mmcv-2.1.0'
        source.mkdir(parents=True)
        (source / 'setup.py').write_text("extra_compile_args['cxx'] = ['-Wall', '-std=c++17']")

    def keep(built, shelf):
        sources.append((built.parents[1] / 'setup.py').read_text())
        return built

    sources = []
    monkeypatch.setattr(setup_env, 'unpack', download)
    monkeypatch.setattr(setup_env, 'keep', keep)
    setup_env.build_mmcv(env, 'mmcv', '2.1.0', tmp_path)
    assert sources == [f"extra_compile_args['cxx'] = ['-Wall', '-std=c++{standard}']"]


@pytest.mark.parametrize('name', VERSIONS)
def test_versions_come_before_those_that_are_pinned(name, tmp_path):
    known, env = setup_env.pinned_versions(None), Recorded(tmp_path / 'env', name)
    own = dict(line.split('==') for line in setup_env.read_lines(setup_env.VERSIONS / f'{name}.txt'))
    assert own and env.versions == {**known, **own}
    assert not own.items() & known.items()  # only differences
    setup_env.install_torch(env)
    (command,) = env.commands
    pins = Path(command[command.index('-c') + 1]).read_text().split()
    assert pins == [f'{package}=={version}' for package, version in env.versions.items()]


def test_forks_take_the_place_of_what_they_fork(tmp_path):
    env = Recorded(tmp_path / 'env', 'forks')
    lines = ['mmdet>=3.3.0', 'mmsegmentation>=1.2.2', 'timm>=1.0.3', 'mmengine']
    forks = ['onedl-mmdetection', 'onedl-mmsegmentation', 'timm>=1.0.3', 'onedl-mmengine']
    assert setup_env.requirements(env, lines) == forks
    assert setup_env.requirements(Recorded(tmp_path / 'known'), lines) == lines
    setup_env.install_packages(env)
    assert env.commands[-2][-1] == 'onedl-mim'
    assert env.commands[-1] == [str(env.python), str(ROOT / 'mmmobilemamba/utils/forks.py')]
    assert {'onedl-mmpretrain', 'onedl-mmengine'} <= set(env.commands[0])
    names = {re.split('[<>=]', part)[0] for command in env.commands for part in command}
    assert not names & set(setup_env.FORKS)


def test_the_page_names_the_same_flags():
    found = re.findall(r'CFLAGS=(\S+|".*?") MMCV_WITH_OPS', (ROOT / 'docs/installation.md').read_text())
    assert found == [f'"{setup_env.MMCV_CFLAGS}"']


def test_pins_cover_the_known_good_set():
    versions = setup_env.pinned_versions(None)
    assert versions['mmcv'] == '2.1.0'
    assert versions['mmdet'] == '3.3.0'
    major = int(versions['setuptools'].split('.')[0])
    assert 65 <= major < 82


def plain(name):
    """A name of a package as indexes compare it."""
    return re.sub('[-_.]+', '-', name).lower()


def test_pins_are_for_every_python_3_11():
    """Debian 12 has 3.11.2, whose pip searches for hours if one of the pins needs a later one."""
    pins, seen = {plain(name): version for name, version in setup_env.pinned_versions(None).items()}, 0
    for package in metadata.distributions():
        name = plain(package.metadata['Name'])
        if package.version == pins.get(name):
            seen += 1
            wanted = package.metadata.get('Requires-Python', '')
            assert SpecifierSet(wanted).contains('3.11.0'), (name, package.version, wanted)
    assert seen > 50
