"""MobileMamba's classifiers in mmpretrain's model hub: importing this module enters them.

    >>> import mmmobilemamba.zoo
    >>> from mmpretrain import get_model, list_models
    >>> list_models('mobilemamba*')
    >>> model = get_model('mobilemamba-t2_8xb128_in1k', pretrained=True)  # the authors' weights

The hub is what ``get_model``, ``list_models``, ``inference_model`` and
``ImageClassificationInferencer`` look names up in. Needs mmpretrain, which the package itself does
not, so it is imported on request. Detectors and segmentors stay out: the hub builds classifiers.
"""

from pathlib import Path

from mmpretrain.apis.model import ModelHub
from modelindex.load_model_index import load

from .utils.configs import find_root

METAFILE = Path('configs', 'mobilemamba', 'metafile.yml')


def register_classifiers() -> None:
    """Enter the models of ``configs/mobilemamba/metafile.yml`` in mmpretrain's ``ModelHub``.

    Names that are there already, as after ``importlib.reload``, are left alone.

    Raises:
        FileNotFoundError: If the metafile is not where it was installed.
        ValueError: If another model has one of the names.
    """
    root = find_root()
    if not all(ModelHub.has(model.name.lower()) for model in load(str(root / METAFILE)).models):
        ModelHub.register_model_index(root / METAFILE, config_prefix=root)


register_classifiers()
