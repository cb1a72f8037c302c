"""UUIDv7: the order of ids is the order of creation"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from user_service.values.ids import first_id_after, first_id_at, id_time, new_id, parse_id

MOMENT = st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
ANY_MOMENT = st.datetimes(timezones=st.just(UTC))


def test_ids_rise_and_carry_their_time() -> None:
    before = datetime.now(UTC)
    ids = [new_id() for _ in range(10_000)]

    assert ids == sorted(set(ids))
    assert {user_id.version for user_id in ids} == {7}
    assert before - timedelta(milliseconds=1) < id_time(ids[0]) <= id_time(ids[-1]) <= datetime.now(UTC)


@given(MOMENT)
def test_bounds_enclose_a_moment(moment: datetime) -> None:
    first, after = first_id_at(moment), first_id_after(moment)

    assert id_time(first) >= moment
    assert id_time(UUID(int=first.int - 1)) < moment
    assert id_time(after) > moment
    assert id_time(UUID(int=after.int - 1)) <= moment


@given(ANY_MOMENT, ANY_MOMENT)
def test_bounds_keep_the_order_of_moments_to_the_ends_of_time(one: datetime, other: datetime) -> None:
    earlier, later = sorted((one, other))

    assert first_id_at(earlier) <= first_id_at(later)
    assert first_id_at(earlier) <= first_id_after(earlier) <= first_id_after(later)


@given(st.uuids())
def test_an_id_is_read_in_either_case(user_id: UUID) -> None:
    assert parse_id(str(user_id)) == parse_id(str(user_id).upper()) == user_id


@given(st.uuids(), st.integers(0, 35), st.sampled_from("_-{}gG ٣\n"))
def test_a_spoilt_id_is_none(user_id: UUID, place: int, wrong: str) -> None:
    text = str(user_id)
    spoilt = text[:place] + wrong + text[place + 1 :]

    assert (parse_id(spoilt) is None) == (spoilt != text)
    assert parse_id(text + "\n") is parse_id(user_id.hex) is parse_id(f"{{{text}}}") is None
