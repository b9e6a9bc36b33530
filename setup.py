"""Install mmmobilemamba, with its configs and tools in ``mmmobilemamba/.mim``.

mim and mmengine look for configs, tools and the model index of a package in its ``.mim``
folder. OpenMMLab's own set-up scripts create that folder for ``develop``, ``sdist`` and
``bdist_wheel`` only, so a PEP 660 editable install lacks it. Here, a wheel gets copies, and an
editable install gets links and a metadata entry that lets mim find the package.

If there is a compiler, the CPU kernels are compiled. Otherwise, the installation continues without them;
they are built at first use if possible. They depend on neither Python nor torch, so a wheel with kernels
supports every Python on its platform (``py3-none-PLATFORM``), and one without supports every platform
(``py3-none-any``).
"""

import runpy
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # before setuptools 70.1
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
KERNELS = 'mmmobilemamba/ops/cpu'
SHIPPED = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """``build_py`` that adds the ``.mim`` folder."""

    def run(self):
        super().run()
        if getattr(self, 'editable_mode', False):
            self.link(ROOT / 'mmmobilemamba' / '.mim')
            self.locate(Path(self.get_finalized_command('install').install_lib))
        else:
            self.copy(Path(self.build_lib) / 'mmmobilemamba' / '.mim')

    @staticmethod
    def link(mim):
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir()
        for name in SHIPPED:
            (mim / name).symlink_to(Path('..', '..', name))

    @staticmethod
    def locate(wheel):
        # mim and mmengine look for a package at <site-packages>/<first line of top_level.txt>. A PEP 660
        # install has nothing there, but joining an absolute path replaces <site-packages>.
        found = list(wheel.glob('*.dist-info/top_level.txt'))
        if not found:
            raise RuntimeError(
                f'{wheel} has no *.dist-info/top_level.txt, by which mim would find an editable install. '
                f'Install with `pip install .`, or with setuptools 65 to 81.'
            )
        for path in found:
            path.write_text(f'{ROOT / "mmmobilemamba"}\nmmmobilemamba\n')

    @staticmethod
    def copy(mim):
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in SHIPPED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, mim / name, ignore=shutil.ignore_patterns('__pycache__', 'ort'))
            else:
                shutil.copyfile(source, mim / name)


class BuildKernels(build_ext):
    """``build_ext`` without the Python version in the file name."""

    def get_ext_filename(self, fullname):
        return f'{fullname.replace(".", "/")}.so'


class WheelOfPlatform(bdist_wheel):
    """``bdist_wheel`` for every Python: platform-specific with compiled kernels, else for all platforms."""

    def get_tag(self):
        library = Path(self.get_finalized_command('build').build_lib) / KERNELS / '_kernels.so'
        self.root_is_pure = not library.is_file()
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ('py3', 'none', platform)


def version():
    scope = {}
    exec((ROOT / 'mmmobilemamba' / 'version.py').read_text(), scope)
    return scope['__version__']


def requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


RECIPE = runpy.run_path(str(ROOT / KERNELS / 'recipe.py'))

# A plain shared library, loaded with ctypes and not imported.
kernels = Extension(
    f'{KERNELS}/_kernels'.replace('/', '.'),
    sources=[f'{KERNELS}/csrc/{name}' for name in RECIPE['UNITS']],
    depends=[str(path.relative_to(ROOT)) for path in (ROOT / KERNELS / 'csrc').glob('*.h')],
    extra_compile_args=[*RECIPE['flags'](), '-g0'],
    language='c++',
    optional=True,
)

setup(
    name='mmmobilemamba',
    version=version(),
    description='MobileMamba, a lightweight vision backbone, for every OpenMMLab codebase',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmmobilemamba', 'mmmobilemamba.*']),
    package_data={
        'mmmobilemamba': ['py.typed', 'configs/*/*.py', 'weights/*.json'],
        KERNELS.replace('/', '.'): ['csrc/*'],
    },
    ext_modules=[kernels],
    python_requires='>=3.9',
    install_requires=requirements('runtime'),
    extras_require={
        name: requirements(name)
        for name in ('lite', 'mminstall', 'optional', 'demo', 'deploy', 'tests', 'weights')
    },
    cmdclass={'build_py': BuildWithMim, 'build_ext': BuildKernels, 'bdist_wheel': WheelOfPlatform},
    zip_safe=False,
)
