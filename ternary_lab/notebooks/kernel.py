"""Execution of the cells of a notebook: the engine that papermill calls, with a kernel of this Python interpreter.

This module imports papermill, which takes a second. So it is imported only where a notebook is executed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from ternary_lab.backend.console import say
from ternary_lab.notebooks.cells import CUT, KERNEL

ENGINE = "ternary_lab"
STARTS = 3
"""Number of kernels that are started, at most, until one lives. Jupyter chooses free ports for a kernel, but another
process may take one of them before the kernel does. Then the kernel dies at its start."""
LIMIT = 10_000_000
"""Largest number of characters of the outputs of one cell. What a cell shows after that is cut."""
OUTPUT_PATIENCE = 60
"""Longest time in seconds between the end of a cell and the arrival of its last output. The default of 4 is too short
on a busy machine."""
_FRAME = 100
"""Number of characters that an output counts for in addition to its text. So the number of outputs is limited, too."""
_SHORT = 1000
"""Number of characters that are kept of a part of an exception that is too long."""


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Client of one kernel. It limits the outputs of each cell, and leaves no process and no task behind.

    The notebook is executed in the Python interpreter of this process, whatever kernels the user has installed.
    """

    _group: int | None = None
    """Number of the process group of the kernel and of the processes that its cells have started."""

    def execute(self, **options: Any) -> Any:
        self._tasks_before = asyncio.all_tasks(ensure_event_loop())
        try:
            return super().execute(**options)
        except BaseException:
            self._cancel_tasks()
            if self.km is not None:  # interrupted while the kernel started
                self._cleanup_kernel()
            raise
        finally:
            if self._group is not None:  # a kernel that died could not end the processes that it had started
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._group, signal.SIGKILL)

    def create_kernel_manager(self) -> AsyncKernelManager:
        # Without folders of kernel specifications, Jupyter offers the kernel of `sys.executable`.
        self.km = AsyncKernelManager(kernel_name=KERNEL, kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        return self.km

    def start_new_kernel(self, **options: Any) -> None:
        """Start a kernel and connect to it. Raises RuntimeError if none starts."""
        for start in range(1, STARTS + 1):
            super().start_new_kernel(**options)
            self._group = getattr(self.km.provisioner, "pgid", None)  # Windows has no process groups
            try:
                self.start_new_kernel_client()
                return
            except RuntimeError as error:  # jupyter_client raises no special error for a kernel that died
                if "died" not in str(error) or start == STARTS:
                    raise
                say("a kernel died at its start: another one is started")
                self.create_kernel_manager()

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
        except BaseException:
            self._cancel_tasks()
            raise

    def _cancel_tasks(self) -> None:
        """End all tasks that wait for the kernel. Otherwise they would print a traceback when it is gone."""
        loop = ensure_event_loop()
        if not loop.is_running():
            left = asyncio.all_tasks(loop) - self._tasks_before
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def execute_cell(self, cell: Any, cell_index: int) -> Any:
        self._shown = 0
        try:
            return super().execute_cell(cell, cell_index)
        finally:
            if self._shown > LIMIT:
                note = f"{CUT} {self._shown:,} characters, of which {LIMIT:,} may be kept: show less\n"
                cell.outputs.append(new_output("stream", name="stderr", text=note))  # type: ignore[no-untyped-call]

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "clear_output":
            self._shown = 0
        elif msg["msg_type"] in ("stream", "display_data", "execute_result", "error") and not self._keep(msg):
            return None
        return super().process_message(msg, cell, cell_index)

    def _keep(self, msg: dict[str, Any]) -> bool:
        """Count the characters of an output, and cut it if it is too long. Return whether something is left of it."""
        content, room = msg["content"], LIMIT - self._shown
        if msg["msg_type"] == "stream":
            self._shown += len(content["text"]) + _FRAME
            content["text"] = content["text"][: max(room, 0)]
            return bool(content["text"])
        if msg["msg_type"] == "error":  # never dropped, because it says why the cell has failed
            if _size(content) > room:
                content["evalue"] = content["evalue"][:_SHORT]
                content["traceback"] = [content["evalue"]]
            return True
        size = _size(content["data"]) + _FRAME
        self._shown += size
        return size <= room


def _size(data: Mapping[str, Any]) -> int:
    return sum(len(part) if isinstance(part, str) else len(json.dumps(part)) for part in data.values())


class Engine(NBClientEngine):  # type: ignore[misc]
    """Engine of papermill that executes cells by `Client`."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, *,
        executed: list[Any], folder: Path, environment: Mapping[str, str], time_limit: int | None, start_timeout: int,
        **_: Any,
    ) -> None:
        """Execute the cells of `nb_man.nb`, and append it to `executed` before the first one.

        Args:
            executed: list from which the caller gets the notebook even if a cell fails.
            folder: working directory of the kernel.
            environment: environment variables of the kernel.
            time_limit: longest time in seconds for each cell.
            start_timeout: longest time in seconds for the start of the kernel.
        """
        executed.append(nb_man.nb)
        client = Client(
            nb_man,
            timeout=time_limit,
            startup_timeout=start_timeout,
            iopub_timeout=OUTPUT_PATIENCE,
            # If Ctrl-C shuts down a busy kernel, the kernel would otherwise log an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
        client.execute(cwd=str(folder), env=dict(environment))


papermill_engines.register(ENGINE, Engine)
