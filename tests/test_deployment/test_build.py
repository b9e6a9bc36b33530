"""What an exported file says of itself."""

import subprocess
import sys

import pytest

from ..conftest import ROOT

SAY = 'from mmmobilemamba.deployment import build; print(build.labels_of(build.read_config({!r}))[:2])'


@pytest.mark.parametrize(
    ('codebase', 'config', 'labels'),
    [
        ('mmpretrain', 'mobilemamba/mobilemamba-t2_8xb128_in1k.py', ['tench, Tinca tinca', 'goldfish']),
        ('mmdet', 'retinanet/retinanet_mobilemamba-b1_fpn_1x_coco.py', ['person', 'bicycle']),
        ('mmseg', 'pspnet/mobilemamba-b4_pspnet_4xb8-80k_ade20k-512x512.py', ['wall', 'building']),
    ],
)
def test_labels_of_datasets(codebase, config, labels):
    """In a process of its own, where nothing has imported the codebase's datasets yet."""
    pytest.importorskip(codebase)
    command = [sys.executable, '-W', 'ignore', '-c', SAY.format(str(ROOT / 'configs' / config))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(label in said for label in labels)
