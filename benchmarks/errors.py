"""What keeps a benchmark from measuring."""


class BenchmarkError(Exception):
    """A server that does not start, an answer that is not the expected one, a load that met refusals.

    The text names the request, its server and the response; a note holds the end of the server's log.
    """


def list_notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])
