"""Users as SCIM resources (RFC 7643), in JSON, and back. docs/scim.md has the table.

What a user has no field for is kept in `User.scim`, by its SCIM name. A value that a field holds in another spelling,
such as a locale with an underscore, is kept there too, and shown as long as the field still holds what it stands for.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from user_service.encryption.blind_index import Scalar, scalar_text
from user_service.errors import FieldError, ValidationFailed
from user_service.scim.addresses import default_emails, email_entries, phone_entries, read_emails, read_phone
from user_service.users.model import User
from user_service.users.provisioning import ProvisionedUpdate, ProvisionedUser
from user_service.users.validation import check_locale, check_timezone
from user_service.users.validation_errors import document_error
from user_service.values.emails import parse_email
from user_service.values.timestamps import format_rfc3339

CORE: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
METADATA: Final = "urn:user-service:scim:schemas:metadata:1.0:User"
RESOURCE_TYPE: Final = "User"

NAME_FIELDS: Final = {"givenName": "given_name", "familyName": "family_name"}
# What the service itself says of a resource, what groups say, and what must not be kept.
NEVER_KEPT: Final = ("schemas", "id", "meta", "groups", "password", CORE)
BodyT = TypeVar("BodyT", bound=BaseModel)
# By the name of a field: what an error calls it.
SCIM_NAMES: Final = {
    "email": "emails",
    "aliases": "emails",
    "username": "userName",
    "external_id": "externalId",
    "given_name": "name.givenName",
    "family_name": "name.familyName",
    "display_name": "displayName",
    "metadata": f"{METADATA}:metadata",
    "scim": "what has no field",
}


def spelling_check(check: Callable[[str], str]) -> Callable[[Any], str | None]:
    """A function that returns the value of a field for a text, None for one that the field does not hold."""

    def parse(text: Any) -> str | None:
        try:
            return check(text) if text else None
        except PydanticCustomError:
            return None

    return parse


# Attributes whose values may come in spellings that their fields do not hold.
SPELLED: Final = {"locale": spelling_check(check_locale), "timezone": spelling_check(check_timezone)}


def to_document(user: User) -> dict[str, Any]:
    """The resource of a living user, without its location."""
    kept = user.scim
    document: dict[str, Any] = {"schemas": [CORE], "id": str(user.id)}
    if user.external_id is not None:
        document["externalId"] = user.external_id
    document["userName"] = user.username if user.username is not None else user.email
    if name := {
        **kept.get("name", {}),
        **{scim: value for scim, field in NAME_FIELDS.items() if (value := getattr(user, field)) is not None},
    }:
        document["name"] = name
    if user.display_name is not None:
        document["displayName"] = user.display_name
    for attribute, parse in SPELLED.items():
        value, sent = getattr(user, attribute), kept.get(attribute)
        if shown := sent if sent is not None and parse(sent) == value else value:
            document[attribute] = shown
    document["active"] = user.status == "active"
    document["emails"] = email_entries(user)
    if phones := phone_entries(user):
        document["phoneNumbers"] = phones
    for attribute, value in kept.items():
        if attribute not in document and attribute not in SPELLED and attribute != "phoneNumbers":
            document[attribute] = value
    if user.metadata:
        # jsonb has an order of its own.
        document[METADATA] = {"metadata": [metadata_entry(*pair) for pair in sorted(user.metadata.items())]}
    document["schemas"] += [attribute for attribute in document if attribute.lower().startswith("urn:")]
    document["meta"] = {
        "resourceType": RESOURCE_TYPE,
        "created": format_rfc3339(user.created_at),
        "lastModified": format_rfc3339(user.updated_at),
        "version": etag(user.version),
    }
    return document


def etag(version: int) -> str:
    """Weak, because what is shown depends on `attributes` too."""
    return f'W/"{version}"'


def new_body(document: Mapping[str, Any]) -> ProvisionedUser:
    """The body of a new user. Raises ValidationFailed."""
    fields = read_fields(document)
    fields["metadata"] = read_metadata(document, {})
    fields["status"] = "suspended" if document.get("active") is False else "active"
    return validate(ProvisionedUser, {name: value for name, value in fields.items() if value is not None})


def update_body(document: Mapping[str, Any], user: User) -> ProvisionedUpdate:
    """The change that makes a user what the document says. Raises ValidationFailed.

    A document without `active` leaves the status.
    """
    fields = read_fields(document)
    metadata = read_metadata(document, user.metadata)
    # In a merge patch null removes, so that a value null stays only where nothing is said of it.
    removed = [
        name
        for name, value in user.metadata.items()
        if name not in metadata or (metadata[name] is None and value is not None)
    ]
    present = {name: value for name, value in metadata.items() if value is not None}
    fields["metadata"] = {**dict.fromkeys(removed), **present}
    active = document.get("active")
    if active is True:
        fields["status"] = "active"
    elif active is False and user.status == "active":
        fields["status"] = "suspended"
    return validate(ProvisionedUpdate, fields)


def keep_unnamed(document: dict[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a PUT, which leaves the metadata unless it names them: other callers set them too."""
    if METADATA not in document and METADATA in current:
        document[METADATA] = current[METADATA]
    return document


def read_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a user but for its status and metadata. Raises ValidationFailed for a user without an address."""
    username = document.get("userName") or ""
    email, aliases = read_emails(document.get("emails") or [])
    if email is None and parse_email(username) is None:
        raise refuse("email", "missing", "must hold an address, because userName is none")
    name = document.get("name") or {}
    fields: dict[str, Any] = {
        "external_id": document.get("externalId") or None,
        "username": username,
        "email": email if email is not None else username,
        "aliases": aliases,
        "display_name": document.get("displayName") or None,
        "phone": read_phone(document.get("phoneNumbers") or []),
        **{field: name.get(scim) or None for scim, field in NAME_FIELDS.items()},
        **{attribute: parse(document.get(attribute)) for attribute, parse in SPELLED.items()},
    }
    fields["scim"] = keep(document, fields)
    return fields


def keep(document: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is not shown from the fields alone."""
    mapped = {"externalId", "userName", "displayName", "active", METADATA, *NEVER_KEPT}
    kept = {attribute: value for attribute, value in document.items() if attribute not in mapped}
    name = {part: value for part, value in (kept.pop("name", None) or {}).items() if part not in NAME_FIELDS}
    if name:
        kept["name"] = name
    for attribute in SPELLED:
        if kept.get(attribute) == fields[attribute]:
            kept.pop(attribute, None)
    if not kept.get("emails") or kept["emails"] == default_emails(fields["email"], fields["aliases"]):
        kept.pop("emails", None)
    if kept.get("phoneNumbers") == [{"value": fields["phone"], "type": "work"}]:
        kept.pop("phoneNumbers")
    enterprise = kept.get(ENTERPRISE)
    if enterprise and (enterprise.get("manager") or {}).get("value") == "":
        kept[ENTERPRISE] = {part: value for part, value in enterprise.items() if part != "manager"}
    return {attribute: value for attribute, value in kept.items() if value not in (None, "", {}, [])}


def metadata_entry(name: str, value: Scalar) -> dict[str, str]:
    """An entry of the metadata extension: the value as text, which null is without."""
    return {"name": name} if value is None else {"name": name, "value": scalar_text(value)}


def read_metadata(document: Mapping[str, Any], current: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The metadata that a document carries. A number or boolean that another caller has set stays one as long as its
    text does. Raises ValidationFailed.
    """
    entries = (document.get(METADATA) or {}).get("metadata") or []
    metadata: dict[str, Scalar] = {}
    for entry in entries:
        name, text = entry.get("name"), entry.get("value")
        if not name or name in metadata:
            raise refuse("metadata", "metadata", "must have a name of its own in each entry")
        value = current.get(name)
        metadata[name] = value if value is not None and scalar_text(value) == text else text
    return metadata


def validate(model: type[BodyT], fields: Mapping[str, Any]) -> BodyT:
    """A body of these fields. Raises ValidationFailed, which calls them by their SCIM names."""
    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        raise ValidationFailed(errors=[scim_fault(document_error(fault)) for fault in error.errors()]) from None


def scim_fault(fault: FieldError) -> FieldError:
    field, _, rest = fault.pointer.removeprefix("/").partition("/")
    name = SCIM_NAMES.get(field, field)
    return fault._replace(pointer=name if name.startswith("emails") or not rest else f"{name}/{rest}")


def refuse(field: str, code: str, detail: str) -> ValidationFailed:
    return ValidationFailed(errors=[FieldError(SCIM_NAMES[field], code, detail)])
