"""JSON Schemas of the data of events, by the names in events/types.py."""

from functools import cache
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from user_service.events.types import BATCH_REFUSED, SCHEMA_URI, USER_CHANGE
from user_service.users.batch.bodies import CreateBatch, FindBatch, UpdateBatch, UserBatch
from user_service.users.batch.response_schemas import BatchRead, BatchRefused, FoundRead

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class UserChange(BaseModel):
    """One version of a user: names of fields, never their values."""

    id: UUID
    version: int = Field(ge=1)
    status: Literal["pending", "active", "suspended", "deleted"] = Field(description="The status after the change")
    changed: list[str] = Field(description="Names of the fields that changed")
    actor: str = Field(
        description="The fingerprint of an API key, a keyed hash of a token's subject, or an alias of one"
    )


# What the service reads is checked as it comes in, what it writes as it goes out.
EVENT_DATA: Final[dict[str, tuple[type[BaseModel], JsonSchemaMode]]] = {
    USER_CHANGE: (UserChange, "serialization"),
    "batch-create.v1": (CreateBatch, "validation"),
    "batch-update.v1": (UpdateBatch, "validation"),
    "batch-users.v1": (UserBatch, "validation"),
    "batch-find.v1": (FindBatch, "validation"),
    "batch-result.v1": (BatchRead, "serialization"),
    "find-result.v1": (FoundRead, "serialization"),
    BATCH_REFUSED: (BatchRefused, "serialization"),
}


@cache
def make_schema(name: str) -> dict[str, Any]:
    """A schema with all that it refers to."""
    model, mode = EVENT_DATA[name]
    return {"$schema": DIALECT, "$id": SCHEMA_URI.format(name), **model.model_json_schema(mode=mode)}


def make_components(prefix: str) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """A reference to each schema, by its name, and the definitions below `prefix` that the references lead to."""
    references, definitions = models_json_schema(list(EVENT_DATA.values()), ref_template=prefix + "{model}")
    return {name: references[pair] for name, pair in EVENT_DATA.items()}, definitions["$defs"]
