"""Commands as users give them, in new processes or in forks of a process that has imported the packages.

Importing torch and the codebases takes 5 to 7 s, longer than most of the commands of the tests. A server
imports them once for each worker of pytest, and :func:`run` lets a fork of the server do the rest.

A fork has more modules than a new process, so it does not show that a command forgets an import, imports
something slow or with a warning, or works only after another one. These are the subjects of test_hygiene.py,
test_configs.py and test_packaging.py, whose processes are new. In addition, at least one command of each kind
has a new process: ``mim train``, ``mim test``, ``mim run``, a script of ``tools``, and torchrun.
test_commands.py compares forks with new processes.

The server does not import mmmobilemamba: each fork does that by the ``custom_imports`` of its config. It
imports all three codebases, as mmseg does by itself if they are installed. Functions registered with
:mod:`atexit` do not run.
"""

import json
import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from unittest import mock

from .quick_mmengine import leave_out_formatting

PACKAGES = ['mim.cli', 'mmpretrain.models', 'mmdet.models', 'mmseg.models', 'onnxruntime', 'sklearn.datasets']


def share_imports():
    """Let processes that are started with the method ``forkserver`` share one import of the packages.

    Returns:
        BaseContext: multiprocessing with this method.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PACKAGES)
    return context


def run(*command, cwd, fails=False, fresh=False, processes=1):
    """Run a command, and check that it succeeds or fails.

    Args:
        *command: ``'mim', ...`` or ``'python', script, ...``; with ``fresh``, any options of Python as well.
        cwd (Path): The working directory.
        fails (bool): Whether the exit status must be other than 0.
        fresh (bool): Whether to use a new process. Otherwise, it is a fork; see the top of this file.
        processes (int): How many forks to start, with the environment that torchrun gives to its processes.

    Returns:
        str: The output, with that to standard error.
    """
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile('a+') as log:
        if fresh:
            words[:1] = [sys.executable] if words[0] == 'python' else words[:1]
            process = subprocess.run(words, cwd=cwd, env=environment(), stdout=log, stderr=log, check=False)
            status = process.returncode
        else:
            status = _fork(words, cwd, environment(), log.name, processes)
        log.seek(0)
        output = log.read()
    assert bool(status) == fails, output[-5000:]
    return output


def environment():
    """The environment with this Python's ``mim`` and ``python`` first (dict)."""
    return {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}


def install(shell):
    """Let an IPython shell run ``!mim ...`` in forks. Other commands are errors."""

    def system(command):
        words = shlex.split(shell.var_expand(command, depth=1).replace('\\\n', ' '))
        assert words[0] == 'mim', words
        shell.user_ns['_exit_code'] = _fork(words, os.getcwd(), dict(os.environ), 'command.log')
        print(Path('command.log').read_text())

    shell.system = system


def free_port():
    """A port that no other process listens on (int)."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def _fork(words, cwd, environ, log, number=1):
    """The exit status (int) of a command in ``number`` forks; all output is added to the file ``log``."""
    context, running, status = share_imports(), [], 0
    port = free_port()
    for rank in range(number):
        group = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=number, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        more = {name: str(value) for name, value in group.items()} if number > 1 else {}
        args = (words, str(cwd), {**environ, **more}, log, _search_path(environ.get('PYTHONPATH')))
        running.append(context.Process(target=_enter, args=args))
        running[-1].start()
    while running:
        wait([process.sentinel for process in running])
        status = status or next((process.exitcode for process in running if process.exitcode), 0)
        running = [process for process in running if process.exitcode is None]
        for process in running if status else ():  # they would wait for the one that has failed
            process.terminate()
    return status


@cache
def _search_path(pythonpath):
    """``sys.path`` in a new process, without the folder of the script."""
    code = 'import json, sys; print(json.dumps(sys.path[1:]))'
    return json.loads(subprocess.run([sys.executable, '-c', code], capture_output=True, check=True).stdout)


def _enter(words, cwd, environ, log, path):
    """Make a fork like a new process, and run the command in it."""
    import numpy as np

    os.chdir(cwd)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    np.random.seed()  # as all forks would have the state of the server
    leave_out_formatting()
    if words[0] == 'mim':
        mock.patch.multiple(subprocess, check_call=_check_call, check_output=_check_output).start()
        _run_script([Path(sys.executable).with_name('mim'), *words[1:]], environ, path)
    else:
        assert words[0] == 'python', words
        _run_script(words[1:], environ, path)


def _run_script(argv, environ, path):
    """Run a script as ``python SCRIPT ...`` does."""
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = [str(word) for word in argv]
    sys.path[:] = [os.path.dirname(os.path.realpath(sys.argv[0])), *path]
    file = os.path.abspath(sys.argv[0])
    main = sys.modules['__main__'] = ModuleType('__main__')
    main.__file__ = file
    try:
        exec(compile(Path(file).read_bytes(), file, 'exec'), vars(main))
    except Exception:  # as the interpreter does at the end of a script
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def _start_script(argv, environ, path):
    """Run a script of mim, which may start processes of its own."""
    mock.patch.stopall()
    _run_script(argv, environ, path)


def _check_call(command, env):
    """``subprocess.check_call`` of a script of Python, in a fork."""
    assert command[0] == sys.executable, command
    sys.stdout.flush()
    fork = multiprocessing.get_context('fork')
    process = fork.Process(target=_start_script, args=(command[1:], env, sys.path[1:]))
    process.start()
    process.join()
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, command)
    return 0


def _check_output(command):
    """``subprocess.check_output`` of a script of Python, in a fork."""
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            _check_call(command, dict(os.environ))
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        file.seek(0)
        return file.read()
