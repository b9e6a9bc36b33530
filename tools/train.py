"""Train a config of this package with the training script of its codebase.

mim train mmmobilemamba NAME.py
python tools/train.py CONFIG [any option of the codebase's tools/train.py]
torchrun --nproc-per-node 2 tools/train.py CONFIG --launcher pytorch
"""

import argparse
import importlib.util
import re
import runpy
import sys
from pathlib import Path

# Scopes of configs, and the names under which mim installs their codebases.
CODEBASES = dict(
    mmdet='mmdet',
    mmseg='mmseg',
    mmpretrain='mmpretrain',
    mmaction='mmaction2',
    mmocr='mmocr',
    mmpose='mmpose',
    mmrotate='mmrotate',
)
TASKS = dict(mmdet='detection', mmseg='segmentation', mmpretrain='classification')  # of published weights


def load_config(path, options=()):
    """Read a config without importing its ``custom_imports``.

    Args:
        path (str): The file.
        options (list[str]): Overrides, each KEY=VALUE.

    Raises:
        ValueError: If the file does not exist, or the config is not for one of ``CODEBASES``.
    """
    if not Path(path).is_file():
        raise ValueError(
            f'there is no config {path}. The config comes before the options; by its bare name it is found '
            f'by `mim train mmmobilemamba` and `mim test mmmobilemamba`'
        )
    from mmengine.config import DictAction

    from mmmobilemamba.utils import read_config

    parser = argparse.ArgumentParser()
    parser.add_argument('options', nargs='*', action=DictAction)
    changes = parser.parse_args(list(options)).options
    config = read_config(path, changes, import_custom_modules=False)
    if scope_of(config) not in CODEBASES:
        raise ValueError(
            f'{path} has default_scope {config.get("default_scope")!r}, but must have one of '
            f'{", ".join(CODEBASES)}. Inherit the default_runtime.py of one of them, or set default_scope'
        )
    return config


def scope_of(config):
    """The codebase that a config is for, or None if it does not say."""
    from mmmobilemamba.utils import codebase_of

    return codebase_of(config) or config.get('default_scope')


def stock_tool(codebase, name):
    """Path of ``tools/<name>`` of an installed codebase.

    Raises:
        ValueError: If the codebase is not installed, or installed without its tools.
    """
    spec = importlib.util.find_spec(codebase)
    if spec is None:
        raise ValueError(
            f'the config needs {codebase}, which is not installed: `mim install {CODEBASES[codebase]}`'
        )
    package = Path(spec.origin).parent
    # Editable installs may lack .mim; their tools are next to the package.
    for folder in (package / '.mim' / 'tools', package.parent / 'tools'):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f'{package} has no .mim/tools/{name}; reinstall it with `mim install {CODEBASES[codebase]}`'
    )


def check_weights(config, arguments):
    """Check the names of published weights, such as ``mobilemamba://b1``, in a config and a command line.

    Raises:
        ValueError: If a name is unknown (the message lists the names), or if the weights to test, which are
            a separate argument, are for another task.
    """
    from mmmobilemamba.weights import SCHEME, weights_of

    for name in re.findall(rf'{SCHEME}[^\'"\s,)\]]*', ' '.join([str(config), *arguments])):
        weights_of(name)
    task = TASKS.get(scope_of(config))
    for weights in map(weights_of, (word for word in arguments if word.startswith(SCHEME))):
        if task and weights.task != task:
            raise ValueError(
                f'the config is for {task}, and {SCHEME}{weights.name} is a model for {weights.task}'
            )


def options_without_gpu(config, launcher):
    """Config options for running on a CPU; with a launcher, also starts the process group.

    Every Runner uses an existing process group, so this works with any script and any ``runner_type``.
    :class:`mmmobilemamba.engine.PortableRunner` by itself needs a script that reads ``runner_type``.

    Returns:
        list[str]: Additional ``--cfg-options``.
    """
    from mmmobilemamba.engine.runners import cpu_wrapper, start_gloo

    options = []
    if 'runner_type' not in config:
        options.append('runner_type=PortableRunner')
    if launcher == 'pytorch':
        start_gloo(**config.get('env_cfg', {}).get('dist_cfg', {}))
        given = config.get('model_wrapper_cfg')
        wrapper = cpu_wrapper(given, config.get('find_unused_parameters', False))
        options += [f'model_wrapper_cfg.{key}={wrapper[key]}' for key in wrapper if key not in (given or {})]
    return options


def main(name, description):
    """Run ``tools/<name>`` of the config's codebase with the arguments of this process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='its default_scope names the codebase; must precede the options')
    parser.add_argument('--launcher', default='none', help="and all other options of the codebase's script")
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='changes to the config'
    )
    args, _ = parser.parse_known_args()
    try:
        config = load_config(args.config, args.cfg_options)
        check_weights(config, sys.argv[2:])
        tool = stock_tool(scope_of(config), name)
    except (ModuleNotFoundError, ValueError) as error:  # such as a missing codebase in _base_
        parser.error(str(error))
    from mmengine.device import get_device

    if get_device() == 'cpu':
        options = options_without_gpu(config, args.launcher)
        sys.argv += ['--cfg-options', *options] if options else []
    sys.argv[0] = str(tool)
    runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main('train.py', __doc__)
