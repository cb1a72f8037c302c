"""The steps of a SCIM request that the library leaves to the service, and responses that need no copies of models."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast

import orjson
from pydantic import ValidationError
from scim2_models import (
    BulkOperation,
    Context,
    Error,
    InvalidFilterException,
    InvalidSyntaxException,
    PatchOp,
    PayloadTooLargeException,
    Resource,
    ResourceType,
    ResponseParameters,
    SCIMException,
    ScimPolicy,
    SearchRequest,
)
from scim2_server.conditions import Conditions
from scim2_server.handler import AsyncScimHandler
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse
from scim2_server.routing import Operation
from scim2_server.service import BULK_SUCCESS_STATUS, ScimService, scim_exception_of
from scim2_server.storage import SearchPage

from user_service.errors import ServiceError
from user_service.scim.bulk import BulkWriter
from user_service.scim.errors import to_scim_error, to_service_error
from user_service.scim.lookups import LIST_SCHEMA, Lookup
from user_service.scim.mapping import keep_unnamed
from user_service.scim.models import POLICY, USER_TYPE, UserResource
from user_service.scim.storage import StoredUser, UserStorage
from user_service.users.model import User
from user_service.users.validation import MAX_OBJECT_DEPTH, nesting_depth

Charge = Callable[[int], Awaitable[None]]
# Each operation of a PATCH copies a part of the resource.
MAX_PATCHES: Final = 100
MAX_BULK_PATCHES: Final = 3000
# A bulk request wraps the deepest allowed user in up to eight further levels.
MAX_DEPTH: Final = MAX_OBJECT_DEPTH + 8
# PostgreSQL and JSON take 64 bits.
MAX_START: Final = 2**62
MAX_FILTER_CHARACTERS: Final = 8192
LITERAL: Final = r'"(?:[^"\\]|\\.)*"'
# A literal by itself stays as it is, and so does one without an end: nothing is read twice, however the text is made.
SELECTED_VALUE: Final = re.compile(
    rf'{LITERAL}?|(?<![\w:.-])(?P<attribute>[\w:.-]+)\[(?P<selection>(?:{LITERAL}|[^"\[\]])*)\]'
    rf"\.(?P<part>\w+)\s+(?P<operator>\w\w)\s+(?P<value>{LITERAL}|[\w.+-]+)"
)
DECLARED_ONLY: Final = POLICY.model_copy(update={"unknown": ScimPolicy.Unknown.ignore})


class DirectoryService(ScimService):
    """The library's steps, with users of `UserStorage` as resources."""

    def show(
        self, base_url: str, resource: Resource[Any], parameters: ResponseParameters[Any] | None = None
    ) -> dict[str, Any]:
        """A user as it is sent; `parameters` choose attributes."""
        stored = cast("StoredUser", resource)
        document = stored.document
        location = self.resource_location(base_url, USER_TYPE, stored.id)
        document = {**document, "meta": {**document["meta"], "location": location}}
        if parameters is None or not (parameters.attributes or parameters.excluded_attributes):
            return document
        # An attribute that no schema declares is not one of those asked for.
        policy = DECLARED_ONLY if parameters.attributes else POLICY
        with policy:
            shown = UserResource.model_validate(document)
            body = shown.model_dump(scim_ctx=Context.RESOURCE_QUERY_RESPONSE, response_parameters=parameters)
        excluded = {str(path).lower() for path in parameters.excluded_attributes or ()}
        return {name: value for name, value in body.items() if name.lower() not in excluded}

    def user_response(
        self,
        base_url: str,
        resource: Resource[Any],
        parameters: ResponseParameters[Any] | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> ScimResponse:
        stored = cast("StoredUser", resource)
        headers = {
            "Content-Location": self.resource_location(base_url, USER_TYPE, stored.id),
            "ETag": stored.version,
        }
        return ScimResponse(status, self.show(base_url, resource, parameters), headers)

    def creation_response(
        self, base_url: str, created: Resource[Any], parameters: ResponseParameters[Any] | None = None
    ) -> ScimResponse:
        response = self.user_response(base_url, created, parameters, status=HTTPStatus.CREATED)
        response.headers["Location"] = response.headers["Content-Location"]
        return response

    def query_response(
        self,
        base_url: str,
        resource: Resource[Any],
        response_parameters: ResponseParameters[Any],
        conditions: Conditions,
    ) -> ScimResponse:
        response = self.user_response(base_url, resource, response_parameters)
        if self.check_preconditions(resource, "GET", conditions):
            return response
        return ScimResponse(HTTPStatus.NOT_MODIFIED, None, {"ETag": response.headers["ETag"]})

    def replacement_response(
        self, base_url: str, resource: Resource[Any], response_parameters: ResponseParameters[Any]
    ) -> ScimResponse:
        return self.user_response(base_url, resource, response_parameters)

    def patch_response(
        self, base_url: str, resource: Resource[Any], response_parameters: ResponseParameters[Any]
    ) -> ScimResponse:
        """The user in any case: Okta and Entra ID read it."""
        return self.user_response(base_url, resource, response_parameters)

    def search_response(
        self,
        base_url: str,
        resource_types: list[ResourceType],
        page: SearchPage,
        search_request: SearchRequest[Any],
    ) -> ScimResponse:
        response = super().search_response(base_url, resource_types, replace(page, resources=[]), search_request)
        shown = [self.show(base_url, resource, search_request) for resource in page.resources]
        response.body = {**(response.body or {}), "itemsPerPage": len(shown), "Resources": shown}
        return response

    def read_search(self, resource_types: list[ResourceType], payload: Any) -> tuple[SearchRequest[Any], Any]:
        if isinstance(payload, dict):
            payload = {key: read_filter(value) if key.lower() == "filter" else value for key, value in payload.items()}
        search_request, position = super().read_search(resource_types, payload)
        if search_request.start_index is not None:
            search_request.start_index = min(search_request.start_index, MAX_START)
        return search_request, position

    def read_body(self, model: type[Any], body: bytes, content_type: str | None, scim_ctx: Context) -> Any:
        payload = self.decode_body(body, content_type)
        if scim_ctx is Context.BULK_REQUEST:
            payload = split_bulk_operations(payload)
            # Counted before they are validated, which takes longer.
            if count_patches(payload) > MAX_BULK_PATCHES:
                detail = f"A bulk request has up to {MAX_BULK_PATCHES} operations of PATCH."
                raise PayloadTooLargeException(detail=detail)
        try:
            return model.model_validate(payload, scim_ctx=scim_ctx)
        except ValidationError as error:
            raise scim_exception_of(error) from None

    def decode_body(self, body: bytes, content_type: str | None) -> Any:
        """Strict JSON: no NaN, no lone surrogates, nothing deeper than any resource is."""
        self.ensure_json(content_type)
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidSyntaxException(detail=f"The body is not JSON: {error}.") from None
        if nesting_depth(payload) > MAX_DEPTH:
            raise InvalidSyntaxException(detail=f"The body is nested deeper than {MAX_DEPTH}.")
        return payload

    def lookup_response(self, base_url: str, lookup: Lookup, users: Sequence[User]) -> ScimResponse:
        """The list of the users that a look-up has found."""
        shown = users[lookup.start - 1 : lookup.start - 1 + lookup.size]
        body = {
            "schemas": [LIST_SCHEMA],
            "totalResults": len(users),
            "itemsPerPage": len(shown),
            "startIndex": lookup.start,
            "Resources": [self.show(base_url, StoredUser(user).as_resource()) for user in shown],
        }
        return ScimResponse(HTTPStatus.OK, body)

    def read_patch(self, resource_type: ResourceType, body: bytes, content_type: str | None) -> "PatchOp[Any]":
        payload = split_operations(self.decode_body(body, content_type))
        if len(list_operations(payload)) > MAX_PATCHES:
            raise PayloadTooLargeException(detail=f"A PATCH has up to {MAX_PATCHES} operations.")
        try:
            return PatchOp[UserResource].model_validate(payload, scim_ctx=Context.RESOURCE_PATCH_REQUEST)
        except ValidationError as error:
            raise scim_exception_of(error) from None

    def bulk_success(
        self,
        base_url: str,
        operation: BulkOperation[Resource[Any]],
        outcome: dict[str, Any],
        resource: Resource[Any] | None,
    ) -> dict[str, Any]:
        assert operation.method is not None
        outcome["status"] = BULK_SUCCESS_STATUS[operation.method]
        if resource is not None:
            assert resource.meta is not None
            outcome["location"] = self.resource_location(base_url, USER_TYPE, str(resource.id))
            outcome["version"] = resource.meta.version
        return outcome

    # The name is the library's, whose method this replaces.
    @staticmethod
    def error_of(exception: Exception) -> Error:
        if isinstance(exception, SCIMException):
            exception = to_service_error(exception)
        if isinstance(exception, ServiceError):
            return to_scim_error(exception)
        return ScimService.error_of(exception)


class DirectoryHandler(AsyncScimHandler):
    """The library's handler; what it changes, it changes under the lock of the user, so that no write is lost."""

    service: DirectoryService
    storage: UserStorage

    def __init__(self, service: DirectoryService, storage: UserStorage, charge: Charge) -> None:
        """`charge` counts a number of operations against the limit of the caller."""
        super().__init__(service, storage)
        self.storage = storage
        self.charge = charge

    async def create(self, request: ScimRequest) -> ScimResponse:
        """POST. As with the other methods, the request may choose the attributes of the answer (RFC 7644, 3.9)."""
        with self.service.provider:
            self.service.route(request, Operation.create)
            parameters = self.service.read_response_parameters(USER_TYPE, request.query)
            resource = self.service.read_creation(USER_TYPE, request.body, request.header("Content-Type"))
            created = await self.storage.create(USER_TYPE, resource)
            return self.service.creation_response(request.base_url, created, parameters)

    async def replace_resource(
        self,
        resource_type: ResourceType,
        current: Resource[Any],
        replacement: Resource[Any],
        conditions: Conditions,
    ) -> Resource[Any]:
        """PUT. It leaves `active` and the metadata unless it names them."""
        stored = cast("StoredUser", current)
        self.service.check_preconditions(current, "PUT", conditions)
        document = keep_unnamed(replacement.model_dump(mode="json"), stored.document)
        return await self.storage.write(stored.user, document)

    async def patch_resource(
        self, resource_type: ResourceType, resource_id: str, patch_op: "PatchOp[Any]", conditions: Conditions
    ) -> Resource[Any]:
        current = await self.storage.get(resource_type, resource_id)
        patched = self.service.apply_patch(cast("StoredUser", current).to_resource(), patch_op, conditions)
        return current if patched is None else await self.storage.update(resource_type, patched)

    async def bulk(self, request: ScimRequest) -> ScimResponse:
        with self.service.provider:
            self.service.route(request, Operation.bulk)
            plan = self.service.read_bulk(request.body, request.header("Content-Type"))
            await self.charge(len(plan.operations))
            await BulkWriter(self.service, self.storage, plan, request.base_url).run_all()
            return self.service.bulk_response(plan)


def read_filter(text: Any) -> Any:
    """A filter in the grammar of RFC 7644. Raises InvalidFilterException for one that is too long."""
    if not isinstance(text, str):
        return text
    if len(text) > MAX_FILTER_CHARACTERS:
        raise InvalidFilterException(detail=f"The filter is longer than {MAX_FILTER_CHARACTERS} characters.")
    return move_selected_values(text)


def move_selected_values(text: str) -> str:
    """A filter with `emails[type eq "work"].value eq "x"`, as Entra ID writes it, in the grammar of RFC 7644:
    `emails[(type eq "work") and value eq "x"]`.
    """
    return SELECTED_VALUE.sub(rewrite_selected_value, text) if "]." in text else text


def rewrite_selected_value(match: re.Match[str]) -> str:
    attribute, selection, part, operator, value = match.group("attribute", "selection", "part", "operator", "value")
    return match[0] if attribute is None else f"{attribute}[({selection}) and {part} {operator} {value}]"


def split_operations(payload: Any) -> Any:
    """The body of a PATCH, in which a key such as `emails[type eq "work"].value` of an operation without a path, as
    Entra ID sends it, is an operation of its own.
    """
    return replace_operations(
        payload, lambda operations: [part for operation in operations for part in split_operation(operation)]
    )


def split_bulk_operations(payload: Any) -> Any:
    """The body of a bulk request, with the data of each PATCH as `split_operations` returns it."""
    return replace_operations(payload, lambda operations: [split_data(operation) for operation in operations])


def replace_operations(payload: Any, change: Callable[[list[Any]], list[Any]]) -> Any:
    """A body with other operations; as it is, if it has none."""
    name = find_key(payload, "operations")
    if name is None or not isinstance(payload[name], list):
        return payload
    return {**payload, name: change(payload[name])}


def find_key(payload: Any, name: str) -> str | None:
    """The key of an attribute, in any case; of several, the last one, whose value the library takes."""
    return next((key for key in reversed(payload) if key.lower() == name), None) if isinstance(payload, dict) else None


def list_operations(payload: Any) -> list[Any]:
    name = find_key(payload, "operations")
    return payload[name] if name is not None and isinstance(payload[name], list) else []


def count_patches(payload: Any) -> int:
    """The number of operations in the data of the PATCHes of a bulk request."""
    operations = list_operations(payload)
    return sum(len(list_operations(item[name])) for item in operations if (name := find_patch_data(item)) is not None)


def find_patch_data(operation: Any) -> str | None:
    """The key of the data of a PATCH in a bulk request; None for other operations."""
    method = find_key(operation, "method")
    is_patch = method is not None and operation[method] == BulkOperation.Method.patch
    return find_key(operation, "data") if is_patch else None


def split_data(operation: Any) -> Any:
    name = find_patch_data(operation)
    return operation if name is None else {**operation, name: split_operations(operation[name])}


def split_operation(operation: Any) -> Iterator[Any]:
    path, name = find_key(operation, "path"), find_key(operation, "value")
    value = operation[name] if name is not None and not (path and operation[path]) else None
    selections = {key: item for key, item in value.items() if "[" in key} if isinstance(value, dict) else {}
    if name is None or not isinstance(value, dict) or not selections:
        yield operation
        return
    if rest := {key: item for key, item in value.items() if key not in selections}:
        yield {**operation, name: rest}
    for key, item in selections.items():
        yield {**operation, path or "path": key, name: item}
