"""Train a config of this package with the training tool of the codebase that it belongs to.

mim train mmmobilemamba NAME.py
python tools/train.py CONFIG [any option of mmdet's, mmseg's or mmpretrain's tools/train.py]
torchrun --nproc-per-node 2 tools/train.py CONFIG --launcher pytorch
"""

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

CODEBASES = ('mmdet', 'mmseg', 'mmpretrain')


def load_config(path):
    """Read a config without importing what it names.

    Raises:
        ValueError: If there is no such file, or the config is not for one of ``CODEBASES``.
    """
    if not Path(path).is_file():
        raise ValueError(
            f'there is no config {path}. The config comes before the options; by its bare name it is found '
            f'by `mim train mmmobilemamba` and `mim test mmmobilemamba`'
        )
    from mmengine.config import Config

    config = Config.fromfile(path, import_custom_modules=False)
    if config.get('default_scope') not in CODEBASES:
        raise ValueError(
            f'{path} has default_scope {config.get("default_scope")!r}, but must have one of '
            f'{", ".join(CODEBASES)}. Inherit the default_runtime.py of one of them, or set default_scope'
        )
    return config


def stock_tool(codebase, name):
    """Path of ``tools/<name>`` of an installed codebase.

    Raises:
        ValueError: If the codebase is not installed, or installed without its tools.
    """
    spec = importlib.util.find_spec(codebase)
    if spec is None:
        raise ValueError(f'the config needs {codebase}, which is not installed: `mim install {codebase}`')
    package = Path(spec.origin).parent
    # Editable installs may have no .mim; their tools are beside the package.
    for folder in (package / '.mim' / 'tools', package.parent / 'tools'):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f'{package} has no .mim/tools/{name}; reinstall it with `mim install {codebase}`')


def use_gloo(config):
    """Start the process group of ``--launcher pytorch`` on a machine without a GPU.

    Any Runner takes a group that it finds, so this serves every tool, and every ``runner_type``; what
    mmengine's own does there is told at :class:`mmmobilemamba.engine.PortableRunner`.

    Returns:
        list[str]: Arguments that keep the model where it is.
    """
    import torch

    from mmmobilemamba.engine.runners import cpu_wrapper

    torch.distributed.init_process_group('gloo')
    if 'model_wrapper_cfg' in config:
        return []
    return [
        '--cfg-options',
        *(f'model_wrapper_cfg.{key}={value}' for key, value in cpu_wrapper(config).items()),
    ]


def main(name, description):
    """Run ``tools/<name>`` of the config's codebase with the arguments of this process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='its default_scope names the codebase; comes before the options')
    parser.add_argument('--launcher', default='none', help="and all else that the codebase's own tool takes")
    args, _ = parser.parse_known_args()
    try:
        config = load_config(args.config)
        tool = stock_tool(config.default_scope, name)
    except ValueError as error:
        parser.error(str(error))
    if args.launcher == 'pytorch':
        import torch

        if not torch.cuda.is_available():
            sys.argv += use_gloo(config)
    sys.argv[0] = str(tool)
    runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main('train.py', __doc__)
