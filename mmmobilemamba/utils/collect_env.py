"""Collects information about the machine and the installed packages for bug reports.

    python -m mmmobilemamba.utils.collect_env

prints it, after the information that mmengine collects.
"""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch
from mmengine.logging import print_log
from mmengine.utils.dl_utils import collect_env as collect_base_env

from mmmobilemamba.ops import OPERATIONS, cpu, select_backend
from mmmobilemamba.ops.cpu.build import BuildError, find_compiler, find_library
from mmmobilemamba.utils.forks import FORKS
from mmmobilemamba.version import __version__
from mmmobilemamba.weights.files import MIRROR, weights_folder

# Names of the distributions of each package.
PACKAGES = {
    'MMCV': ('mmcv', 'mmcv-lite', FORKS['mmcv']),
    'MMDetection': ('mmdet', FORKS['mmdet']),
    'MMSegmentation': ('mmsegmentation', FORKS['mmsegmentation']),
    'MMPretrain': ('mmpretrain', FORKS['mmpretrain']),
    'timm': ('timm',),
    'gdown': ('gdown',),
    'NumPy': ('numpy',),
    'Triton': ('triton',),
    'ONNX': ('onnx',),
    'ONNX Runtime': ('onnxruntime', 'onnxruntime-gpu'),
}


def collect_env() -> dict[str, str]:
    """Collect versions, hardware, and the backends of this package's operations.

    Returns:
        dict[str, str]: Values by name. Missing components do not raise an error; their value says why they
        are missing.
    """
    env = {name: str(value) for name, value in collect_base_env().items()}
    env['mmmobilemamba'] = __version__
    env.update({name: installed_version(names) for name, names in PACKAGES.items()})
    env['Processor'] = f'{platform.machine()}, vectors for PyTorch: {torch.backends.cpu.get_cpu_capability()}'
    env['Threads'] = f'{torch.get_num_threads()} intra-op, {torch.get_num_interop_threads()} inter-op'
    env['Weights by name'] = f'{weights_folder()}; mirror: {os.environ.get(MIRROR, "none")}'
    env['C++ compiler'] = describe_compiler()
    env['C++ kernels'] = describe_kernels()
    for device in ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',):
        env.update({f'{name} on {device}': describe_choice(name, device) for name in OPERATIONS})
    return env


def installed_version(names: tuple[str, ...]) -> str:
    """Return the version of the first installed distribution, or ``'not installed'`` (str)."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return 'not installed'


def describe_compiler() -> str:
    """Return the C++ compiler and the first line of its ``--version``, or why there is none (str)."""
    try:
        command = find_compiler()
        done = subprocess.run([*command, '--version'], capture_output=True, text=True, check=True)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        return f'none that runs: {error}'
    first, *_ = done.stdout.splitlines() or ['says no version']
    return f'{" ".join(command)}: {first}'


def describe_kernels() -> str:
    """Return the C++ kernels' library, instruction set and threading, or why there are none (str)."""
    reason = cpu.why_not()
    if reason is not None:
        return f'none: {reason}'
    _, best, parallel = cpu.load()
    threads = 'threads of its own' if parallel is None else "the threads of PyTorch's OpenMP"
    return f'{find_library()}, instruction set {cpu.INSTRUCTION_SETS[best]}, {threads}'


def describe_choice(operation: str, device: str) -> str:
    """Return the backend selected for an operation in float32, and why not a faster one (str).

    Args:
        operation (str): One of ``OPERATIONS``.
        device (str): ``'cpu'`` or ``'cuda'``.
    """
    choice = select_backend(device=device, operation=operation)
    reasons = '; '.join(f'not {name}: {reason}' for name, reason in choice.passed_over.items())
    return f'{choice.backend} ({reasons})' if reasons else choice.backend


def main() -> None:
    """Print one line per entry."""
    print_log('\n'.join(f'{name}: {value}' for name, value in collect_env().items()))


if __name__ == '__main__':
    main()
