"""MobileMamba's classifiers in mmpretrain's model hub: importing this module registers them.

    >>> import mmmobilemamba.zoo
    >>> from mmpretrain import get_model, list_models
    >>> list_models('mobilemamba*')
    >>> model = get_model('mobilemamba-t2_8xb128_in1k', pretrained=True)  # the authors' weights

``get_model``, ``list_models``, ``inference_model`` and ``ImageClassificationInferencer`` look up names in
this hub. The module needs mmpretrain, which the package itself does not, so it has to be imported explicitly.
Detectors and segmentors are not registered, as the hub builds classifiers only.
"""

from pathlib import Path

from mmpretrain.apis.model import ModelHub
from modelindex.load_model_index import load

from .utils.configs import find_root

METAFILE = Path('configs', 'mobilemamba', 'metafile.yml')


def register_classifiers() -> None:
    """Register the models of ``configs/mobilemamba/metafile.yml`` in mmpretrain's ``ModelHub``.

    Does nothing if all names are already registered, for example after ``importlib.reload``.

    Raises:
        FileNotFoundError: If the installation lacks the metafile.
        ValueError: If another model has one of the names.
    """
    root = find_root()
    if not all(ModelHub.has(model.name.lower()) for model in load(str(root / METAFILE)).models):
        ModelHub.register_model_index(root / METAFILE, config_prefix=root)


register_classifiers()
