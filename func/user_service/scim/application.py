"""SCIM 2.0 for users (RFC 7643, 7644, 9865), on the library's core. Importing this module takes a third of a second."""

from http import HTTPStatus
from typing import Any, Final

from scim2_models import SCIMException
from scim2_server.requests import ScimRequest
from scim2_server.responses import ScimResponse

from user_service.encryption.keyring import Keyring
from user_service.errors import NotFound
from user_service.scim.error_documents import ScimError
from user_service.scim.errors import to_service_error
from user_service.scim.lookups import LIST_SCHEMA, parse_lookup
from user_service.scim.models import PROVIDER
from user_service.scim.plain import read_plain
from user_service.scim.service import Charge, DirectoryHandler, DirectoryService
from user_service.scim.storage import UserStorage
from user_service.users.directory import Directory
from user_service.users.service import UserService
from user_service.users.unit_of_work import UserDatabase

USERS_PATH: Final = "/Users"
GROUPS: Final = "Groups"
# The parameters that choose attributes of the answer.
CHOICES: Final = frozenset({"attributes", "excludedAttributes"})
NO_GROUPS: Final[dict[str, Any]] = {
    "schemas": [LIST_SCHEMA],
    "totalResults": 0,
    "itemsPerPage": 0,
    "startIndex": 1,
    "Resources": [],
}


class ScimApplication:
    """Answers SCIM requests over the users of a database. `keys` seal the cursors."""

    def __init__(self, database: UserDatabase, keys: Keyring) -> None:
        self.directory = Directory(database)
        self.keys = keys
        self.indexed = keys.blind_index
        self.service = DirectoryService(PROVIDER, secret=keys.cursor)

    async def answer(self, request: ScimRequest, users: UserService | None, charge: Charge) -> tuple[ScimResponse, int]:
        """The response, and the number of users that were read; 0 for a request that may change users.

        `users` are the operations of the request's transaction; None for a request that only reads. `charge` counts
        operations against the limit of the caller.

        Raises ServiceError, of which the response shows SCIM's form.
        """
        # Compared by value, as in UserDatabase: the key is read from the database again and again.
        if self.indexed != self.keys.blind_index:
            self.indexed = self.keys.blind_index
            self.service = DirectoryService(PROVIDER, secret=self.keys.cursor)
        segments = request.path.strip("/").split("/")
        if segments[0] == GROUPS:
            return answer_groups(request.method, segments[1:]), 0
        storage = UserStorage(self.directory, users)
        if request.path == USERS_PATH and (response := await self.answer_plain(request, storage)) is not None:
            return response, storage.rows
        try:
            with PROVIDER:
                response = await DirectoryHandler(self.service, storage, charge).handle(request)
        except SCIMException as error:
            raise to_service_error(error) from None
        return response, storage.rows

    async def answer_plain(self, request: ScimRequest, storage: UserStorage) -> ScimResponse | None:
        """The response to the two requests of which a synchronisation consists, in their usual form: a look-up, and a
        new user. None for any other.
        """
        if request.method == "GET" and (lookup := parse_lookup(request.query)) is not None:
            found = await self.directory.find([lookup.name])
            storage.rows = len(found)
            return self.service.lookup_response(request.base_url, lookup, found)
        if request.method != "POST" or not CHOICES.isdisjoint(request.query):
            return None
        if document := read_plain(request.body, request.header("content-type")):
            return self.service.creation_response(request.base_url, await storage.create_document(document))
        return None


def answer_groups(method: str, below: list[str]) -> ScimResponse:
    """The empty list of groups. Raises ScimError for what would change one, NotFound for a group."""
    if (method == "GET" and not below) or (method == "POST" and below == [".search"]):
        return ScimResponse(HTTPStatus.OK, dict(NO_GROUPS))
    if method == "POST" and not below:
        raise ScimError(HTTPStatus.NOT_IMPLEMENTED, "Groups are not supported.")
    raise NotFound("There are no groups.")
