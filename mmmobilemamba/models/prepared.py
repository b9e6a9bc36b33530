"""What prepared networks have in common: they hold what is of this process alone, such as addresses."""

from torch import nn

REMEDY = 'Do that with the network that it was made from, and prepare it again.'


class PreparedModule(nn.Module):
    """Base of modules that cannot leave the process.

    Attributes:
        maker (str): The function that makes them, for messages.

    Raises:
        RuntimeError: When it is to be moved, converted, saved or loaded into.
    """

    maker = 'prepare_for_inference'

    def _apply(self, *args, **kwargs):
        raise RuntimeError(f'A network from {self.maker} cannot be moved or converted. {REMEDY}')

    def _save_to_state_dict(self, *args, **kwargs):  # which a network that is loaded into asks first
        raise RuntimeError(f'A network from {self.maker} cannot be saved or loaded into. {REMEDY}')

    def _load_from_state_dict(self, *args, **kwargs):
        raise RuntimeError(f'A network from {self.maker} cannot be saved or loaded into. {REMEDY}')
