"""The resources as `scim2-models` describes them, and what is tolerated of clients that deviate from the RFCs."""

from functools import cached_property
from typing import Annotated, Any, Final, TypeVar

import scim2_models as scim
from pydantic import BeforeValidator, Field
from scim2_models import CaseExact, Mutability, Required, ScimPolicy, ScimProvider

from user_service.scim.addresses import address_key
from user_service.scim.mapping import METADATA
from user_service.values.case_folding import fold_case

# Of one request of /Bulk, and of its body.
MAX_OPERATIONS: Final = 1000
MAX_BULK_BYTES: Final = 2 * 1024 * 1024
MAX_PAGE: Final = 200
CURSOR_SECONDS: Final = 3600

ExtensionT = TypeVar("ExtensionT", bound=scim.Extension)


def as_reference(value: Any) -> Any:
    """Entra ID sends a manager as the bare id."""
    return {"value": value} if isinstance(value, str) else value


class Email(scim.Email):
    # The service has rules of its own for addresses.
    value: str | None = None


class Manager(scim.ComplexAttribute):
    """As in RFC 7643, but `$ref` need not be sent: no identity provider knows it."""

    value: Annotated[str | None, CaseExact.true] = None
    ref: Annotated[
        scim.Reference["User"] | None,  # type: ignore[type-arg]
        Field(serialization_alias="$ref", validation_alias="$ref"),
    ] = None
    display_name: Annotated[str | None, Mutability.read_only] = None


class EnterpriseUser(scim.EnterpriseUser):
    manager: Annotated[Manager | None, BeforeValidator(as_reference)] = None  # type: ignore[assignment]


class Metadata(scim.ComplexAttribute):
    """One entry of a user's metadata."""

    name: Annotated[str | None, Required.true, CaseExact.true] = None
    value: Annotated[str | None, CaseExact.true] = None


class MetadataUser(scim.Extension):
    """The metadata of a user of this service."""

    __schema__ = scim.URN(METADATA)

    metadata: list[Metadata] | None = None


class User(scim.User[ExtensionT]):
    emails: list[Email] | None = None  # type: ignore[assignment]


UserResource = User[EnterpriseUser | MetadataUser]
USER_TYPE: Final = scim.ResourceType.from_resource(UserResource)


def comparison_key(binding: Any, value: str) -> str:
    """The text that filters compare: as the service compares it."""
    if binding.case_exact:
        return value
    if binding.field_name == "emails" or binding.model is Email:
        return address_key(value)
    return fold_case(value.strip())


POLICY: Final = ScimPolicy(
    unknown=ScimPolicy.Unknown.keep,
    remove_value_as_filter=ScimPolicy.RemoveValue.apply,
    unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
)
# How filters are evaluated. It is a policy of its own, because the library would try the key on every text of a body.
MATCHING: Final = POLICY.model_copy(update={"comparison_key": comparison_key})
CONFIG: Final = scim.ServiceProviderConfig(
    patch=scim.Patch(supported=True),
    bulk=scim.Bulk(supported=True, max_operations=MAX_OPERATIONS, max_payload_size=MAX_BULK_BYTES),
    filter=scim.Filter(supported=True, max_results=MAX_PAGE),
    change_password=scim.ChangePassword(supported=False),
    sort=scim.Sort(supported=True),
    etag=scim.ETag(supported=True),
    pagination=scim.Pagination(
        cursor=True,
        index=True,
        default_pagination_method=scim.Pagination.DefaultPaginationMethod.index,
        default_page_size=MAX_PAGE,
        max_page_size=MAX_PAGE,
        cursor_timeout=CURSOR_SECONDS,
    ),
    authentication_schemes=[
        scim.AuthenticationScheme(
            type=scim.AuthenticationScheme.Type.oauthbearertoken,
            name="Bearer token",
            description="An API key or a JWT with the scope scim, in Authorization: Bearer",
            primary=True,
        )
    ],
)


class DirectoryProvider(ScimProvider):
    """The description of the service, with a schema of users that asks for an address.

    A user without one is taken where its userName is an address, so that the models do not require it.
    """

    @cached_property
    def schemas(self) -> tuple[scim.Schema, ...]:
        published = [schema.model_copy(deep=True) for schema in super().schemas]
        for schema in published:
            for attribute in schema.attributes or ():
                if attribute.name == "emails":
                    value = next(part for part in attribute.sub_attributes or () if part.name == "value")
                    attribute.required = value.required = Required.true
        return tuple(published)


PROVIDER: Final = DirectoryProvider(
    models=[User, EnterpriseUser, MetadataUser], resource_types=[USER_TYPE], config=CONFIG, policy=POLICY
)
