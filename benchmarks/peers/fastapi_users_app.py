"""fastapi-users with SQLAlchemy and asyncpg, as its documentation sets it up: PROGRAM PORT DATABASE_URL USERS FILE.

Makes a superuser and USERS users, writes the superuser's token and the ids into FILE as JSON, and serves. The library
has routes that read and change a user by id. The others are what its documentation leaves to the application: they use
the library's adapter of the database or its table, and ask for the superuser as the library's routes do.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from pydantic import BaseModel, EmailStr
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

PORT, URL, COUNT, FILE = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
SECRET = "a-secret-of-a-private-run-on-loopback"
engine = create_async_engine(URL.replace("postgresql://", "postgresql+asyncpg://"), pool_size=20)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    __tablename__ = "peer_users"


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    pass


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


async def user_manager(opened: Annotated[AsyncSession, Depends(session)]) -> AsyncIterator[UserManager]:
    yield UserManager(SQLAlchemyUserDatabase(opened, User))


strategy = JWTStrategy(secret=SECRET, lifetime_seconds=3600)
backend = AuthenticationBackend("jwt", BearerTransport(tokenUrl="login"), lambda: strategy)
users = FastAPIUsers[User, uuid.UUID](user_manager, [backend])
app = FastAPI()
app.include_router(
    users.get_users_router(schemas.BaseUser[uuid.UUID], schemas.BaseUserUpdate), prefix="/users", tags=["users"]
)


superuser = Depends(users.current_user(superuser=True))
Manager = Annotated[UserManager, Depends(user_manager)]
Document = schemas.BaseUser[uuid.UUID]


class NewUser(BaseModel):
    email: EmailStr


class Keys(BaseModel):
    emails: list[EmailStr]


@app.get("/find", response_model=list[Document], dependencies=[superuser])
async def find(email: EmailStr, manager: Manager) -> Any:
    found = await manager.user_db.get_by_email(email)
    return [] if found is None else [found]


@app.get("/page", response_model=list[Document], dependencies=[superuser])
async def page(limit: int, opened: Annotated[AsyncSession, Depends(session)]) -> Any:
    return (await opened.execute(select(User).order_by(User.id).limit(limit))).scalars().all()


@app.post("/find", response_model=list[Document], dependencies=[superuser])
async def find_all(keys: Keys, opened: Annotated[AsyncSession, Depends(session)]) -> Any:
    return (await opened.execute(select(User).where(User.email.in_(keys.emails)))).scalars().all()


@app.post("/new", response_model=Document, status_code=201, dependencies=[superuser])
async def create(body: NewUser, manager: Manager) -> Any:
    return await manager.user_db.create({"email": body.email, "hashed_password": "none"})


def new_user(name: str, *, superuser: bool = False) -> User:
    return User(
        id=uuid.uuid4(),
        email=f"{name}@example.org",
        hashed_password="none",
        is_active=True,
        is_verified=True,
        is_superuser=superuser,
    )


async def prepare() -> dict[str, Any]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    admin, others = new_user("admin", superuser=True), [new_user(f"user{number}") for number in range(COUNT)]
    async with sessions() as opened:
        opened.add_all([admin, *others])
        await opened.commit()
    await engine.dispose()
    return {"token": await strategy.write_token(admin), "ids": [str(user.id) for user in others]}


FILE.write_text(json.dumps(asyncio.run(prepare())))
uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", access_log=False)
