"""Compilation by region: repeated modules of a network are compiled once, and the rest is not compiled.

Compiling a whole network takes minutes, as every block is traced and lowered separately. The blocks of a
stage have the same structure, so one compiled function, with the block as an argument, works for all of them.
Source: https://docs.pytorch.org/tutorials/recipes/regional_compilation.html.
"""

from collections.abc import Callable
from functools import wraps
from types import FunctionType

import torch
from torch import nn

from mmmobilemamba.ops.tracing import is_traced_or_transformed

# Since this version, parameters are inputs of a compiled function, so modules can share it.
FIRST_VERSION = (2, 5)


def compilable(method: Callable) -> Callable:
    """Decorate a method of a module to run in its compiled form if ``module.region`` is set.

    The class of the module needs an attribute ``region``: a :class:`Region`, or None to run uncompiled.
    """

    @wraps(method)
    def call(module, *inputs):
        region = module.region
        if region is None or not region.serves(module) or isinstance(inputs[0], torch.fx.Proxy):
            return method(module, *inputs)
        return region.run(module, *inputs)

    return call


class Region:
    """A method compiled once for all modules with the same structure and sizes.

    It has no references to modules, so copies of a network share it.

    Args:
        owner (type): Class of the modules.
        name (str): Name of a :func:`compilable` method of the class.
        kind (str): Distinguishes these modules from others of the class, such as the name of their stage.
        evaluation (bool): Also run the compiled form in evaluation, not only in training.
        options (dict): Arguments of ``torch.compile``.

    Raises:
        RuntimeError: If this version of PyTorch cannot compile by region.
    """

    def __init__(self, owner, name, kind, evaluation, options):
        check_version()
        self.arguments = (owner, name, kind, evaluation, options)
        self.evaluation = evaluation
        method = getattr(owner, name).__wrapped__
        # PyTorch caches compiled forms, and which sizes have changed, by the code object of a function and
        # its name. A copy for each kind separates them.
        code = method.__code__.replace(co_name=f'{owner.__name__}_{name}_{kind}')
        function = FunctionType(code, method.__globals__, code.co_name, None, method.__closure__)
        self.run = torch.compile(function, **options)

    def serves(self, module: nn.Module) -> bool:
        """Whether to run the compiled form (bool); False in a trace, export or compilation of the network."""
        return (module.training or self.evaluation) and not is_traced_or_transformed()

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Region, self.arguments


def check_version() -> None:
    """Check that this version of PyTorch can compile by region.

    Raises:
        RuntimeError: If it is older than ``FIRST_VERSION``.
    """
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < FIRST_VERSION:
        raise RuntimeError(
            f'Compilation by region needs PyTorch {FIRST_VERSION[0]}.{FIRST_VERSION[1]} or newer, not '
            f'{torch.__version__}. Leave `compile` out, or update PyTorch.'
        )
