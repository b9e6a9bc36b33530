"""Converts a program of ``torch.export`` to LiteRT.

    python to_litert.py IN.pt2 OUT.tflite PRECISION

Runs in the environment of :mod:`.litert`, without importing this package.
"""

import sys

import litert_torch
import torch
from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager
from torch.overrides import TorchFunctionMode

ALGORITHMS = algorithm_manager.AlgorithmName
STORAGE = dict(float16=(16, ALGORITHMS.FLOAT_CASTING), int8=(8, ALGORITHMS.MIN_MAX_UNIFORM_QUANT))
CONVOLUTIONS = ('CONV_2D', 'DEPTHWISE_CONV_2D')


class Keep(TorchFunctionMode):
    """Keeps references to the results of ``contiguous``.

    litert-torch 0.10.0 identifies constants by their addresses. It does not keep the contiguous copies it
    makes of some of them, so a later copy can reuse an address and is then confused with the earlier
    constant. Source: https://github.com/google-ai-edge/litert-torch/issues/1061
    """

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.Tensor.contiguous:
            self.kept.append(result)
        return result


def main(source: str, out: str, precision: str) -> None:
    """Convert a file."""
    program = torch.export.load(source)
    with Keep(), torch.no_grad():
        model = litert_torch.convert(program.module(), program.example_inputs[0])
    model.export(out)
    if precision != 'float32':
        reduce_weights(out, precision)


def reduce_weights(path: str, precision: str) -> None:
    """Store the weights of convolutions in fewer bits; the computation stays in float32.

    Args:
        path (str): A LiteRT file, which is overwritten.
        precision (str): One of the keys of ``STORAGE``.
    """
    recipe = recipe_manager.RecipeManager()
    bits, algorithm = STORAGE[precision]
    for operation in CONVOLUTIONS:
        kind = qtyping.TFLOperationName(operation)
        recipe.add_weight_only_config('.*', kind, bits, algorithm_key=algorithm)
    tool = quantizer.Quantizer(path, recipe.get_quantization_recipe())
    tool.quantize().export_model(path, overwrite=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
