"""Processes of ``gpu_report.py``: they work in parallel while nothing is timed, and one by one when it is."""

import multiprocessing
import os
import time
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

from gpu_report_worker import serve

# Each process compiles its own network, and all of them share the cores.
ENVIRONMENT = dict(TORCHINDUCTOR_COMPILE_THREADS='1', OMP_NUM_THREADS='1')
GIB = 2**30
CONTEXT = 0.7 * GIB  # of the GPU's memory, for a process and the weights that it keeps
SHARE = 0.85  # of the rest that may be planned with
CLOSING = 5  # s that all workers have to end
MARGIN = 1.3  # by which a step may take more than was estimated


class WorkerError(RuntimeError):
    """What a worker could not do, as a message."""


@contextmanager
def environment(**values):
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Process:
    """One worker process, from the coordinator's side."""

    def __init__(self, settings, model):
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, settings, model), daemon=True)
        with environment(**ENVIRONMENT):
            self.process.start()
        other.close()

    def receive(self):
        """The value of its answer, which must be there.

        Raises:
            WorkerError: If it could not do what was asked, or has died.
        """
        try:
            kind, answer = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            raise WorkerError(f'the process died with exit code {self.process.exitcode}') from None
        if kind == 'error':
            raise WorkerError(answer)
        return answer

    def kill(self):
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.join(5)
        self.connection.close()


class Pool:
    """Workers by name.

    Args:
        settings (Settings): Of the workers.
        memory (float): Bytes of the GPU; infinite on a CPU.
    """

    def __init__(self, settings, memory):
        self.settings, self.memory = settings, memory
        self.workers = {}

    def start(self, models, limit):
        """Start the workers that are not there yet, or no more, all at once.

        Args:
            models (dict[str, str]): Name of a worker to its model.
            limit (float): Seconds.

        Returns:
            dict[str, str]: Name to error text of those that failed.
        """
        names = [name for name in models if name not in self.workers]
        for name in names:
            self.workers[name] = Process(self.settings, models[name])
        _, errors = self._collect({name: (name, 0) for name in names}, [], limit)
        for name in errors:
            self.kill(name)
        return errors

    def parallel(self, tasks, limit):
        """Let workers work at the same time, as far as the GPU's memory allows.

        Args:
            tasks (list): ``(key, name of the worker, method, arguments, bytes on the GPU)`` each.
            limit (float): Seconds, after which workers that are not ready are killed.

        Returns:
            tuple[dict, dict]: Key to value, and key to error text.
        """
        return self._collect({}, tasks, limit)

    def alone(self, name, method, *arguments, limit):
        """What one worker returns while the others are idle.

        Raises:
            WorkerError: If it could not do it, not within ``limit`` seconds, or is there no more.
        """
        values, errors = self.parallel([(name, name, method, arguments, 0)], limit)
        if errors:
            raise WorkerError(errors[name])
        return values[name]

    def kill(self, name):
        """End a worker."""
        self.workers.pop(name).kill()

    def close(self):
        """Let all workers end, and kill those that do not."""
        for worker in self.workers.values():
            with suppress(OSError):
                worker.connection.send(None)
        end = time.monotonic() + CLOSING
        for name in list(self.workers):
            self.workers[name].process.join(max(0.0, end - time.monotonic()))
            self.kill(name)

    def _collect(self, busy, waiting, limit):
        """Hand out tasks and gather answers; ``busy`` maps workers to the keys and bytes of theirs."""
        values, errors, end = {}, {}, time.monotonic() + limit
        while busy or waiting:
            waiting = self._hand_out(waiting, busy, errors)
            by_connection = {self.workers[name].connection: name for name in busy}
            ready = wait(list(by_connection), timeout=max(0.0, end - time.monotonic())) if busy else []
            for connection in ready:
                name = by_connection[connection]
                key, _ = busy.pop(name)
                try:
                    values[key] = self.workers[name].receive()
                except WorkerError as error:
                    errors[key] = str(error)
                    if not self.workers[name].process.is_alive():
                        self.kill(name)
            if time.monotonic() >= end:
                for name, (key, _) in busy.items():
                    errors[key] = f'not ready after {limit:.0f} s'
                    self.kill(name)
                errors.update((task[0], f'not begun after {limit:.0f} s') for task in waiting)
                break
        return values, errors

    def _hand_out(self, waiting, busy, errors):
        """Send tasks to workers that are free, as far as there is memory; the others (list)."""
        free = SHARE * (self.memory - CONTEXT * len(self.workers)) - sum(taken for _, taken in busy.values())
        rest = []
        for task in waiting:
            key, name, method, arguments, needed = task
            needed *= MARGIN
            if name not in self.workers:
                errors[key] = 'its process was stopped before'
            elif name in busy or (busy and needed > free):
                rest.append(task)
            else:
                try:
                    self.workers[name].connection.send((method, arguments))
                except OSError:
                    self.kill(name)
                    errors[key] = 'its process has died'
                    continue
                busy[name] = key, needed
                free -= needed
        return rest
