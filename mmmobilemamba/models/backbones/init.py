"""Initialisation of the backbone as mmengine's initialisers, whose log says what changed which parameter."""

from mmengine.model import update_init_info

from ..checkpoint import load_pretrained


class MobileMambaInit:
    """The paper's initialisation, in which every residual branch starts at zero."""

    def __call__(self, module):
        """Draw the parameters of a module and all that is in it anew."""
        for part in module.modules():
            if hasattr(part, 'reset_parameters'):
                part.reset_parameters()
        for part in module.modules():
            if hasattr(part, 'zero_init_residuals'):
                part.zero_init_residuals()
        update_init_info(module, init_info=f'Initialized by {type(self).__name__}, as in the paper')


class MobileMambaPretrainedInit:
    """A checkpoint that must fit completely.

    Args:
        **kwargs: Of :func:`~mmmobilemamba.models.checkpoint.load_pretrained`.
    """

    def __init__(self, **kwargs):
        self.kwargs = kwargs

    def __call__(self, module):
        """Load it into a backbone.

        Raises:
            FileNotFoundError: If there is no such file.
            CheckpointError: If it cannot be read or does not fit completely.
        """
        load_pretrained(module, **self.kwargs)
        update_init_info(module, init_info=f'Loaded from {self.kwargs["checkpoint"]}')
