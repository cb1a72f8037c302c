"""What the service is measured against: bare FastAPI routes that answer with a user from memory.

Run by `python -m benchmarks.baseline PORT USERS`, where USERS is a JSON file of `{id: user}`. No key check,
rate limit, metrics, request id, ETag, encryption, cache or database: FastAPI's own price, under the server
that the service uses.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from benchmarks.bare_server import serve

app = FastAPI()
users: dict[str, dict[str, Any]] = {}


@app.get("/api/v1/users/{user_id}")
async def read_user(user_id: str) -> dict[str, Any]:
    if user_id not in users:
        raise HTTPException(404)
    return users[user_id]


class Body(BaseModel):
    """What a client sends of a user."""

    external_id: str | None = None
    email: str | None = None
    given_name: str | None = None
    family_name: str | None = None
    display_name: str | None = None
    phone: str | None = None
    locale: str | None = None
    timezone: str | None = None
    preferences: dict[str, Any] = {}
    metadata: dict[str, str | int | float | bool | None] = {}


@app.post("/api/v1/users", status_code=201)
async def create_user(body: Body) -> dict[str, Any]:
    return body.model_dump()


@app.patch("/api/v1/users/{user_id}")
async def change_user(user_id: str, body: Body) -> dict[str, Any]:
    if user_id not in users:
        raise HTTPException(404)
    return users[user_id] | body.model_dump(exclude_unset=True)


def main(port: str, file: str) -> None:
    users.update(json.loads(Path(file).read_bytes()))
    serve(app, port)


if __name__ == "__main__":
    main(*sys.argv[1:])
