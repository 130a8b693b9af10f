"""The same work through procrastinate (MIT), a task queue on PostgreSQL, with workers of its own."""

from __future__ import annotations

import asyncio
import time

import procrastinate


async def tasks_a_second(url: str, tasks: int, workers: int) -> float:
    """Tasks taken and ended a second.

    Args:
        url: PostgreSQL's, of an empty database.
        tasks: How many are queued before the clock starts.
        workers: How many take them, one at a time each.
    """
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, max_size=workers + 4))
    done, last = 0, asyncio.Event()

    @app.task(queue="bench")
    async def work() -> None:
        nonlocal done
        done += 1
        if done == tasks:
            last.set()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for _ in range(tasks):
            await work.defer_async()
        begun = time.perf_counter()
        running = [
            asyncio.create_task(
                app.run_worker_async(
                    queues=["bench"], concurrency=1, wait=True, install_signal_handlers=False
                )
            )
            for _ in range(workers)
        ]
        await last.wait()
        seconds = time.perf_counter() - begun
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return tasks / seconds
