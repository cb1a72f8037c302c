"""Many users at once: lists of any length, cut into requests of up to 1,000 items."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from user_service_client.decoding import decode
from user_service_client.errors import BatchRefused, UnexpectedResponse, UserServiceError
from user_service_client.models import (
    BatchResult,
    Found,
    ItemResult,
    MissingKeys,
    NewUser,
    OnConflict,
    Summary,
    User,
    UserPatch,
)
from user_service_client.runners import Resource, operation
from user_service_client.service import USERS, UserRef, encode, expected_version, user_id
from user_service_client.steps import Parse, Reply, Request, Steps, parse_as

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_ITEMS = 1000
# The service's 2 MiB, less what stands around the items.
MAX_BYTES = 2 * 1024 * 1024 - 1024
KINDS = ("ids", "emails", "external_ids", "usernames")
Mode = Literal["partial", "atomic"]


class BatchOptions(TypedDict, total=False):
    mode: Mode
    dry_run: bool
    idempotency_key: str | None


class BatchMethods(Resource):
    """`mode="partial"` applies the valid items of each thousand; `atomic` applies all or none, and takes one thousand.

    Each request has an Idempotency-Key of its own, made of `idempotency_key` where it is given. If a later request
    fails, `results` of the error has what the earlier ones did. `dry_run` changes nothing.
    """

    @operation
    def create(
        self, users: Iterable[NewUser], /, *, on_conflict: OnConflict = "fail", **options: Unpack[BatchOptions]
    ) -> Steps[BatchResult]:
        """Where the external id or the e-mail is taken: `fail`, `skip`, or `update` the holder."""
        items = ({"data": user} for user in users)
        return run_batch(self, "create", items, on_conflict=on_conflict, **options)

    @operation
    def update(
        self, changes: Iterable[tuple[UserRef, UserPatch]], /, **options: Unpack[BatchOptions]
    ) -> Steps[BatchResult]:
        """A merge patch for each user; with a User, it fails if the user has changed since it was read."""
        return run_batch(self, "update", ({**make_item(user), "data": data} for user, data in changes), **options)

    @operation
    def delete(self, users: Iterable[UserRef], /, **options: Unpack[BatchOptions]) -> Steps[BatchResult]:
        return run_batch(self, "delete", map(make_item, users), **options)

    @operation
    def restore(self, users: Iterable[UserRef], /, **options: Unpack[BatchOptions]) -> Steps[BatchResult]:
        return run_batch(self, "restore", map(make_item, users), **options)

    @operation
    def find(
        self,
        *,
        ids: Iterable[str] = (),
        emails: Iterable[str] = (),
        external_ids: Iterable[str] = (),
        usernames: Iterable[str] = (),
    ) -> Steps[Found]:
        """The users with these keys; an alias counts as an e-mail address."""
        return find_users(self, dict(zip(KINDS, (ids, emails, external_ids, usernames), strict=True)))


def make_item(user: UserRef) -> dict[str, Any]:
    version = expected_version(user, None)
    return {"id": user_id(user)} | ({"if_version": version} if version is not None else {})


def run_batch(
    self: Resource,
    name: str,
    items: Iterable[Mapping[str, Any]],
    *,
    mode: Mode = "partial",
    on_conflict: OnConflict | None = None,
    dry_run: bool = False,
    idempotency_key: str | None = None,
) -> Steps[BatchResult]:
    chunks: Iterable[Sequence[bytes]] = cut(map(encode, items))
    if mode == "atomic":
        chunks = list(chunks)
        if len(chunks) > 1:
            raise ValueError(f"an atomic batch has at most {MAX_ITEMS:,} items and 2 MiB")
    # The order is part of the body, which an Idempotency-Key has once and for all.
    options = {"mode": mode, **({"on_conflict": on_conflict} if on_conflict else {}), "dry_run": dry_run}
    head = encode(options)[:-1] + b',"items":['
    results: list[ItemResult] = []
    skipped = 0
    for number, chunk in enumerate(chunks):
        body = head + b",".join(chunk) + b"]}"
        key = f"{idempotency_key}:{number}" if idempotency_key else None
        try:
            parse = parse_results(len(chunk))
            result = yield from self.service.write("POST", f"{USERS}/batch/{name}", parse, body, key=key)
        except BatchRefused as error:
            error.results = refused_items(error)
            raise
        except UserServiceError as error:
            error.results = tuple(results)
            raise
        offset = len(results)
        results += [shift(item, offset) for item in result.items]
        skipped += result.summary.skipped
    failed = sum(item.status == "failed" for item in results)
    summary = Summary(len(results), len(results) - failed - skipped, failed, skipped)
    return BatchResult(summary, tuple(results))


def cut(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Chunks of at most MAX_ITEMS and MAX_BYTES; a larger item is a chunk of its own, which the service refuses."""
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if chunk and (len(chunk) == MAX_ITEMS or size + len(item) + 1 > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item) + 1
    if chunk:
        yield chunk


def parse_results(count: int) -> Parse[BatchResult]:
    def parse(reply: Reply) -> BatchResult:
        result = parse_as(BatchResult)(reply)
        if [item.index for item in result.items] != list(range(count)):
            raise UnexpectedResponse(reply.status, "not one result for each item")
        return result

    return parse


def refused_items(error: BatchRefused) -> tuple[ItemResult, ...]:
    try:
        return tuple(decode(ItemResult, item) for item in error.problem["items"])
    except (KeyError, TypeError, ValueError):
        return ()


def shift(item: ItemResult, offset: int) -> ItemResult:
    if offset == 0:
        return item
    error = item.error
    if error is not None and error.pointer is not None:
        index = item.index + offset
        error = replace(error, pointer=re.sub(r"^/items/\d+", f"/items/{index}", error.pointer))
    return replace(item, index=item.index + offset, error=error)


def find_users(self: Resource, keys: Mapping[str, Iterable[str]]) -> Steps[Found]:
    """POST, so that no address stands in a URL; it only reads, so it may be repeated without a key."""
    wanted = iter([(kind, key) for kind in KINDS for key in keys.get(kind, ())])
    found: dict[str, User] = {}
    missing: dict[str, list[str]] = {kind: [] for kind in KINDS}
    while chunk := list(islice(wanted, MAX_ITEMS)):
        body = encode({kind: [key for name, key in chunk if name == kind] for kind in KINDS})
        request = Request("POST", f"{USERS}/batch/find", {"Content-Type": "application/json"}, body)
        part = yield from self.service.call(request, parse_as(Found))
        found |= {user.id: user for user in part.found}
        for kind in KINDS:
            missing[kind] += getattr(part.missing, kind)
    return Found(tuple(found.values()), MissingKeys(*(tuple(missing[kind]) for kind in KINDS)))
