"""check_wheel.py accepts valid wheels and detects invalid ones."""

import sysconfig
import zipfile

import pytest

from ..conftest import ROOT, load_script

check_wheel = load_script('tools/misc/check_wheel.py')
CPU = 'mmmobilemamba/ops/cpu'
PURE, OTHER = 'py3-none-any', 'py3-none-manylinux_2_28_riscv64'


def make_wheel(folder, tags=PURE, library=None, pure=None, without=None):
    """A wheel with these tags, empty files for its content, and ``library`` (bytes) as the kernels."""
    wheel = folder / f'mmmobilemamba-1.0-{tags}.whl'
    files = dict.fromkeys(check_wheel.SHIPPED, '')
    files.update(
        {f'{CPU}/{name}': (ROOT / CPU / name).read_text() for name in ('recipe.py', 'csrc/kernels.cpp')}
    )
    pure = library is None if pure is None else pure
    files['mmmobilemamba-1.0.dist-info/WHEEL'] = f'Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\n'
    if library is not None:
        files[check_wheel.LIBRARY] = library
    files.pop(without, None)
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel


@pytest.fixture
def kernels(tmp_path):
    """Bytes with the fingerprint of the only source file in :func:`make_wheel`."""
    with zipfile.ZipFile(make_wheel(tmp_path)) as archive:
        archive.extractall(tmp_path / 'unpacked')
    recipe = check_wheel.runpy.run_path(str(tmp_path / 'unpacked' / CPU / 'recipe.py'))
    return b'\x7fELF' + recipe['fingerprint']().encode()


def test_good_wheels(tmp_path, kernels):
    assert check_wheel.problems(make_wheel(tmp_path), kernels=False) == []
    assert check_wheel.problems(make_wheel(tmp_path, OTHER, kernels), kernels=True) == []


def test_tags(tmp_path, kernels):
    """Tags of one Python version, of any platform with kernels, and of one platform without kernels."""
    for tags, library in (('cp311-cp311-win_amd64', kernels), (PURE, kernels), (OTHER, None)):
        (problem,) = check_wheel.problems(make_wheel(tmp_path, tags, library))
        assert problem == f'its tags are {tags}, not py3-none-{"PLATFORM" if library else "any"}'
    (problem,) = check_wheel.problems(make_wheel(tmp_path, OTHER, kernels, pure=True))
    assert 'Root-Is-Purelib' in problem


def test_kernels(tmp_path, kernels):
    """Kernels that are missing, unexpected, built from other sources, or dependent on Python."""
    for library, tags, wanted, expected in (
        (None, PURE, True, 'it has no compiled kernels: see what the compiler said when it was built'),
        (kernels, OTHER, False, 'it has compiled kernels'),
        (b'\x7fELF', OTHER, True, 'was not built from the sources and flags beside it'),
        (kernels + b'libpython3.11.so', OTHER, True, 'depends on Python or torch'),
    ):
        (problem,) = check_wheel.problems(make_wheel(tmp_path, tags, library), wanted)
        assert problem.endswith(expected)


def test_a_library_for_this_machine_is_loaded(tmp_path, kernels):
    platform = sysconfig.get_platform().replace('-', '_').replace('.', '_')
    (problem,) = check_wheel.problems(make_wheel(tmp_path, f'py3-none-{platform}', kernels))
    assert problem.startswith(f'{check_wheel.LIBRARY} cannot be used here: ')


def test_missing_files(tmp_path, capsys):
    wheel = make_wheel(tmp_path, without='mmmobilemamba/py.typed')
    with pytest.raises(SystemExit) as stop:
        check_wheel.main([str(wheel)])
    assert stop.value.code == 1
    assert capsys.readouterr().out == f'{wheel.name}: mmmobilemamba/py.typed is missing\n'
