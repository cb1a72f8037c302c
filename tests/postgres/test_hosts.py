import pytest

from user_service.postgres.hosts import named_database, split_hosts


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@one/db", []),
        ("postgresql://u:p@/db?host=/run/postgresql", []),
        ("postgresql://u:p@one,two:6000/db", [("one", 5432), ("two", 6000)]),
        ("postgresql://u@10.0.0.1:1,10.0.0.2/db?sslmode=require", [("10.0.0.1", 1), ("10.0.0.2", 5432)]),
        ("postgresql://u@/db?host=/a,/b", [("/a", 5432), ("/b", 5432)]),
        ("postgresql://u@/db?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql://u@/db?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql://u@/db?host=a,b&port=1,2,3", []),
        ("postgresql://u@one:x,two/db", []),
    ],
)  # fmt: skip
def test_the_hosts_of_a_uri_that_lists_several(url: str, hosts: list[tuple[str, int]]) -> None:
    assert split_hosts(url) == hosts


FORMER = "postgresql://ada:first@one:5432/users?sslmode=require&application_name=x"


@pytest.mark.parametrize(
    "url",
    [
        FORMER,
        "postgres://grace:second%2F@ONE:5432/users?application_name=x&sslmode=require",
        "postgresql://one:5432/users?sslmode=require&application_name=x&user=grace&password=second",
    ],
)
def test_another_user_or_password_names_the_same_database(url: str) -> None:
    assert named_database(url) == named_database(FORMER)


@pytest.mark.parametrize(
    "url",
    [
        FORMER.replace("@one", "@two"),
        FORMER.replace("5432", "5433"),
        FORMER.replace("/users", "/others"),
        FORMER.replace("require", "disable"),
        FORMER.replace("@one:5432", "@one:5432,two:5432"),
        FORMER + "&host=two",
        None,
    ],
)
def test_another_host_port_database_or_parameter_names_another(url: str | None) -> None:
    assert named_database(url) != named_database(FORMER)
