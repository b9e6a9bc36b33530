"""Find or build the CPU kernels: a plain shared library, which knows neither Python nor PyTorch.

Installing the package builds it if there is a compiler (see setup.py). Otherwise it is built at
first use, into the folder where PyTorch keeps extensions, under a name that depends on the sources
and the machine, so that a newer release never loads an older library.
"""

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from mmengine.logging import print_log

from .recipe import SOURCES, fingerprint, flags

COMPILERS = ('c++', 'g++', 'clang++')


class BuildError(RuntimeError):
    """The kernels cannot be built; the message says why."""


def find_library() -> Path:
    """Path of the library, built if it must be.

    Raises:
        BuildError: If it has to be built and cannot be.
    """
    own = fingerprint().encode()
    for path in Path(__file__).parent.glob('_kernels*.so'):
        if own in path.read_bytes():
            return path
    library = cache_folder() / 'mmmobilemamba' / f'kernels-{platform.machine()}-{fingerprint()}.so'
    if not library.is_file():
        build(library)
    return library


def cache_folder() -> Path:
    """Where PyTorch keeps extensions (Path)."""
    named = os.environ.get('TORCH_EXTENSIONS_DIR')
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(named) if named else Path(cache) / 'torch_extensions'


def find_compiler() -> list[str]:
    """The command of a C++ compiler (list[str]): $CXX, or what is on the PATH.

    Raises:
        BuildError: If there is none.
    """
    named = os.environ.get('CXX')
    if named:
        return shlex.split(named)
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if platform.system() == 'Windows' or found is None:
        raise BuildError(f'there is no C++ compiler (looked for $CXX, {", ".join(COMPILERS)})')
    return [found]


def build(library: Path) -> None:
    """Compile into ``library`` (Path), which appears only when it is complete.

    Raises:
        BuildError: If that fails.
    """
    compiler = find_compiler()
    print_log(f'Building the CPU kernels of mmmobilemamba once, in seconds, into {library}', 'current')
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            target = Path(folder) / library.name
            options = [*flags(), '-fPIC', '-shared', '-pthread', '-o', str(target)]
            command = [*compiler, *options, str(SOURCES / 'kernels.cpp')]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise BuildError(f'{shlex.join(command)} failed: {done.stderr.strip()[-1000:]}')
            target.replace(library)
    except OSError as error:
        raise BuildError(str(error)) from error
