"""The same training with and without a GPU: several processes, and mixed precision."""

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
    """mmengine's Runner, which also does on a CPU what mmengine (0.10.7) does on a GPU only.

    - With ``--launcher pytorch`` mmengine selects a CUDA device before it starts the process group, and
      again when it wraps the model, whatever the backend. Here, a machine without an accelerator gets a
      group of gloo and a wrapper for the CPU. Start the processes with torchrun or ``mim ... --gpus N``.
    - AmpOptimWrapper, which ``--amp`` selects, refuses a CPU. Here, :class:`CPUAmpOptimWrapper` takes its
      place, with bfloat16, and the log says so.

    Everywhere, an epoch without iterations and a dataset without images are errors that say what to change,
    before schedulers that divide by them are built.

    Example:
        >>> runner_type = 'PortableRunner'  # in a config, or after --cfg-options
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group if mmengine could not, then do as mmengine does."""
        if self.launcher == 'pytorch' and not is_distributed() and get_device() == 'cpu':
            start_gloo(**env_cfg.get('dist_cfg', {}))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """As in mmengine; on a CPU, without the device that mmengine would add."""
        if self.distributed and get_device() == 'cpu':
            model_wrapper_cfg = cpu_wrapper(model_wrapper_cfg, self.cfg.get('find_unused_parameters', False))
        return super().wrap_model(model_wrapper_cfg, model)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """As in mmengine.

        Raises:
            ValueError: If there is no iteration in an epoch.
        """
        loop = super().build_train_loop(loop)
        check_iterations(loop.dataloader)
        return loop

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """As in mmengine.

        Raises:
            ValueError: If the dataset has no image.
        """
        try:
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        except ValueError as error:
            # What numpy says when mmengine serialises a dataset without entries.
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise ValueError(f'A dataset is empty: {dataloader["dataset"]}. {FILTERED}') from error
        check_not_empty(loader)
        return loader

    def build_optim_wrapper(self, optim_wrapper: dict | OptimWrapper) -> OptimWrapper:
        """As in mmengine; on a CPU, with its own kind of mixed precision."""
        asked = optim_wrapper.get('type') if isinstance(optim_wrapper, dict) else None
        if getattr(asked, '__name__', asked) == 'AmpOptimWrapper' and get_device() == 'cpu':
            self.logger.info(
                'There is no GPU: CPUAmpOptimWrapper, in bfloat16, stands in for AmpOptimWrapper.'
            )
            kept = {key: value for key, value in optim_wrapper.items() if key not in ('loss_scale', 'dtype')}
            optim_wrapper = {**kept, 'type': 'CPUAmpOptimWrapper'}
        return super().build_optim_wrapper(optim_wrapper)


def start_gloo(backend: str | None = None, timeout: float | None = None, **kwargs: Any) -> None:
    """Start a process group of gloo, as torchrun's environment variables say.

    Args:
        backend (str, optional): Not used; it is that of a machine with GPUs.
        timeout (float, optional): Seconds, as in mmengine's ``dist_cfg``.
        **kwargs: Those of ``torch.distributed.init_process_group``.
    """
    if timeout is not None:
        kwargs['timeout'] = timedelta(seconds=timeout)
    distributed.init_process_group('gloo', **kwargs)


def cpu_wrapper(model_wrapper_cfg: dict | None = None, find_unused_parameters: bool = False) -> dict:
    """A ``model_wrapper_cfg`` for a CPU.

    Args:
        model_wrapper_cfg (dict, optional): What a config says; it is kept. Without it, the wrapper is the one
            that mmengine makes by itself.
        find_unused_parameters (bool): What a config without a wrapper says. Defaults to False.

    Returns:
        dict: The same with ``device_ids=None`` if it is a DistributedDataParallel.
    """
    wrapper: dict[str, Any] = dict(type='MMDistributedDataParallel')
    if model_wrapper_cfg is None:
        wrapper.update(broadcast_buffers=False, find_unused_parameters=find_unused_parameters)
    wrapper.update(model_wrapper_cfg or {})
    kind = wrapper['type']  # a class in configs of mmengine's pure Python style
    if issubclass(MODEL_WRAPPERS.get(kind) if isinstance(kind, str) else kind, DistributedDataParallel):
        wrapper.setdefault('device_ids', None)
    return wrapper
