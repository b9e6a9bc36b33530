"""Compilation by region: what repeats in a network is compiled once, the rest runs as it is.

Compiling a whole network takes minutes, as every block is traced and turned into kernels anew. The blocks of
a stage are alike, so that one compiled function, which takes the block as an argument, serves all of them.
Source: https://docs.pytorch.org/tutorials/recipes/regional_compilation.html.
"""

from collections.abc import Callable
from functools import wraps
from types import FunctionType

import torch
from torch import nn

from mmmobilemamba.ops.tracing import is_traced_or_transformed

# From here on a compiled function takes the parameters of modules as inputs, so that modules can share it.
FIRST_VERSION = (2, 5)


def compilable(method: Callable) -> Callable:
    """Let a method of a module run in the compiled form that :class:`Region` has set, if it has set one.

    The module's class has an attribute ``region``, which is None until then.
    """

    @wraps(method)
    def call(module, *inputs):
        region = module.region
        if region is None or not region.serves(module) or isinstance(inputs[0], torch.fx.Proxy):
            return method(module, *inputs)
        return region.run(module, *inputs)

    return call


class Region:
    """A method compiled once for modules that have the same structure and sizes.

    It holds nothing of the modules that it is set on: copies of a network share it.

    Args:
        owner (type): Class of the modules.
        name (str): Its method, which is :func:`compilable`.
        kind (str): Names these modules among others of the class, such as the stage that they are in.
        evaluation (bool): Compile in evaluation, too, instead of in training alone.
        options (dict): Of ``torch.compile``.

    Raises:
        RuntimeError: If this version of PyTorch cannot compile by region.
    """

    def __init__(self, owner, name, kind, evaluation, options):
        check_version()
        self.arguments = (owner, name, kind, evaluation, options)
        self.evaluation = evaluation
        method = getattr(owner, name).__wrapped__
        # PyTorch keeps compiled forms, and the record of which sizes have changed, by the code of a function
        # and its name. A copy for each kind keeps them apart.
        code = method.__code__.replace(co_name=f'{owner.__name__}_{name}_{kind}')
        function = FunctionType(code, method.__globals__, code.co_name, None, method.__closure__)
        self.run = torch.compile(function, **options)

    def serves(self, module: nn.Module) -> bool:
        """Whether to run the compiled form: not in a trace or an export, which compile for themselves."""
        return (module.training or self.evaluation) and not is_traced_or_transformed()

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return Region, self.arguments


def check_version() -> None:
    """Make sure that this PyTorch can compile by region.

    Raises:
        RuntimeError: If it is too old.
    """
    version = tuple(int(part) for part in torch.__version__.split('.')[:2])
    if version < FIRST_VERSION:
        raise RuntimeError(
            f'Compilation by region needs PyTorch {FIRST_VERSION[0]}.{FIRST_VERSION[1]} or newer, not '
            f'{torch.__version__}. Leave `compile` out, or update PyTorch.'
        )
