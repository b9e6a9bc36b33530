"""Check a config with MobileMamba before training: prints problems and the config lines that fix them.

    mim run mmmobilemamba check CONFIG [CHECKPOINT]
    mim run mmmobilemamba check retinanet_mobilemamba-b1_fpn_1x_coco --gpus 4 --json

CONFIG is a config of any OpenMMLab project, or the name of a recipe. The tool builds the model, compares the
shapes of its feature maps with what neck and heads expect, checks files, data, checkpoints and schedule, and
computes the loss of two images. CHECKPOINT is one to test; it must match completely. The exit status is 1 if
there are errors.
"""

import argparse
import contextlib
import json
import sys
import warnings

from mmengine.config import DictAction

from mmmobilemamba.check.finding import as_json, as_table, config_lines, inheriting, merge
from mmmobilemamba.check.whole import check_config
from mmmobilemamba.utils import config_argument, read_config
from mmmobilemamba.weights import checkpoint_argument


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', type=config_argument, help='config file, or the name of a recipe')
    parser.add_argument(
        'checkpoint', nargs='?', type=checkpoint_argument, help='checkpoint to test: file or name'
    )
    parser.add_argument('--gpus', type=int, default=1, help='number of training processes (default: 1)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config')
    args = parser.parse_args(argv)
    try:
        config = read_config(args.config, args.cfg_options)
    except (
        AttributeError,
        ImportError,
        KeyError,
        NameError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        sys.exit(f'{args.config} cannot be read: {type(error).__name__}: {error}')
    warnings.simplefilter('ignore')
    with contextlib.redirect_stdout(sys.stderr):  # pycocotools prints
        report = check_config(config, args.checkpoint, args.gpus)
    mends = [finding.mend for finding in report.findings if finding.mend]
    together = config_lines(merge(mends), report.python_style)
    if args.json:
        findings = [as_json(finding, report.python_style) for finding in report.findings]
        content = dict(config=args.config, model=report.model, findings=findings, mend=together)
        print(json.dumps(content, indent=2))
    else:
        print(f'{args.config}: {report.model or "no model"}\n')
        print('\n'.join(as_table(report.findings, report.python_style)))
        if len(mends) > 1:
            print('\nAll suggested lines, as a config in the same folder:\n')
            print('\n'.join([*inheriting(args.config, report.python_style), *together]))
        print(f'\n{count(report.findings, "error")}, {count(report.findings, "warning")}.')
    return int(report.failed)


def count(findings, level):
    """Return the number of findings of a level in words (str), such as ``'2 errors'``."""
    number = sum(finding.level == level for finding in findings)
    return f'{number} {level}{"" if number == 1 else "s"}'


if __name__ == '__main__':
    sys.exit(main())
