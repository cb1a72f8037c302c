"""A caller's program that uses the whole interface of the client; a test checks it with mypy in strict mode."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime

from user_service_client import (
    AsyncClient,
    AuditEntry,
    AuditRecord,
    BatchResult,
    Change,
    ChangePage,
    Client,
    CursorFile,
    EmailTaken,
    Found,
    Import,
    ImportFailure,
    NewUser,
    Retry,
    User,
    UserEvent,
    UserPatch,
    VersionMismatch,
    verify_event,
)


def rename(user: User) -> UserPatch | None:
    return {"given_name": None, "metadata": {"n": 1}} if user.status == "active" else None


def use(*values: object) -> None:
    """Takes results, which a type checker has seen before."""


def block(client: Client, since: datetime) -> None:
    seen: list[Import] = []
    new: NewUser = {"email": "ada@example.org"}
    user: User = client.users.create(email="ada@example.org", metadata={"plan": "pro"})
    found: User | None = client.users.find_by_email("ada@example.org")
    changed: User = client.users.update(user, given_name="Ada", phone=None)
    changed = client.users.update_with(user.id, rename)
    changed = client.users.upsert("crm-7", email="ada@example.org")
    done: None = client.users.delete(changed, purge=True)
    listed: Iterator[User] = client.users.list(status="active", created_after=since, metadata={"plan": "pro"})
    exported: Iterator[User] = client.users.export(include_deleted=True)
    pieces: Iterator[bytes] = client.users.export_csv(fields=["email"])
    lines: Iterator[bytes] = client.users.export_lines(status="active")
    trail: Iterator[AuditEntry] = client.users.audit(user)
    records: Iterator[AuditRecord] = client.users.because("ticket 4711").search_audit(user=user, after=since)
    result: BatchResult = client.users.batch.create([new, {"email": "b@example.org"}], on_conflict="skip")
    result = client.users.batch.update([(user, {"given_name": "Ada"}), (user.id, {})])
    result = client.users.batch.delete([user, user.id])
    found_many: Found = client.users.batch.find(emails=["ada@example.org"])
    imported: Import = client.users.import_file("users.csv", on_progress=seen.append)
    failures: Iterator[ImportFailure] = client.users.import_failures(imported.id)
    changes: Iterator[Change] = client.users.changes(after=CursorFile("cursor"), follow=True)
    pages: Iterator[ChangePage] = client.users.change_pages(change_type="deleted")
    count: int = client.users.count(q="ada")
    use(
        found,
        done,
        listed,
        exported,
        pieces,
        lines,
        trail,
        records,
        result,
        found_many,
        failures,
        changes,
        pages,
        count,
    )


async def wait(client: AsyncClient) -> None:
    user: User = await client.users.create(email="ada@example.org")
    user = await client.users.update(user, given_name="Ada")
    coming: Awaitable[BatchResult] = client.users.batch.restore([user])
    users: AsyncIterator[User] = client.users.list()
    use(await coming, [each.id async for each in users], await client.users.import_file("users.csv"))


def handle(headers: dict[str, str], body: bytes) -> str:
    event: UserEvent = verify_event(headers, body, secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return f"{event.type} {event.user_id} {event.data.version}"


def guard(action: Callable[[], User]) -> str | None:
    try:
        return action().id
    except (EmailTaken, VersionMismatch) as error:
        return f"{error.code} {error.request_id} {error.errors}"


def main() -> None:
    with Client("https://users.example.org", token=lambda: "a token", retry=Retry(deadline_seconds=5)) as client:
        block(client, datetime.now().astimezone())
