"""Processes of ``gpu_report.py``: they work in parallel while nothing is timed, and one by one when it is."""

import multiprocessing
import time
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, Callable, NamedTuple, Optional

from gpu_report_order import CORES, THREADS
from gpu_report_worker import serve

GIB = 2**30
CONTEXT = 0.7 * GIB  # of the GPU's memory, for a process and the weights that it keeps
SHARE = 0.85  # of the rest that may be planned with
CLOSING = 5  # s that all workers have to end
MARGIN = 1.3  # by which a step may take more than was estimated


class WorkerError(RuntimeError):
    """What a worker could not do, as a message."""


class Task(NamedTuple):
    """What a worker is to do.

    Args:
        key (Hashable): Of the result.
        worker (str): Name of the worker.
        method (str): Of the worker.
        arguments (tuple): Of the method.
        memory (float): Bytes of the GPU that it takes.
        done (Callable, optional): Called with the result; returns further tasks (list), or None.
    """

    key: Any
    worker: str
    method: str
    arguments: tuple = ()
    memory: float = 0
    done: Optional[Callable] = None


class Process:
    """One worker process, from the coordinator's side."""

    def __init__(self, settings, model):
        context = multiprocessing.get_context('spawn')
        self.connection, other = context.Pipe()
        arguments = other, settings, model, min(THREADS, CORES)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
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
        self.pending = []  # keys of the tasks that were not done when the last answer came

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
        _, errors = self._collect({name: Task(name, name, 'start') for name in names}, [], limit)
        for name in errors:
            self.kill(name)
        return errors

    def parallel(self, tasks, limit):
        """Let workers work at the same time, as far as the GPU's memory allows.

        Args:
            tasks (list[Task]): In the order in which a worker does them.
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
        values, errors = self.parallel([Task(name, name, method, arguments)], limit)
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
        """Hand out tasks and gather answers; ``busy`` maps workers to their tasks."""
        values, errors, end = {}, {}, time.monotonic() + limit
        while busy or waiting:
            waiting = self._hand_out(waiting, busy, errors)
            by_connection = {self.workers[name].connection: name for name in busy}
            ready = wait(list(by_connection), timeout=max(0.0, end - time.monotonic())) if busy else []
            for connection in ready:
                task = busy.pop(by_connection[connection])
                self.pending = [other.key for other in (*busy.values(), *waiting)]
                waiting += self._receive(task, values, errors)
            if time.monotonic() >= end:
                for name, task in busy.items():
                    errors[task.key] = f'not ready after {limit:.0f} s'
                    self.kill(name)
                errors.update((task.key, f'not begun after {limit:.0f} s') for task in waiting)
                break
        return values, errors

    def _receive(self, task, values, errors):
        """Take the answer to a task; the tasks that follow from it (list)."""
        worker = self.workers[task.worker]
        try:
            values[task.key] = worker.receive()
        except WorkerError as error:
            errors[task.key] = str(error)
            if not worker.process.is_alive():
                self.kill(task.worker)
            return []
        return (task.done(values[task.key]) or []) if task.done else []

    def _hand_out(self, waiting, busy, errors):
        """Send tasks to workers that are free, as far as there is memory; the others (list)."""
        taken = sum(task.memory for task in busy.values())
        free = SHARE * (self.memory - CONTEXT * len(self.workers)) - MARGIN * taken
        rest = []
        for task in waiting:
            name, needed = task.worker, MARGIN * task.memory
            if name not in self.workers:
                errors[task.key] = 'its process was stopped before'
            elif name in busy or (busy and needed > free):
                rest.append(task)
            else:
                try:
                    self.workers[name].connection.send((task.method, task.arguments))
                except OSError:
                    self.kill(name)
                    errors[task.key] = 'its process has died'
                    continue
                busy[name] = task
                free -= needed
        return rest
