"""Initialisation of the backbone as mmengine initialisers, which log the initialiser of each parameter."""

from mmengine.model import update_init_info

from ..checkpoint import load_pretrained


class MobileMambaInit:
    """The paper's initialisation, with zero residual branches. Source: https://arxiv.org/abs/2411.15941."""

    def __call__(self, module):
        """Reset the parameters of a module and all its submodules."""
        for part in module.modules():
            if hasattr(part, 'reset_parameters'):
                part.reset_parameters()
        for part in module.modules():
            if hasattr(part, 'zero_init_residuals'):
                part.zero_init_residuals()
        update_init_info(module, init_info=f'Initialized by {type(self).__name__}, as in the paper')


class MobileMambaPretrainedInit:
    """Initialisation from a checkpoint, which must match completely.

    Args:
        **kwargs: Arguments of :func:`~mmmobilemamba.models.checkpoint.load_pretrained`, except ``backbone``.
    """

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def __call__(self, module):
        """Load the checkpoint into a backbone.

        Raises:
            FileNotFoundError: If the file does not exist.
            CheckpointError: If the file cannot be read or does not match completely.
        """
        load_pretrained(module, **self.kwargs)
        update_init_info(module, init_info=f'Loaded from {self.kwargs["checkpoint"]}')
