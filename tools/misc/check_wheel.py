"""Check the contents and platform tags of wheels of this package.

    python tools/misc/check_wheel.py --kernels dist/*.whl

Needs only Python. A wheel with compiled kernels must be tagged for one platform and every Python version, and
its kernels must be built from the sources in the wheel. A wheel without kernels must be tagged for all
platforms.
"""

import argparse
import ctypes
import runpy
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

LIBRARY = 'mmmobilemamba/ops/cpu/_kernels.so'
SHIPPED = (
    'mmmobilemamba/py.typed',
    'mmmobilemamba/weights/weights.json',
    'mmmobilemamba/ops/cpu/csrc/kernels.cpp',
    'mmmobilemamba/.mim/model-index.yml',
    'mmmobilemamba/.mim/tools/train.py',
    'mmmobilemamba/.mim/configs/mobilemamba/metafile.yml',
)


def tags_of(wheel):
    """Python, ABI and platform in a wheel's name (tuple[str, str, str]), and its version (str)."""
    _, version, *_, python, abi, platform = wheel.stem.split('-')
    return (python, abi, platform), version


def problems(wheel, kernels=None):
    """Problems of a wheel (list[str]).

    Args:
        wheel (Path): The file.
        kernels (bool, optional): Whether it must or must not contain compiled kernels; by default, either is
            accepted.
    """
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    (python, abi, platform), version = tags_of(wheel)
    found = [f'{name} is missing' for name in SHIPPED if name not in names]
    libraries = sorted(name for name in names if name.endswith(('.so', '.dylib', '.pyd')))
    if libraries not in ([], [LIBRARY]):
        found.append(f'compiled files are {libraries}, not {LIBRARY} alone')
    if kernels and not libraries:
        found.append('it has no compiled kernels: see what the compiler said when it was built')
    if kernels is False and libraries:
        found.append('it has compiled kernels')
    if (python, abi) != ('py3', 'none') or (platform == 'any') == bool(libraries):
        expected = 'py3-none-PLATFORM' if libraries else 'py3-none-any'
        found.append(f'its tags are {python}-{abi}-{platform}, not {expected}')
    metadata = archive.read(f'mmmobilemamba-{version}.dist-info/WHEEL').decode()
    if f'Root-Is-Purelib: {"false" if libraries else "true"}' not in metadata.splitlines():
        found.append('Root-Is-Purelib in its WHEEL does not agree with what is inside')
    if LIBRARY in names:
        found += problems_of_library(archive)
    return found


def problems_of_library(archive):
    """Problems of the compiled kernels in a wheel (list[str])."""
    content = archive.read(LIBRARY)
    with tempfile.TemporaryDirectory() as folder:
        for name in archive.namelist():
            if name.startswith('mmmobilemamba/ops/cpu/'):
                archive.extract(name, folder)
        recipe = runpy.run_path(str(Path(folder, 'mmmobilemamba/ops/cpu/recipe.py')))
        found = []
        if recipe['fingerprint']().encode() not in content:
            found.append(f'{LIBRARY} was not built from the sources and flags beside it')
        if b'PyInit_' in content or b'libpython' in content or b'libtorch' in content:
            found.append(f'{LIBRARY} depends on Python or torch')
        if is_for_here(archive.filename):
            try:
                ctypes.CDLL(str(Path(folder, LIBRARY))).mmmobilemamba_instruction_set()
            except (OSError, AttributeError) as error:
                found.append(f'{LIBRARY} cannot be used here: {error}')
    return found


def is_for_here(path):
    """Whether a wheel is for the system and processor of this machine, so its library can be loaded."""
    (_, _, platform), _ = tags_of(Path(path))
    system, _, machine = sysconfig.get_platform().partition('-')
    names = dict(linux=('linux', 'manylinux'), macosx=('macosx',)).get(system, ())
    return platform.startswith(names) and platform.endswith(machine.rpartition('-')[2])


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('wheels', type=Path, nargs='+', help='wheels to check')
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument('--kernels', action='store_true', default=None, help='require compiled kernels')
    choice.add_argument('--no-kernels', action='store_false', dest='kernels', help='forbid compiled kernels')
    args = parser.parse_args(argv)
    wrong = {wheel: problems(wheel, args.kernels) for wheel in args.wheels}
    for wheel, reasons in wrong.items():
        print(f'{wheel.name}: {"; ".join(reasons) or "good"}')
    sys.exit(any(wrong.values()))


if __name__ == '__main__':
    main()
