"""A Runner whose distributed and mixed precision training also works without a GPU."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..training_check_hook import FILTERED, check_iterations, check_not_empty


@RUNNERS.register_module()
class PortableRunner(Runner):
    """mmengine's Runner with CPU support for features that require a GPU in mmengine (0.10.7).

    - Distributed training: with ``--launcher pytorch``, mmengine selects a CUDA device regardless of the
      backend. This Runner starts a gloo process group and wraps the model for the CPU if there is no
      accelerator. Start the processes with torchrun or ``mim ... --gpus N``.
    - Mixed precision: AmpOptimWrapper, selected by ``--amp``, does not support CPUs. This Runner replaces it
      by :class:`CPUAmpOptimWrapper` (bfloat16) and logs the replacement.

    With or without a GPU, an empty dataset or an epoch without iterations raises an error that says what to
    change, before schedulers divide by its length.

    Example:
        >>> runner_type = 'PortableRunner'  # in a config, or after --cfg-options
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start a gloo process group on a CPU, then set up the environment as in mmengine."""
        if self.launcher == 'pytorch' and not is_distributed() and get_device() == 'cpu':
            start_gloo(**env_cfg.get('dist_cfg', {}))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model as in mmengine, but without ``device_ids`` on a CPU."""
        if self.distributed and get_device() == 'cpu':
            model_wrapper_cfg = cpu_wrapper(model_wrapper_cfg, self.cfg.get('find_unused_parameters', False))
        return super().wrap_model(model_wrapper_cfg, model)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop as in mmengine.

        Raises:
            ValueError: If an epoch has no iterations.
        """
        loop = super().build_train_loop(loop)
        check_iterations(loop.dataloader)
        return loop

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a dataloader as in mmengine.

        Raises:
            ValueError: If the dataset is empty.
        """
        try:
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        except ValueError as error:
            # NumPy's message when mmengine serialises an empty dataset.
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise ValueError(f'A dataset is empty: {dataloader["dataset"]}. {FILTERED}') from error
        check_not_empty(loader)
        return loader

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        """Build the optimizer wrapper as in mmengine; on a CPU, replace AmpOptimWrapper."""
        asked = optim_wrapper.get('type') if isinstance(optim_wrapper, dict) else None
        if getattr(asked, '__name__', asked) == 'AmpOptimWrapper' and get_device() == 'cpu':
            self.logger.info(
                'There is no GPU: CPUAmpOptimWrapper, in bfloat16, stands in for AmpOptimWrapper.'
            )
            kept = {key: value for key, value in optim_wrapper.items() if key not in ('loss_scale', 'dtype')}
            optim_wrapper = {**kept, 'type': 'CPUAmpOptimWrapper'}
        return super().build_optim_wrapper(optim_wrapper)


def start_gloo(backend: str | None = None, timeout: float | None = None, **kwargs: Any) -> None:
    """Start a gloo process group from torchrun's environment variables.

    Args:
        backend (str, optional): Ignored; it is the backend for GPUs.
        timeout (float, optional): Timeout in seconds, as in mmengine's ``dist_cfg``.
        **kwargs: Arguments of ``torch.distributed.init_process_group``.
    """
    if timeout is not None:
        kwargs['timeout'] = timedelta(seconds=timeout)
    distributed.init_process_group('gloo', **kwargs)


def cpu_wrapper(model_wrapper_cfg: dict | None = None, find_unused_parameters: bool = False) -> dict:
    """Return a ``model_wrapper_cfg`` for a CPU.

    Args:
        model_wrapper_cfg (dict, optional): The wrapper in the config. Defaults to mmengine's default wrapper.
        find_unused_parameters (bool): Setting of the default wrapper. Defaults to False.

    Returns:
        dict: The wrapper, with ``device_ids=None`` if it is a DistributedDataParallel without ``device_ids``.
    """
    wrapper: dict[str, Any] = dict(type='MMDistributedDataParallel')
    if model_wrapper_cfg is None:
        wrapper.update(broadcast_buffers=False, find_unused_parameters=find_unused_parameters)
    wrapper.update(model_wrapper_cfg or {})
    kind = wrapper['type']  # a class in Python-style configs
    if issubclass(MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind, DistributedDataParallel):
        wrapper.setdefault('device_ids', None)
    return wrapper
