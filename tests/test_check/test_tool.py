"""``mim run mmmobilemamba check``: table or JSON, and exit status."""

import json
import re
from pathlib import Path

import pytest
import torch

from mmmobilemamba import MobileMamba

from ..commands import run
from ..conftest import ROOT, load_script
from ..helpers import needs_torch
from ..pages import blocks
from .stock import swapped

pytest.importorskip('mmdet')

tool = load_script('tools/misc/check.py')
NAME = 'retinanet_mobilemamba-t2_fpn_2e_digits'
# The test data are few images.
SMALL = ['--cfg-options', 'train_dataloader.dataset.serialize_data=False', 'param_scheduler=[]']


def test_table(scenes, monkeypatch, capsys):
    monkeypatch.chdir(scenes)
    assert tool.main([NAME, *SMALL]) == 0
    head, *table, end = capsys.readouterr().out.splitlines()
    assert head.endswith(f'configs/retinanet/{NAME}.py: RetinaNet')
    assert end == '0 errors, 0 warnings.'
    levels = [line.split()[:2] for line in table if line[:1].strip()]
    assert {level for level, _ in levels} == {'ok'}
    expected = ['strides', 'sides', 'kernels', 'init_cfg', 'data', 'loss', 'schedule', 'lr', 'data', 'data']
    assert [subject for _, subject in levels] == expected
    assert 'ok       strides      bbox_head has strides 8, 16, 32, 64, 128, as do its maps.' in table


def test_what_is_wrong(tmp_path, scenes, capsys):
    assert tool.main([str(swapped('faster_rcnn', tmp_path, scenes))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        'error    strides      rpn_head has strides 4, 8, 16, 32, 64, but its maps have 16, 32, 64, 128, 256.'
    )
    start = next(index for index, line in enumerate(lines) if 'Give the heads the maps' in line)
    assert [line.strip() for line in lines[start + 1 : start + 10]] == [
        "custom_imports = dict(imports=['mmmobilemamba.mmdet'])",
        'model = dict(',
        "neck=dict(_delete_=True, type='DeconvFPN', in_channels=[144, 272, 368], out_channels=256, "
        'num_outs=5, num_extra_trans_convs=2),',
        ')',
        'Alternatively, if finer maps cost too much:',
        'model = dict(',
        'rpn_head=dict(anchor_generator=dict(strides=[16, 32, 64, 128, 256])),',
        'roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[16, 32, 64, 128])),',
        ')',
    ]
    assert any(line.startswith('warning  classes') for line in lines)  # the config still has COCO's 80
    assert lines[-1] == '2 errors, 3 warnings.'


def test_lines_together(tmp_path, scenes, capsys):
    """The config lines of all findings are merged, because a later line would replace an earlier one."""
    path = swapped('yolox', tmp_path, scenes)
    assert tool.main([str(path)]) == 1
    _, _, together = capsys.readouterr().out.partition('as a config in the same folder:\n\n')
    lines = together.splitlines()[:-2]
    assert lines[:3] == [
        f"_base_ = '{path.name}'",
        'model = dict(',
        '    bbox_head=dict(strides=[16, 32, 64], num_classes=10),',
    ]
    mended = tmp_path / 'mended.py'
    mended.write_text('\n'.join(lines))
    assert tool.main([str(mended)]) == 0


@needs_torch('2.3')  # older versions also report kernels that are passed over
def test_the_example_of_the_page(tmp_path, scenes, monkeypatch, capsys):
    """The output in docs/check.md is what the tool prints, except for the number of images and iterations."""
    page = ROOT / 'docs/check.md'
    (text,) = blocks(page, 'py')  # marked as Python, the tests of the pages would train it
    _, start, rest = page.read_text().partition('```\nmy_faster_rcnn.py: ')
    shown = start.removeprefix('```\n') + rest.partition('```')[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(scenes / 'data')
    torch.save(MobileMamba('t2').state_dict(), 'backbone.pth')
    Path('my_faster_rcnn.py').write_text(text)
    assert tool.main(['my_faster_rcnn.py']) == 1
    printed = capsys.readouterr().out.replace('of 48 iterations', 'of 144 iterations')
    printed = printed.replace('end=4)', 'end=14)')  # a tenth of the iterations
    machine = re.compile(r'^ok       kernels .*|has \d+ images', re.MULTILINE)
    assert machine.sub('', printed) == machine.sub('', shown)


@pytest.mark.slow
def test_json_by_mim(scenes):
    command = ('mim', 'run', 'mmmobilemamba', 'check', NAME, 'no.pth', '--gpus', '2', '--json', *SMALL)
    output = run(*command, cwd=scenes, fails=True)
    report, _ = json.JSONDecoder().raw_decode(output[output.index('{') :])
    assert report['model'] == 'RetinaNet'
    findings = {finding['subject']: finding for finding in report['findings'] if finding['level'] != 'ok'}
    assert findings['checkpoint']['text'] == 'There is no checkpoint file no.pth.'
    assert findings['lr']['level'] == 'warning'
    assert findings['lr']['mend'] == ['auto_scale_lr = dict(enable=True)']


def test_what_is_no_config(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool.main(['retinanet'])
    assert stopped.value.code == 2
    assert 'there is no config file retinanet here' in capsys.readouterr().err
    path = tmp_path / 'config.py'
    path.write_text("custom_imports = dict(imports=['no_such_package'])\n")
    with pytest.raises(SystemExit, match=r'cannot be read: ImportError: .*no_such_package'):
        tool.main([str(path)])
    path.write_text('from mmengine.config import read_base\nwith read_base():\n    from .no import *\n')
    with pytest.raises(SystemExit, match='cannot be read: ConfigParsingError'):
        tool.main([str(path)])
    path.write_text('optimizer = dict()\n')
    assert tool.main([str(path)]) == 1
    assert 'error    model        The config has no model.' in capsys.readouterr().out
