"""Base class of modules in prepared networks, whose state is valid in this process only."""

from torch import nn

REMEDY = 'Do that with the network that it was made from, and prepare it again.'


class PreparedModule(nn.Module):
    """Base class of modules that cannot be moved, converted, saved or loaded into.

    Attributes:
        maker (str): The function that made the module, for error messages.

    Raises:
        RuntimeError: On ``to`` and its like, ``state_dict`` and ``load_state_dict``.
    """

    maker = 'prepare_for_inference'

    def _apply(self, *args, **kwargs):
        raise RuntimeError(f'A network from {self.maker} cannot be moved or converted. {REMEDY}')

    def _save_to_state_dict(self, *args, **kwargs):  # also called when a backbone loads weights
        raise RuntimeError(f'A network from {self.maker} cannot be saved or loaded into. {REMEDY}')

    def _load_from_state_dict(self, *args, **kwargs):
        raise RuntimeError(f'A network from {self.maker} cannot be saved or loaded into. {REMEDY}')
