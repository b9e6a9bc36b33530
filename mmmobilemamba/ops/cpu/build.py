"""Find or build the CPU kernels, a plain shared library that depends on neither Python nor PyTorch.

Installing the package builds the library if there is a compiler (see setup.py). Otherwise it is built at
first use, into PyTorch's folder of extensions. Its name depends on the sources and the machine, so a newer
release never loads an older library.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from mmengine.logging import print_log

from .recipe import SOURCES, UNITS, fingerprint, flags

COMPILERS = ('c++', 'g++', 'clang++')
REMEDY = 'set TORCH_EXTENSIONS_DIR to a folder that can be written to and may hold programs'


class BuildError(RuntimeError):
    """The kernels cannot be built or loaded; the message gives the reason."""


def find_library() -> Path:
    """Path of the library, which is built if there is none for these sources (Path).

    Raises:
        BuildError: If the library cannot be found, read or built.
    """
    try:
        own = fingerprint().encode()
        for path in Path(__file__).parent.glob('_kernels*.so'):
            if own in path.read_bytes():
                return path
        library = cache_folder() / 'mmmobilemamba' / f'kernels-{platform.machine()}-{fingerprint()}.so'
        if not library.is_file():
            build(library)
    except OSError as error:
        raise BuildError(f'{error}; {REMEDY}') from error
    return library


def cache_folder() -> Path:
    """PyTorch's folder of extensions (Path).

    Raises:
        BuildError: If no environment variable names a folder and the user has no home folder.
    """
    named, cache = os.environ.get('TORCH_EXTENSIONS_DIR'), os.environ.get('XDG_CACHE_HOME')
    try:
        return Path(named) if named else Path(cache or Path.home() / '.cache') / 'torch_extensions'
    except RuntimeError as error:  # the user is not in the password database and $HOME is not set
        raise BuildError(f'this user has no home folder to build in; {REMEDY}') from error


def find_compiler() -> list[str]:
    """Command of a C++ compiler, from $CXX or the PATH (list[str]).

    Raises:
        BuildError: If there is none, or $CXX is not a valid command line.
    """
    named = os.environ.get('CXX', '').strip()
    if named:
        try:
            return [named] if shutil.which(named) else shlex.split(named)
        except ValueError as error:
            raise BuildError(f'$CXX is no command: {named!r}: {error}') from error
    found = next((name for name in COMPILERS if shutil.which(name)), None)
    if platform.system() == 'Windows' or found is None:
        raise BuildError(f'there is no C++ compiler (looked for $CXX, {", ".join(COMPILERS)})')
    return [found]


def build(library: Path) -> None:
    """Compile the library; the file appears only once it is complete and can be loaded.

    Args:
        library (Path): The file to write.

    Raises:
        BuildError: If there is no compiler, it fails, or its output cannot be loaded.
        OSError: If the folder cannot be written to.
    """
    compiler = find_compiler()
    print_log(f'Building the CPU kernels of mmmobilemamba once, in seconds, into {library}', 'current')
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        target = Path(folder) / library.name
        options = [*flags(), '-fPIC', '-shared', '-pthread', '-o', str(target)]
        command = [*compiler, *options, *(str(SOURCES / name) for name in UNITS)]
        environment = {**os.environ, 'TMPDIR': folder}  # the default may not be writable
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors='replace', env=environment)
        except OSError as error:
            raise BuildError(f'the C++ compiler {compiler[0]!r} cannot be run: {error}') from error
        if done.returncode or not target.is_file():
            reason = done.stderr.strip()[-1000:] or f'status {done.returncode}, and no library'
            raise BuildError(f'{shlex.join(command)} failed: {reason}')
        try:
            ctypes.CDLL(str(target))  # do not cache a library that a cross-compiler built
        except OSError as error:
            raise BuildError(
                f'{shlex.join(command)} made a library that cannot be loaded: {error}'
            ) from error
        target.replace(library)
