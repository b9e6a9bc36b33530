"""Prepares a network for inference on a GPU: deployed, compiled, in reduced precision, as CUDA graphs."""

from __future__ import annotations

import copy
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .backbones import MobileMamba
from .backbones.region import check_version
from .deploy import deploy
from .prepared import PreparedModule

WARMUP = 3  # calls before a capture, for compilation and the choice of kernels
# Least compute capability for each dtype, in the order of preference.
CAN_COMPUTE = {torch.bfloat16: (8, 0), torch.float16: (5, 3), torch.float32: (0, 0)}


def prepare_for_gpu(
    model: nn.Module,
    image: Tensor,
    dtype: torch.dtype | None = None,
    compile: bool = True,
    max_graphs: int = 8,
) -> GraphedNetwork:
    """Copy a network and optimise the copy for inference on this GPU, with a CUDA graph per image size.

    The copy is deployed (``switch_to_deploy``), in evaluation mode and without gradients. Its memory format
    is the one measured to be faster: channels-last for dtypes that use tensor cores, TF32 included. It
    computes in ``dtype`` and returns tensors in the dtype of the image. Sizes beyond the first ``max_graphs``
    run without graphs. The copy cannot be moved, converted or saved, and checkpoints cannot be loaded into
    it: do that with the original network. For the speedup, see docs/performance.md.

    Args:
        model (nn.Module): A network on a GPU, called with an image only, such as a backbone. It is not
            changed. Its forward pass must not synchronise with the CPU, as the NMS of detectors does.
        image (Tensor): An example input of the wanted size on the same GPU, (N, C, H, W). Its graph is
            captured at once.
        dtype (torch.dtype, optional): ``torch.bfloat16``, ``torch.float16`` or ``torch.float32``. Defaults to
            None: bfloat16, or float16 if the GPU has no bfloat16, or else float32.
        compile (bool): Compile MobileMamba by region, and networks without it as a whole. This takes tens of
            seconds for each size. Defaults to True.
        max_graphs (int): Number of sizes to capture; each graph keeps its activations in memory. Defaults to
            8.

    Returns:
        nn.Module: The prepared copy.

    Raises:
        RuntimeError: If there is no GPU, or PyTorch is older than 2.5 and ``compile`` is True.
        ValueError: If network and image are not on the same GPU, the image is not (N, C, H, W), or the GPU
            does not support ``dtype``.
    """
    if not torch.cuda.is_available():
        raise RuntimeError('PyTorch sees no GPU of NVIDIA here. prepare_for_cpu is for CPUs.')
    places = {str(tensor.device) for tensor in (image, *model.parameters(), *model.buffers())}
    if len(places) > 1 or image.device.type != 'cuda':
        raise ValueError(
            f'Network and image must be on one GPU, not on {sorted(places)}: call .cuda() on both.'
        )
    if image.ndim != 4:
        raise ValueError(f'The image must be (N, C, H, W), but has shape {tuple(image.shape)}.')
    dtype = choose_dtype(dtype, torch.cuda.get_device_capability(image.device))
    model = copy.deepcopy(model).eval().requires_grad_(False)
    deploy(model)
    multiplies = dtype != torch.float32 or torch.backends.cudnn.allow_tf32
    memory_format = torch.channels_last if multiplies else torch.contiguous_format
    model = model.to(dtype=dtype, memory_format=memory_format)
    if compile:
        model = compile_for_inference(model)
    prepared = GraphedNetwork(model, dtype, memory_format, max_graphs)
    prepared(image)
    return prepared


def choose_dtype(dtype: torch.dtype | None, capability: tuple[int, int]) -> torch.dtype:
    """Choose the dtype of inference.

    Args:
        dtype (torch.dtype | None): The wanted dtype, or None for the fastest.
        capability (tuple[int, int]): Compute capability of the GPU.

    Returns:
        torch.dtype: The dtype.

    Raises:
        ValueError: If the GPU does not support ``dtype``.
    """
    able = [name for name, needed in CAN_COMPUTE.items() if capability >= needed]
    if dtype is None:
        return able[0]
    if dtype not in able:
        raise ValueError(
            f'dtype must be one of {able} on this GPU, of compute capability {capability}, not {dtype}.'
        )
    return dtype


def compile_for_inference(model: nn.Module) -> nn.Module:
    """Compile every MobileMamba in a network by region, or else the whole network, separately per size."""
    backbones = [module for module in model.modules() if isinstance(module, MobileMamba)]
    for backbone in backbones:
        backbone.compile_regions(evaluation=True, dynamic=False)
    if not backbones:
        check_version()
        model = torch.compile(model, dynamic=False)
    return model


class GraphedNetwork(PreparedModule):
    """A network that runs as one CUDA graph per image size, captured when the size first occurs.

    Args:
        network (nn.Module): In evaluation mode, on a GPU.
        dtype (torch.dtype): Dtype of its inputs.
        memory_format (torch.memory_format): Memory format of its inputs.
        max_graphs (int): Number of sizes to capture.
    """

    maker = 'prepare_for_gpu'

    def __init__(self, network, dtype, memory_format, max_graphs):
        super().__init__()
        self.network, self.dtype, self.memory_format = network, dtype, memory_format
        self.max_graphs, self.graphs, self.lock = max_graphs, {}, Lock()

    def __getstate__(self):
        raise RuntimeError(
            f'A network from {self.maker} cannot be copied. Prepare the network that it was made from again.'
        )

    def extra_repr(self) -> str:
        """Dtype, memory format and captured sizes (str)."""
        return f'dtype={self.dtype}, memory_format={self.memory_format}, sizes={sorted(self.graphs)}'

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Any:
        """Image (N, C, H, W) of any floating dtype -> outputs of the network, in that dtype."""
        size = tuple(image.shape)
        with self.lock:  # all calls share the memory of the graph
            if size not in self.graphs and len(self.graphs) < self.max_graphs:
                self.graphs[size] = Graph(self.network, self.convert(image))
            graph = self.graphs.get(size)
            out = graph(image) if graph else self.network(self.convert(image))
            return pytree.tree_map_only(Tensor, partial(copy_as, image.dtype), out)

    def convert(self, image: Tensor) -> Tensor:
        """A copy of an image in the dtype and memory format of the network."""
        return image.to(self.dtype, memory_format=self.memory_format, copy=True)


def copy_as(dtype: torch.dtype, x: Tensor) -> Tensor:
    """A copy of a tensor, cast to ``dtype`` if it is floating-point."""
    return x.to(dtype, copy=True) if x.is_floating_point() else x.clone()


class Graph:
    """CUDA graph of a network for one image size.

    Args:
        network (nn.Module): In evaluation mode, on a GPU.
        image (Tensor): Static input of the graph, into which later images are copied.
    """

    def __init__(self, network, image):
        self.image, self.graph = image, torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(image.device)
        stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                network(image)
        torch.cuda.current_stream(image.device).wait_stream(stream)
        with torch.cuda.graph(self.graph):
            self.out = network(image)

    def __call__(self, image):
        """Replay the graph on an image. The next call overwrites the returned outputs."""
        self.image.copy_(image)
        self.graph.replay()
        return self.out
