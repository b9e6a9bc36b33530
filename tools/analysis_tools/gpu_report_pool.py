"""Worker processes of ``gpu_report.py``: in parallel while nothing is timed, one at a time for timing."""

import multiprocessing
import time
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, Callable, NamedTuple, Optional

from gpu_report_order import CORES, THREADS
from gpu_report_worker import serve

GIB = 2**30
CONTEXT = 0.7 * GIB  # GPU memory of a process and its weights
SHARE = 0.85  # share of the remaining GPU memory that tasks may use
CLOSING = 5  # s for all workers to exit
MARGIN = 1.3  # factor by which a step may exceed its estimated memory


class WorkerError(RuntimeError):
    """A task failed in its worker; the message says why."""


class Task(NamedTuple):
    """A method call for a worker.

    Args:
        key (Hashable): Key of the result.
        worker (str): Name of the worker.
        method (str): Method of the worker.
        arguments (tuple): Arguments of the method.
        memory (float): GPU memory in bytes.
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
        """Return the value of the answer, which must be available.

        Raises:
            WorkerError: If the call failed, or the process died.
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
        """Kill the process."""
        self.process.kill()
        self.process.join(5)
        self.connection.close()


class Pool:
    """Workers by name.

    Args:
        settings (Settings): Settings of the workers.
        memory (float): GPU memory in bytes; infinite on a CPU.
    """

    def __init__(self, settings, memory):
        self.settings, self.memory = settings, memory
        self.workers = {}
        self.pending = []  # keys of the unfinished tasks at the time of the last answer

    def start(self, models, limit):
        """Start all missing workers in parallel.

        Args:
            models (dict[str, str]): Models by name of the worker.
            limit (float): Timeout in seconds.

        Returns:
            dict[str, str]: Error messages of failed workers, by name.
        """
        names = [name for name in models if name not in self.workers]
        for name in names:
            self.workers[name] = Process(self.settings, models[name])
        _, errors = self._collect({name: Task(name, name, 'start') for name in names}, [], limit)
        for name in errors:
            self.kill(name)
        return errors

    def parallel(self, tasks, limit):
        """Run tasks in parallel, as far as the GPU memory allows.

        Args:
            tasks (list[Task]): Each worker runs its tasks in this order.
            limit (float): Seconds, after which unfinished workers are killed.

        Returns:
            tuple[dict, dict]: Values and error messages, both by key.
        """
        return self._collect({}, tasks, limit)

    def alone(self, name, method, *arguments, limit):
        """Call a method of one worker while the others are idle.

        Raises:
            WorkerError: If the call fails or takes more than ``limit`` seconds, or the worker has died.
        """
        values, errors = self.parallel([Task(name, name, method, arguments)], limit)
        if errors:
            raise WorkerError(errors[name])
        return values[name]

    def kill(self, name):
        """Kill a worker."""
        self.workers.pop(name).kill()

    def close(self):
        """Ask all workers to exit, and kill those that do not."""
        for worker in self.workers.values():
            with suppress(OSError):
                worker.connection.send(None)
        end = time.monotonic() + CLOSING
        for name in list(self.workers):
            self.workers[name].process.join(max(0.0, end - time.monotonic()))
            self.kill(name)

    def _collect(self, busy, waiting, limit):
        """Send tasks and collect answers; ``busy`` maps workers to their tasks."""
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
        """Store the answer to a task; returns its follow-up tasks (list)."""
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
        """Send tasks to idle workers, as far as there is memory; returns the remaining tasks (list)."""
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
