"""`/Bulk` (RFC 7644, 3.7): the operations in the order of the library's plan, written in sets.

Operations of one method that follow each other are one set, unless they are about one user or name what another one of
them creates. A set has the effect that its operations have one by one.
"""

from asyncio import sleep
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from scim2_models import BulkOperation, NotFoundException, PatchOp, Resource, SCIMException
from scim2_server.bulk import BulkPlan, BulkStep
from scim2_server.conditions import Conditions
from scim2_server.service import ScimService

from user_service.errors import ServiceError
from user_service.scim.mapping import keep_unnamed, new_body, update_body
from user_service.scim.storage import StoredUser, UserStorage
from user_service.users.service import Outcome
from user_service.values.ids import parse_canonical_id

Operation = BulkOperation[Resource[Any]]
Method = BulkOperation.Method
# The outcome of an operation, or why it can't be written.
Result = Outcome | SCIMException | ServiceError
T = TypeVar("T")


class TooManyErrors(Exception):
    """The operation at `place` is the last one that `failOnErrors` lets run."""

    def __init__(self, place: int) -> None:
        super().__init__("too many errors")
        self.place = place


def split_runs(plan: BulkPlan) -> Iterator[list[BulkStep]]:
    """The steps of a plan in runs, each of which is one set."""
    run: list[BulkStep] = []
    about: set[str | None] = set()
    for step in plan.steps:
        operation = plan.operation(step)
        is_other = bool(run) and plan.operation(run[-1]).method != operation.method
        needs_run = bool({other.index for other in run} & set(plan.dependencies(step.index)))
        if is_other or needs_run or operation.resource_id in about:
            yield run
            run, about = [], set()
        run.append(step)
        if operation.resource_id is not None:
            about.add(operation.resource_id)
    if run:
        yield run


class BulkWriter:
    """Runs the plan of one request in the transaction of a storage, and records the outcome of each operation."""

    def __init__(self, service: ScimService, storage: UserStorage, plan: BulkPlan, base_url: str) -> None:
        self.service = service
        self.storage = storage
        self.plan = plan
        self.base_url = base_url

    async def run_all(self) -> None:
        for run in split_runs(self.plan):
            if self.plan.stopped:
                return
            await self.run(run)

    async def run(self, steps: Sequence[BulkStep]) -> None:
        """Runs one set; with `failOnErrors`, as far as it goes before there are too many errors."""
        if self.plan.fail_on_errors is None:
            self.record(steps, await self.outcomes(steps))
            return
        try:
            async with self.storage.undone_on_error():
                outcomes = await self.outcomes(steps)
                self.check_errors(outcomes)
        except TooManyErrors as stop:
            steps = steps[: stop.place + 1]
            outcomes = await self.outcomes(steps)
        self.record(steps, outcomes)

    def check_errors(self, outcomes: Sequence[tuple[dict[str, Any], Any]]) -> None:
        """Raises TooManyErrors where operations have run that should not have."""
        left = max(self.plan.fail_on_errors or 0, 1) - self.plan.errors
        failed = [place for place, (outcome, _) in enumerate(outcomes) if outcome["status"] >= 400]
        if left <= len(failed) and failed[left - 1] + 1 < len(outcomes):
            raise TooManyErrors(failed[left - 1])

    def record(self, steps: Sequence[BulkStep], outcomes: Sequence[tuple[dict[str, Any], Any]]) -> None:
        for step, (outcome, resource) in zip(steps, outcomes, strict=True):
            self.plan.record(step, outcome, resource)

    async def outcomes(self, steps: Sequence[BulkStep]) -> list[tuple[dict[str, Any], Any]]:
        """The outcome of each operation, and the user that it created or changed."""
        begun = [self.service.bulk_outcome(self.base_url, self.plan.operation(step)) for step in steps]
        resolved = [self.resolve(step, outcome) for step, outcome in zip(steps, begun, strict=True)]
        results = await apply(resolved, self.write)
        return [self.finish(*item) for item in zip(steps, begun, results, strict=True)]

    def resolve(self, step: BulkStep, outcome: dict[str, Any]) -> Operation | Exception:
        """The operation with the ids of what earlier ones have created, or why it can't run."""
        try:
            resource_type = self.service.route_bulk_operation(self.plan.operation(step))
            operation = self.plan.resolve(step)
            self.service.locate_bulk_operation(self.base_url, resource_type, operation, outcome)
        except SCIMException as error:
            return error
        failure = self.service.bulk_validation_failure(operation, outcome)
        return operation if failure is None else SCIMException.from_error(failure["response"])

    def finish(self, step: BulkStep, outcome: dict[str, Any], result: Any) -> tuple[dict[str, Any], Any]:
        error = result.error if isinstance(result, Outcome) else result
        if error is not None:
            return self.service.bulk_failure(outcome, error), None
        operation = self.plan.operation(step)
        user = None if operation.method == Method.delete else StoredUser(result.user).as_resource()
        return self.service.bulk_success(self.base_url, operation, outcome, user), user

    async def write(self, operations: Sequence[Operation]) -> list[Result]:
        """Writes operations of one method as a set."""
        method = operations[0].method if operations else None
        if method == Method.post:
            documents = [cast("Resource[Any]", operation.data).model_dump(mode="json") for operation in operations]
            return await apply([attempt(new_body, document) for document in documents], self.storage.create_all)
        stored = await self.lock(operations)
        if method == Method.delete:
            checked = [attempt(self.check, *item) for item in zip(operations, stored, strict=True)]
            return await apply(checked, self.storage.delete_all)
        changes = []
        for item in zip(operations, stored, strict=True):
            changes.append(attempt(self.change, *item))
            # Each takes a while; other requests run in between.
            await sleep(0)
        return await apply(changes, self.storage.update_all)

    async def lock(self, operations: Sequence[Operation]) -> list[StoredUser | None]:
        """The living users that operations are about, locked by one statement."""
        ids = [parse_canonical_id(operation.resource_id or "") for operation in operations]
        locked = await self.storage.changes.repository.lock(user_id for user_id in ids if user_id is not None)
        living = {user_id: user for user_id, user in locked.items() if not user.is_deleted}
        return [StoredUser(living[user_id]) if user_id in living else None for user_id in ids]

    def check(self, operation: Operation, stored: StoredUser | None) -> StoredUser:
        """The user of an operation. Raises NotFoundException, PreconditionFailedException."""
        if stored is None:
            raise NotFoundException(detail="No such user.")
        conditions = Conditions(if_match=operation.version)
        self.service.check_preconditions(stored.as_resource(), str(operation.method), conditions)
        return stored

    def change(self, operation: Operation, stored: StoredUser | None) -> Any:
        """A locked user, and the change that PUT or PATCH makes of it. Raises ServiceError, SCIMException."""
        stored = self.check(operation, stored)
        if isinstance(operation.data, PatchOp):
            resource = stored.to_resource()
            operation.data.patch(resource)
            document: Mapping[str, Any] = resource.model_dump(mode="json")
        else:
            document = keep_unnamed(cast("Resource[Any]", operation.data).model_dump(mode="json"), stored.document)
        return stored.user, update_body(document, stored.user)


def attempt(make: Callable[..., T], *arguments: Any) -> T | Exception:
    """What a function returns, or the error by which it refuses an item."""
    try:
        return make(*arguments)
    except (ServiceError, SCIMException) as error:
        return error


async def apply(items: Sequence[Any], write: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]) -> list[Any]:
    """The results of a set, in which the items that are errors have no part and are their own result."""
    written = iter(await write([item for item in items if not isinstance(item, Exception)]))
    return [item if isinstance(item, Exception) else next(written) for item in items]
