"""Necks for mmdet; ``mmmobilemamba.mmdet`` imports this module."""

from .deconv_fpn import DeconvFPN

__all__ = ['DeconvFPN']
