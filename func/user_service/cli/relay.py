"""`user-service relay`: posts the pending events of the outbox, once or until it is stopped."""

import asyncio
import signal
import sys
from collections.abc import Mapping

from user_service.bootstrap import Resources
from user_service.cli.database import describe_failure, open_database
from user_service.errors import ConfigurationError, DatabaseUnavailable
from user_service.observability.logging import set_up_logs
from user_service.postgres.partitions import create_partitions
from user_service.secret_rotation import SecretFiles, SecretRotation


def run(environ: Mapping[str, str], *, watch: bool) -> int:
    """1 when events are left because the sink or the database failed. Raises ConfigurationError."""
    with open_database(environ) as settings:
        if settings.sink_url is None:
            raise ConfigurationError("K_SINK, EVENT_SINK_URL: no sink is set; set one of them")
        set_up_logs(level=settings.log_level, log_format=settings.log_format)
        return asyncio.run(relay_events(Resources(settings), SecretFiles(environ), watch=watch))


async def relay_events(resources: Resources, files: SecretFiles, *, watch: bool) -> int:
    try:
        return await relay_until_stopped(resources, files) if watch else await relay_once(resources)
    except DatabaseUnavailable as error:
        sys.stderr.write(f"{describe_failure(error)}\n")
        return 1
    finally:
        await resources.close()


async def relay_once(resources: Resources) -> int:
    """Posts from every partition, also from those whose next attempt is due later."""
    await resources.verify()
    await create_partitions(resources.pool.fetch)
    relay = await resources.open_relay()
    assert relay is not None
    succeeded = await relay.drain(include_postponed=True)
    pending, _ = await resources.outbox.backlog()
    published = int(resources.metrics.events_published.values.get(("published",), 0))
    sys.stdout.write(f"{published} events published, {pending} left in the outbox\n")
    return 0 if succeeded else 1


async def relay_until_stopped(resources: Resources, files: SecretFiles) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await resources.open()
    # Raises ConfigurationError, which a start in the background only logs.
    await resources.open_relay()
    rotation = SecretRotation(resources, files)
    rotation.start()
    await resources.start_background()
    await stopped.wait()
    rotation.stop()
    return 0
