"""Sources and compiler flags of the CPU kernels, shared with setup.py; needs only Python."""

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / 'csrc'
UNITS = ('kernels.cpp', 'onnx_operators.cpp')  # compiled into one library
FLAGS = ('-O3', '-std=c++17', '-fno-math-errno', '-fvisibility=hidden', '-Wno-psabi')


def fingerprint() -> str:
    """Hash of sources and flags, 16 hexadecimal digits, that identifies a library (str)."""
    parts = [*FLAGS, *(path.read_text(encoding='utf-8') for path in sorted(SOURCES.iterdir()))]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def flags() -> list[str]:
    """Flags of the compiler (list[str]), with one that embeds the fingerprint in the library."""
    return [*FLAGS, f'-DFINGERPRINT="{fingerprint()}"']
