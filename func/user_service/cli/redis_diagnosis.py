"""What `user-service doctor` asks Redis: whether this service can use it as it is set up."""

from asyncio import timeout
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from user_service.cache.redis import INVALIDATE_SCRIPT, INVALIDATION, channel_name, connect, key_prefix
from user_service.security.rate_limits import TAKE, WINDOW_SECONDS
from user_service.settings import Settings

SECONDS = 5.0
# No user has this id, so that an invalidation of it changes nothing.
NO_USER = UUID(int=0)


async def find_redis_fault(settings: Settings) -> str | None:
    """What keeps the service from using the Redis of the settings, with the remedy; None where nothing does.

    Raises RedisError, OSError, TimeoutError when Redis does not respond.
    """
    assert settings.redis_url is not None
    redis = connect(settings.redis_url)
    try:
        async with timeout(SECONDS):
            await redis.ping()
            if await is_cluster(redis):
                return (
                    "this is a Redis Cluster, which is not supported: an operation needs keys of several nodes. Use "
                    "one Redis, with a proxy that follows the primary; see docs/connections.md#redis"
                )
            return await find_missing_permission(redis, settings.redis_key_prefix)
    finally:
        await redis.aclose()


async def is_cluster(redis: Redis) -> bool:
    try:
        return bool((await redis.info("cluster")).get("cluster_enabled"))
    except ResponseError:
        # INFO is not permitted: CLUSTER and then its own error say it.
        try:
            await redis.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
        except ResponseError:
            return False
        return True


async def find_missing_permission(redis: Redis, prefix: str) -> str | None:
    """The remedy for an ACL that lacks what the cache and the rate limits need."""
    key, channel = key_prefix(prefix) + NO_USER.hex.encode(), channel_name(prefix)
    fence = b"%010d-" % 0
    message = INVALIDATION.pack(NO_USER.bytes, 0)
    try:
        await redis.mget([key])
        refusal = await redis.register_script(INVALIDATE_SCRIPT)(keys=[key], args=[1, fence, channel, message])
        if refusal:
            raise NoPermissionError(refusal.decode())
        await redis.register_script(TAKE)(keys=[f"{prefix}rate:doctor"], args=[WINDOW_SECONDS * 1000, 0, 0])
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            await pubsub.get_message(timeout=SECONDS)
    except ResponseError as error:
        # A script's command that is not permitted is a plain ResponseError.
        if not isinstance(error, NoPermissionError) and "can't run this command" not in str(error):
            raise
        return (
            f"the user of REDIS_URL lacks a permission ({error}): give it `ACL SETUSER name ~{prefix}* &{channel} "
            "+@read +@write +@connection +@scripting +@pubsub +info +time`; see docs/connections.md#redis"
        )
    return None
