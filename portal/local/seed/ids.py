"""Ids and chance that are the same every time, in Python and in PostgreSQL alike.

An id is a UUIDv7 (RFC 9562) whose random part counts: 12 bits for the kind of row, 12 for the seed, 48 for
the number of the row. So ids sort by time as real ones do, and a row's id follows from its number.
"""

from datetime import datetime
from enum import IntEnum
from uuid import UUID

from portal.local.seed.size import Size, milliseconds


class Kind(IntEnum):
    TEAM = 1
    USER = 2
    MEMBERSHIP = 3
    ENVIRONMENT = 4
    REGION = 5
    AGENT = 6
    SERVICE = 7
    ARTIFACT = 8
    CONFIG = 9
    RELEASE = 10
    TARGET = 11
    ROLLOUT = 12
    WAVE = 13
    BATCH = 14
    PROGRESS = 15
    TASK = 16
    HOLD = 17


# Of this session only, gone with it. `hashint8extended` is what partitions are laid out by, so it stays
# what it is from version to version.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION pg_temp.seed_id(ms bigint, kind int, n bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    (lpad(to_hex(ms), 12, '0') || '7' || lpad(to_hex(kind), 3, '0')
     || '8' || lpad(to_hex(%(seed)s::int), 3, '0') || lpad(to_hex(n), 12, '0'))::uuid;

CREATE OR REPLACE FUNCTION pg_temp.dice(n bigint, die int) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    (hashint8extended(n, die * 4096 + %(seed)s::int) & 4503599627370495)::float8 / 4503599627370496;

CREATE OR REPLACE FUNCTION pg_temp.at(ms bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN to_timestamp(ms / 1000.0);

CREATE OR REPLACE FUNCTION pg_temp.digest(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 'sha256:' || encode(sha256(convert_to(value, 'UTF8')), 'hex');

CREATE OR REPLACE FUNCTION pg_temp.service_ms(service int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %(founded)s::bigint + service;

CREATE OR REPLACE FUNCTION pg_temp.release_number(service int, k int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN service * 1000::bigint + k;

-- Release k is there before the k-th part of the history begins.
CREATE OR REPLACE FUNCTION pg_temp.release_ms(service int, k int) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    %(start)s::bigint + %(span)s::bigint * (k - 1) / %(releases)s::int - 60000
    - floor(pg_temp.dice(service * 1000::bigint + k, 90) * 3600000)::bigint;

CREATE OR REPLACE FUNCTION pg_temp.release_id(service int, k int) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN pg_temp.seed_id(
    pg_temp.release_ms(service, k), %(release)s::int, pg_temp.release_number(service, k));
"""


def make(size: Size, at: datetime, kind: Kind, number: int) -> UUID:
    """What `pg_temp.seed_id` makes."""
    high = milliseconds(at) << 16 | 7 << 12 | kind
    return UUID(int=high << 64 | (8 << 60 | size.seed << 48 | number))


def values(size: Size) -> dict[str, int]:
    """Parameters of FUNCTIONS."""
    start = milliseconds(size.start)
    return {
        "seed": size.seed,
        "founded": milliseconds(size.founded),
        "start": start,
        "span": milliseconds(size.until) - start,
        "releases": size.releases,
        "release": Kind.RELEASE,
    }
