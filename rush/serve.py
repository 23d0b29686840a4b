"""`rush serve` with several processes: the gateways of one machine, kept running."""

import asyncio
import signal
from pathlib import Path

import msgspec

from engine.settings import Settings
from rush.children import gateway_children
from rush.console import Console
from rush.state import fresh_metrics_folder
from rush.store import is_port_free
from rush.supervisor import StartError, Supervisor


class ServeError(Exception):
    """The gateways do not come up; the message says why."""


async def serve(settings: Settings, *, is_plain: bool = False) -> None:
    """Run `settings.gateway_processes` gateways on one port until SIGINT or SIGTERM; raises ServeError.

    `is_plain`: their lines are JSON, to be passed on as they are.
    """
    if not is_port_free(settings.port, settings.host):
        raise ServeError(f"port {settings.port} on {settings.host} is taken")
    folder = Path(settings.data_dir) / f"serve-{settings.port}"
    children = gateway_children(
        msgspec.structs.replace(settings, data_dir=str(folder.absolute())), fresh_metrics_folder(folder)
    )
    supervisor = Supervisor(Console(is_plain=is_plain))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    rising = asyncio.create_task(supervisor.start(*children))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({rising, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if rising.done():
            rising.result()
            await stopping
    except StartError as error:
        raise ServeError(str(error)) from None
    finally:
        for task in (rising, stopping):
            task.cancel()
        await asyncio.gather(rising, stopping, return_exceptions=True)
        await supervisor.stop([child.name for child in children])
