"""Correct configs of three codebases on the digits scenes, fast to check, and mistakes in them."""

import copy

from mmengine.config import Config

from mmmobilemamba.check.finding import config_lines, merge
from mmmobilemamba.check.schedule import GROUPS
from mmmobilemamba.check.whole import check_config

from ..conftest import ROOT
from ..helpers import SMALL

SGD = dict(_delete_=True, type='SGD', lr=1e-3, weight_decay=1e-4)
TWINS = dict(
    detector='retinanet/retinanet_mobilemamba-t2_fpn_2e_digits.py',
    segmentor='sem_fpn/mobilemamba-t2_fpn_1xb4-2k_digits-224x224.py',
    classifier='mobilemamba/mobilemamba-t2_1xb64-4e_digits-64px.py',
)
# Fast to check: few small images, a small network, no copies of the annotations, and a cheap optimizer.
QUICK = dict(train_dataloader=dict(dataset=dict(serialize_data=False)), optim_wrapper=dict(optimizer=SGD))
SHORT = dict(
    detector=dict(train_dataloader=dict(batch_size=8), param_scheduler=[]),
    segmentor=dict(train_dataloader=dict(batch_size=2), param_scheduler=[]),
    classifier=dict(train_dataloader=dict(batch_size=8), auto_scale_lr=dict(base_batch_size=8)),
)
NAMES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
DATASET = 'train_dataloader.dataset'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_twins():
    """Load the twins."""
    configs = {}
    for kind, path in TWINS.items():
        config = Config.fromfile(ROOT / 'configs' / path)
        config.merge_from_dict(copy.deepcopy(QUICK))
        config.merge_from_dict(copy.deepcopy(SHORT[kind]))
        config.model.backbone.update(arch=SMALL if kind != 'classifier' else 't2', init_cfg=None)
        configs[kind] = config
    return configs


def pasted(config, lines, folder):
    """Write a config and one that inherits it with additional lines, and read the latter."""
    base = folder / f'base_{len(list(folder.iterdir()))}.py'
    base.write_text(''.join(f'{key} = {value!r}\n' for key, value in config.to_dict().items()))
    path = base.with_name(f'mended_{base.name}')
    path.write_text('\n'.join([f'_base_ = {base.name!r}', *lines]) + '\n')
    return Config.fromfile(path)


class Check:
    """Checks twins with changes; ``again`` pastes the lines of the findings and checks again."""

    def __init__(self, twins, folder):
        self.twins, self.folder = twins, folder

    def __call__(self, kind='detector', checkpoint=None, gpus=1, tests=False, **changes):
        """Return the findings other than 'ok'; the test datasets are checked on request."""
        self.config = copy.deepcopy(self.twins[kind])
        for name in [] if tests else [*GROUPS['val'], *GROUPS['test']]:
            self.config.pop(name)
        for key, value in changes.items():
            self.config.merge_from_dict({key.replace('__', '.'): value})
        return self.run(checkpoint, gpus)

    def run(self, checkpoint=None, gpus=1):
        report = check_config(self.config, checkpoint, gpus)
        findings = [finding for finding in report.findings if finding.level != 'ok']
        assert report.failed == any(finding.level == 'error' for finding in findings)
        return findings

    def again(self, findings):
        """Return the findings other than 'ok' with the lines of others pasted into an inheriting config."""
        lines = config_lines(merge(finding.mend for finding in findings))
        assert lines
        self.config = pasted(self.config, lines, self.folder)
        return self.run()
