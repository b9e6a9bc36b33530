"""Necks for mmdet; a config that uses one imports this module through ``custom_imports``."""

from .deconv_fpn import DeconvFPN

__all__ = ['DeconvFPN']
