"""Which codebase of OpenMMLab a config is for."""

from __future__ import annotations

from mmengine.config import Config

CODEBASES = ('mmdet', 'mmseg', 'mmpretrain')


def codebase_of(config: Config) -> str | None:
    """One of ``CODEBASES``: the config's ``default_scope``, or else where its model is from; None if unknown.

    Configs in mmengine's pure Python style may have no ``default_scope``, as their types are classes
    (https://mmengine.readthedocs.io/en/latest/advanced_tutorials/config.html).
    """
    if config.get('default_scope'):
        return config.default_scope if config.default_scope in CODEBASES else None
    model = config.get('model') or {}
    for kind in (model.get('model_type'), model.get('type')):
        package = (kind if isinstance(kind, str) else getattr(kind, '__module__', '')).partition('.')[0]
        if package in CODEBASES:
            return package
    return None
