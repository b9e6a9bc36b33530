"""The sizes of the family under the name that they had; see ``mmmobilemamba.models.arch``."""

from ..arch import ARCH_FIELDS, ARCHS, resolve_arch, resolve_out_indices, stage_splits

__all__ = ['ARCHS', 'ARCH_FIELDS', 'resolve_arch', 'resolve_out_indices', 'stage_splits']
