"""Several processes with or without a GPU."""

import torch
from mmengine.dist import is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed


@RUNNERS.register_module()
class PortableRunner(Runner):
    """mmengine's Runner, which also starts several processes where there is no GPU.

    With ``--launcher pytorch`` mmengine (0.10.7) selects a CUDA device before it starts the process group,
    and again when it wraps the model, whatever the backend, so a machine without a GPU stops it. There, this
    Runner starts a group of gloo and wraps the model for the CPU; with a GPU, or in one process, it is the
    Runner of mmengine. Launch the processes as for any other, with torchrun or ``mim ... --gpus N``.

    Source: ``torch.nn.parallel.DistributedDataParallel``, whose ``device_ids`` are None on a CPU.

    Example:
        >>> runner_type = 'PortableRunner'  # in a config, or after --cfg-options
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group if mmengine could not, then do as mmengine does."""
        if self.launcher == 'pytorch' and not is_distributed() and not torch.cuda.is_available():
            distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg, model):
        """As in mmengine, with a wrapper for the CPU where the config has none and there is no GPU."""
        if self.distributed and model_wrapper_cfg is None and not torch.cuda.is_available():
            model_wrapper_cfg = cpu_wrapper(self.cfg)
        return super().wrap_model(model_wrapper_cfg, model)


def cpu_wrapper(config) -> dict:
    """``model_wrapper_cfg`` on a CPU; all else is as in the wrapper that mmengine makes by itself.

    Args:
        config (Config): May set ``find_unused_parameters``.
    """
    return dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=config.get('find_unused_parameters', False),
    )
