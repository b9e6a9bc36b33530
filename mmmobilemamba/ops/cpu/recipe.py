"""How the CPU kernels are compiled, for setup.py and for first use; needs nothing but Python."""

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / 'csrc'
FLAGS = ('-O3', '-std=c++17', '-fno-math-errno', '-Wno-psabi')


def fingerprint() -> str:
    """16 hexadecimal digits of sources and flags, by which a library of other sources is told apart."""
    parts = [*FLAGS, *(path.read_text(encoding='utf-8') for path in sorted(SOURCES.iterdir()))]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def flags() -> list[str]:
    """Flags of the compiler (list[str]); one puts the fingerprint into the library."""
    return [*FLAGS, f'-DFINGERPRINT="{fingerprint()}"']
