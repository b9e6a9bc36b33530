"""``mim`` in processes that have imported the packages before, for the commands of notebooks.

A command imports for longer than it works. Here a server imports the packages once, and each command runs in
a fork of it: mim, and in the same process the script that mim would start.
"""

import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGES = ['mim.cli', 'mmpretrain.models', 'mmdet.models', 'mmseg.models', 'onnxruntime', 'sklearn.datasets']
context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(PACKAGES)


def install(shell):
    """Make an IPython shell run ``!mim ...`` like this. Other commands are errors."""

    def system(command):
        words = shlex.split(shell.var_expand(command, depth=1).replace('\\\n', ' '))
        log = Path('command.log')
        process = context.Process(target=_enter, args=(words, dict(os.environ), os.getcwd(), log))
        process.start()
        process.join()
        print(log.read_text())
        shell.user_ns['_exit_code'] = process.exitcode

    shell.system = system


def _enter(words, environ, folder, log):
    """Run mim with ``words``, the first of which is ``mim``; all output goes to the file ``log``."""
    os.chdir(folder)
    os.environ.update(environ)
    with log.open('w') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    assert words[0] == 'mim', words
    sys.argv = words
    subprocess.check_call = _run_script
    from mim.cli import cli

    cli()


def _run_script(command, env):
    """``subprocess.check_call`` of a Python script, without a new process."""
    os.environ.update(env)
    sys.argv = command[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name='__main__')
    return 0
