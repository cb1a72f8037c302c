"""The tables for SQLAlchemy. Migrations create them; a test compares the two."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

from user_service.postgres.partitions import CREATE_MISSING, PARTITIONED

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMING)
Time = TIMESTAMP(timezone=True)

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("external_id", Text),
    Column("phone_index", BigInteger),
    Column("personal", LargeBinary, nullable=False),
    Column("email_verified", Boolean, nullable=False),
    Column("locale", Text),
    Column("timezone", Text),
    Column("status", Text, nullable=False),
    Column("prior_status", Text),
    Column("metadata", JSONB, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("last_login_at", Time),
    Column("deleted_at", Time),
    # When the user was erased. The row is a tombstone.
    Column("erased_at", Time),
    CheckConstraint("version >= 1", name="version_positive"),
    CheckConstraint("status IN ('pending', 'active', 'suspended', 'deleted')", name="status_known"),
    CheckConstraint("(status = 'deleted') = (deleted_at IS NOT NULL)", name="deleted_has_time"),
    CheckConstraint("erased_at IS NULL OR status = 'deleted'", name="erased_is_deleted"),
)
Index("ix_users_updated_at_id", users.c.updated_at, users.c.id)
Index("ix_users_phone_index", users.c.phone_index, postgresql_where=text("phone_index IS NOT NULL"))
Index("ix_users_status_id", users.c.status, users.c.id, postgresql_where=text("status <> 'active'"))

# What only one living user can have, by its blind index; see users/identifiers.py.
identifiers = Table(
    "identifiers",
    metadata,
    Column("kind", SmallInteger),
    Column("index", LargeBinary),
    Column("user_id", Uuid, nullable=False),
    PrimaryKeyConstraint("kind", "index"),
)

# An inverted index as a table: the postings of a term are in id order, so a page of a search is a range of them.
user_terms = Table(
    "user_terms", metadata, Column("term", BigInteger), Column("user_id", Uuid), PrimaryKeyConstraint("term", "user_id")
)
# A search of two words must scan the rarer one's postings, so the planner must know the common words: these are more
# than the 100 values that it counts by default.
event.listen(
    user_terms,
    "after_create",
    DDL("ALTER TABLE user_terms ALTER COLUMN term SET STATISTICS 1000"),  # type: ignore[no-untyped-call]
)

# The audit trail, by month (see partitions.py). Reads of exports have negative versions (see users/audit_log.py). A row
# is updated only when its user, or the person who made the change, is erased. A user's versions are unique because each
# is written while the user's row is locked.
user_changes = Table(
    "user_changes",
    metadata,
    Column("user_id", Uuid),
    Column("version", Integer),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("changed", ARRAY(Text), nullable=False),
    Column("actor", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("changed_at", Time),
    # UUIDv7; the id of the event too.
    Column("event_id", Uuid, nullable=False),
    # Why, in the caller's words.
    Column("reason", Text),
    PrimaryKeyConstraint("user_id", "version", "changed_at"),
    postgresql_partition_by="RANGE (changed_at)",
)
# For pages of the audit, see users/audit_log.py. The changes of a batch have one time, so they share an entry.
Index("ix_user_changes_type_changed_at", user_changes.c.type, user_changes.c.changed_at)
Index("ix_user_changes_actor_type_changed_at", user_changes.c.actor, user_changes.c.type, user_changes.c.changed_at)

# The change feed: the committed changes in the order of their positions, which have no gaps. A row is that of a change,
# or of a set of them, whose last one it names and whose users and versions it lists. See events/feed_places.py.
feed = Table(
    "feed",
    metadata,
    Column("position", BigInteger, autoincrement=False),
    Column("user_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    Column("changed_at", Time),
    Column("user_ids", ARRAY(Uuid)),
    Column("versions", ARRAY(Integer)),
    PrimaryKeyConstraint("position", "changed_at"),
    postgresql_partition_by="RANGE (changed_at)",
)
# Changes that have no position yet: a row is written with the changes of one statement. It has no index, because it is
# read whole. `seq` is assigned while the users' rows are locked, so a user's changes are in its order.
feed_queue = Table(
    "feed_queue",
    metadata,
    Column("seq", BigInteger, Identity(always=True)),
    Column("changed_at", Time, nullable=False),
    Column("user_ids", ARRAY(Uuid), nullable=False),
    Column("versions", ARRAY(Integer), nullable=False),
)
# One row: the last position, the last one that is no longer kept, with the id of its change, and whether sets are
# written as one row, which release 0.1.0 can't read.
feed_state = Table(
    "feed_state",
    metadata,
    Column("position", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
    Column("floor_id", Uuid, nullable=False),
    Column("has_sets", Boolean, nullable=False, server_default=text("false")),
)

# The changes whose events are pending. A row is written with its change, and deleted when its event was delivered or
# given up. `seq` is assigned while the user's row is locked, so a user's events are in its order.
outbox = Table(
    "outbox",
    metadata,
    Column("partition", SmallInteger),
    Column("seq", BigInteger, Identity(always=True)),
    Column("user_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    Column("changed_at", Time, nullable=False),
    # How many times the sink refused the event, and when it is posted again.
    Column("refusals", Integer, nullable=False, server_default=text("0")),
    Column("retry_at", Time),
    PrimaryKeyConstraint("partition", "seq"),
)
Index("ix_outbox_retry_at", outbox.c.retry_at, postgresql_where=text("retry_at IS NOT NULL"))

outbox_partitions = Table(
    "outbox_partitions",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    # The replica that posts events of this partition, and until when.
    Column("owner", Uuid),
    Column("leased_until", Time),
    # How many times in a row the sink failed, and when the partition is tried again.
    Column("retry_at", Time),
    Column("failures", Integer, nullable=False, server_default=text("0")),
)

# Processed events with their encrypted replies, which a redelivery gets again.
inbox = Table(
    "inbox",
    metadata,
    Column("source", Text),
    Column("id", Text),
    Column("digest", LargeBinary, nullable=False),
    Column("reply", LargeBinary, nullable=False),
    Column("processed_at", Time, nullable=False, server_default=text("now()")),
    # The users in the response: those changed under this trace, and these (see idempotency/stored_responses.py).
    Column("traceparent", Text),
    Column("mentions", ARRAY(Uuid)),
    PrimaryKeyConstraint("source", "id"),
)
Index("ix_inbox_processed_at", inbox.c.processed_at)

# Requests with an Idempotency-Key, identified by keyed hashes, and their encrypted responses.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    # The users in the response: those changed under this trace, and these (see idempotency/stored_responses.py).
    Column("traceparent", Text),
    Column("mentions", ARRAY(Uuid)),
)
Index("ix_idempotency_keys_expires_at", idempotency_keys.c.expires_at)
for table in (inbox, idempotency_keys):
    Index(f"ix_{table.name}_traceparent", table.c.traceparent)
    Index(
        f"ix_{table.name}_mentions",
        table.c.mentions,
        postgresql_using="gin",
        postgresql_where=text("mentions IS NOT NULL"),
    )

# Imports and their progress; `key` and `fingerprint` are keyed hashes.
imports = Table(
    "imports",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("key", LargeBinary, unique=True),
    Column("fingerprint", LargeBinary),
    Column("format", Text, nullable=False),
    Column("on_conflict", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("position", BigInteger, nullable=False, server_default=text("0")),
    Column("created", BigInteger, nullable=False, server_default=text("0")),
    Column("updated", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("started_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
    Column("finished_at", Time),
    # The line of the file in which the last record before `position` begins.
    Column("line", BigInteger, nullable=False, server_default=text("0")),
    Column("keep_ids", Boolean, nullable=False, server_default=text("false")),
    Column("dry_run", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("state IN ('running', 'interrupted', 'failed', 'completed')", name="state_known"),
)
import_failures = Table(
    "import_failures",
    metadata,
    Column("import_id", Uuid),
    Column("record", BigInteger),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("pointer", Text),
    Column("line", BigInteger),
    PrimaryKeyConstraint("import_id", "record"),
    ForeignKeyConstraint(["import_id"], ["imports.id"], ondelete="CASCADE"),
)

# Values that must not change while a service runs, such as the fingerprint of the blind index key.
service_meta = Table(
    "service_meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False)
)

for name in PARTITIONED:
    event.listen(
        metadata.tables[name],
        "after_create",
        DDL(f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT"),  # type: ignore[no-untyped-call]
    )
event.listen(
    metadata,
    "after_create",
    DDL(CREATE_MISSING.replace("%", "%%")),  # type: ignore[no-untyped-call]
)
