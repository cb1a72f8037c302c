"""The steps of a SCIM request that the library leaves to the service, and responses that need no copies of models."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, cast

import orjson
from pydantic import ValidationError
from scim2_models import (
    BulkOperation,
    Context,
    Error,
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
from scim2_server.bulk import BulkPlan
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
# Of a bulk request with a PATCH of what is nested as deep as a user may be.
MAX_DEPTH: Final = MAX_OBJECT_DEPTH + 8
# PostgreSQL and JSON take 64 bits.
MAX_START: Final = 2**62
LITERAL: Final = r'"(?:[^"\\]|\\.)*"'
# A literal by itself stays as it is.
SELECTED_VALUE: Final = re.compile(
    rf'{LITERAL}|(?P<attribute>[\w:.-]+)\[(?P<selection>(?:{LITERAL}|[^"\]])*)\]\.(?P<part>\w+)\s+(?P<operator>\w\w)\s+'
    rf"(?P<value>{LITERAL}|[\w.+-]+)"
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

    def creation_response(self, base_url: str, created: Resource[Any]) -> ScimResponse:
        response = self.user_response(base_url, created, status=HTTPStatus.CREATED)
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
        if isinstance(payload, dict) and isinstance(text := payload.get("filter"), str):
            payload = {**payload, "filter": move_selected_values(text)}
        search_request, position = super().read_search(resource_types, payload)
        if search_request.start_index is not None:
            search_request.start_index = min(search_request.start_index, MAX_START)
        return search_request, position

    def read_body(self, model: type[Any], body: bytes, content_type: str | None, scim_ctx: Context) -> Any:
        payload = self.decode_body(body, content_type)
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

    def read_bulk(self, body: bytes, content_type: str | None) -> BulkPlan:
        plan = super().read_bulk(body, content_type)
        patches = [data for operation in plan.operations if isinstance(data := operation.data, PatchOp)]
        if sum(len(patch.operations or ()) for patch in patches) > MAX_BULK_PATCHES:
            raise PayloadTooLargeException(detail=f"A bulk request has up to {MAX_BULK_PATCHES} operations of PATCH.")
        return plan

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
        try:
            patch = PatchOp[UserResource].model_validate(payload, scim_ctx=Context.RESOURCE_PATCH_REQUEST)
        except ValidationError as error:
            raise scim_exception_of(error) from None
        if len(patch.operations or ()) > MAX_PATCHES:
            raise PayloadTooLargeException(detail=f"A PATCH has up to {MAX_PATCHES} operations.")
        return patch

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

    storage: UserStorage

    def __init__(self, service: DirectoryService, storage: UserStorage, charge: Charge) -> None:
        """`charge` counts a number of operations against the limit of the caller."""
        super().__init__(service, storage)
        self.storage = storage
        self.charge = charge

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
    name = next((key for key in payload if key.lower() == "operations"), None) if isinstance(payload, dict) else None
    if name is None or not isinstance(payload[name], list):
        return payload
    return {**payload, name: [part for operation in payload[name] for part in split_operation(operation)]}


def split_operation(operation: Any) -> Iterator[Any]:
    value = operation.get("value") if isinstance(operation, Mapping) and not operation.get("path") else None
    selections = [key for key in value if "[" in key] if isinstance(value, dict) else []
    if not isinstance(value, dict) or not selections:
        yield operation
        return
    if rest := {key: item for key, item in value.items() if key not in selections}:
        yield {**operation, "value": rest}
    for key in selections:
        yield {**operation, "path": key, "value": value[key]}
