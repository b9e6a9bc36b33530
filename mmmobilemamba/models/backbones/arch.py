"""Former location of ``mmmobilemamba.models.arch``, kept for imports."""

from ..arch import ARCH_FIELDS, ARCHS, resolve_arch, resolve_out_indices, stage_splits

__all__ = ['ARCHS', 'ARCH_FIELDS', 'resolve_arch', 'resolve_out_indices', 'stage_splits']
