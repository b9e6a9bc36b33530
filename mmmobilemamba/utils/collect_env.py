"""What a bug report needs to say about the machine and the installed packages.

    python -m mmmobilemamba.utils.collect_env

prints it, after what mmengine collects for every package of OpenMMLab.
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

# Distributions, some of which have several names.
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
    """Versions, the machine, and what computes the operations of this package here.

    Returns:
        dict[str, str]: Names as they are printed, and values in words. What cannot be found says so; nothing
        is raised for it.
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
    """Version of the first of some distributions that is installed (str), or that none is."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return 'not installed'


def describe_compiler() -> str:
    """The compiler that would build the kernels, in the first line of what it says about itself (str)."""
    try:
        command = find_compiler()
        done = subprocess.run([*command, '--version'], capture_output=True, text=True, check=True)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        return f'none that runs: {error}'
    first, *_ = done.stdout.splitlines() or ['says no version']
    return f'{" ".join(command)}: {first}'


def describe_kernels() -> str:
    """The library of C++ kernels with its instruction set and threads, or why there is none (str)."""
    reason = cpu.why_not()
    if reason is not None:
        return f'none: {reason}'
    _, best, parallel = cpu.load()
    threads = 'threads of its own' if parallel is None else "the threads of PyTorch's OpenMP"
    return f'{find_library()}, instruction set {cpu.INSTRUCTION_SETS[best]}, {threads}'


def describe_choice(operation: str, device: str) -> str:
    """What :func:`~mmmobilemamba.ops.select_backend` chooses in float32, and why nothing faster (str)."""
    choice = select_backend(device=device, operation=operation)
    reasons = '; '.join(f'not {name}: {reason}' for name, reason in choice.passed_over.items())
    return f'{choice.backend} ({reasons})' if reasons else choice.backend


def main() -> None:
    """Print one line for each entry."""
    print_log('\n'.join(f'{name}: {value}' for name, value in collect_env().items()))


if __name__ == '__main__':
    main()
