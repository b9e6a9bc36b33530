"""Imports the package for the API pages, without torch and OpenMMLab: they are mocked."""

import inspect
from importlib import import_module

from sphinx.ext.autodoc.mock import mock
from sphinx.util.inspect import signature, stringify_signature

MOCKED = (
    *('PIL', 'cv2', 'filelock', 'matplotlib', 'mmaction', 'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg'),
    *('modelindex', 'numpy', 'onnx', 'onnxruntime', 'safetensors', 'timm', 'torch', 'tqdm', 'triton'),
)
REGISTRIES = (
    *('HOOKS', 'MODELS', 'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'PARAM_SCHEDULERS', 'RUNNERS'),
    *('TRANSFORMS', 'VISUALIZERS'),
)
MODULES = ('check.whole', 'mmdet', 'mmpretrain', 'mmseg', 'utils.collect_env')


class Registry:
    """Hands back what it registers, as mocks do not."""

    def register_module(self, *args, **kwargs):
        return lambda registered: registered


def import_package():
    """Import what the API pages show; the modules stay, the mocks do not."""
    with mock(MOCKED):
        for name in ('torch', 'numpy'):
            import_module(name).__version__ = '2.12'  # which the package compares
        for name in REGISTRIES:
            setattr(import_module('mmengine.registry'), name, Registry())
        import_module('mmpretrain.registry').MODELS = Registry()
        for name in MODULES:
            import_module(f'mmmobilemamba.{name}')


def own_signature(app, what, name, cls, options, text, returns):
    """Signature of a class by its own ``__init__``, which a mocked base class hides (tuple), or None."""
    if what != 'class' or not inspect.isfunction(vars(cls).get('__init__')):
        return None
    shown = signature(cls.__init__, bound_method=True)
    return stringify_signature(shown, show_return_annotation=False, unqualified_typehints=True), None


def setup(app):
    import_package()
    app.connect('autodoc-process-signature', own_signature)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
