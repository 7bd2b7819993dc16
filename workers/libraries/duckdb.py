"""Names of DuckDB that may move: settings that lock and limit a connection, texts of errors; its trees are
in `duckdb_trees`."""

__all__ = [
    "PLACES",
    "confine",
    "file_value",
    "is_interruption",
    "is_passed_on",
    "limit",
    "literal",
    "lock",
    "pointer",
    "quoted",
    "unknown_column",
    "unknown_table",
]

import re
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

import duckdb

from workers.errors import QueryError
from workers.libraries import Place

Connection = duckdb.DuckDBPyConnection

_UNKNOWN_COLUMN = re.compile(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"')
_UNKNOWN_TABLE = re.compile(r"Table with name (.+?) does not exist")
_POINTER = "LINE "
_INTERRUPTED = "INTERRUPT Error"

# Names in SQL


def quoted(name: str) -> str:
    """SQL identifier of any name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """SQL string of any text."""
    return "'" + text.replace("'", "''") + "'"


# Connections


def limit(connection: Connection, num_bytes: int, folder: str | None) -> None:
    """Bound the memory of a connection; what does not fit goes to a `folder` of its own, if there is one.

    Of a connection that is locked afterwards DuckDB lets queries reach that folder, too.

    Raises:
        QueryError: this DuckDB cannot be limited so.
    """
    try:
        connection.execute("SET memory_limit = ?", [f"{num_bytes}B"])
        connection.execute("SET temp_directory = ?", [folder or ""])
    except duckdb.Error as error:
        raise QueryError(
            f"no query is answered: the memory of DuckDB {duckdb.__version__} cannot be limited"
            f' ({str(error).splitlines()[0]}); install one whose can: pip install "duckdb>=2.0,<2.1"'
        ) from error


def lock(connection: Connection, folders: Sequence[str]) -> None:
    """Let a connection reach files in `folders` and nothing else, for good.

    Raises:
        QueryError: this DuckDB cannot be locked so.
    """
    _set(connection, "SET allowed_directories = ?", [list(folders)])
    confine(connection)
    _set(connection, "SET lock_configuration = true")
    # A locked one takes no setting any more, this one neither.
    if _succeeds(connection, "SET lock_configuration = true"):
        raise _unlocked("it can be opened again")


def confine(connection: Connection) -> None:
    """Let a connection reach no files but those that it was allowed.

    Raises:
        QueryError: this DuckDB cannot be confined so.
    """
    _set(connection, "SET enable_external_access = false")
    if _succeeds(connection, "SELECT size FROM read_text(?)", [__file__]):
        raise _unlocked("it reads other files")


def _set(connection: Connection, statement: str, values: Sequence[Any] = ()) -> None:
    try:
        connection.execute(statement, list(values))
    except duckdb.Error as error:
        raise _unlocked(str(error).splitlines()[0]) from error


def _succeeds(connection: Connection, statement: str, values: Sequence[Any] = ()) -> bool:
    try:
        connection.execute(statement, list(values))
    except duckdb.Error:
        return False
    return True


def _unlocked(what: str) -> QueryError:
    return QueryError(
        f"no query is answered: DuckDB {duckdb.__version__} cannot be kept from other files ({what});"
        ' install one that can: pip install "duckdb>=2.0,<2.1"'
    )


def file_value(values: Sequence[str]) -> str:
    """SQL of the value, of one for each file of a ``read_parquet`` in order, of the file that a row is of."""
    return f"[{', '.join(values)}][file_index::BIGINT + 1]"


# Errors


def unknown_column(message: str) -> str | None:
    """Name of the column that is not there, of which `message` complains; None where it does not."""
    found = _UNKNOWN_COLUMN.search(message)
    return None if found is None else found[1] or found[2]


def unknown_table(message: str) -> str | None:
    """Name of the table that is not there, likewise."""
    found = _UNKNOWN_TABLE.search(message)
    return None if found is None else found[1]


def pointer(lines: Sequence[str]) -> Sequence[str]:
    """The two lines of a message that show where in the query it is; none where it has none."""
    at = next((i for i, line in enumerate(lines) if line.startswith(_POINTER)), len(lines))
    return lines[at : at + 2]


def is_passed_on(error: OSError) -> bool:
    """Whether it is an error of DuckDB's that Arrow's readers pass on: one of the system has a number."""
    return error.errno is None


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error, or one that it came of, is of a query that was interrupted."""
    while error is not None:
        if isinstance(error, duckdb.InterruptException):
            return True
        if isinstance(error, OSError) and is_passed_on(error) and _INTERRUPTED in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# What is tried by `make versions`


def _probe_settings() -> str | None:
    lock(duckdb.connect(), [])
    return None


def _message(sql: str) -> str:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (a INT)")
    try:
        connection.execute(sql)
    except duckdb.Error as error:
        return str(error)
    raise LookupError(f"{sql!r} is no error")


def _probe_limit() -> str | None:
    connection = duckdb.connect()
    limit(connection, 64 * 10**6, None)
    try:
        connection.execute("SELECT count(*) FROM (SELECT range, count(*) FROM range(10000000) GROUP BY 1)")
    except duckdb.OutOfMemoryException:
        return None
    return "a query takes more memory than it may"


def _probe_interruption() -> str | None:
    connection = duckdb.connect()
    relation = connection.sql("SELECT count(*) FROM range(1000000000000) t(a) WHERE hash(a) = 0")
    timer = threading.Timer(0.05, connection.interrupt)
    timer.start()
    try:
        relation.fetchall()
    except duckdb.Error as error:
        return None if is_interruption(error) else "a query that was interrupted looks like one that failed"
    finally:
        timer.join()
    raise LookupError("a query cannot be interrupted")


def _probe_file_index() -> str | None:
    connection = duckdb.connect()
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{number}.parquet" for number in range(2)]
        for number, file in enumerate(files):
            connection.execute(f"COPY (SELECT {number} AS n) TO '{file}' (FORMAT parquet)")
        value = file_value(["10", "20"])
        found = connection.execute(f"SELECT n, {value} FROM read_parquet(?) ORDER BY n", [files]).fetchall()
    return None if found == [(0, 10), (1, 20)] else f"rows are told to be of other files: {found}"


def _probe_texts() -> str | None:
    lost: list[str] = []
    column, table = _message("SELECT b FROM t"), _message("SELECT * FROM u")
    if unknown_column(column) != "b":
        lost.append("the nearest column")
    if unknown_table(table) != "u":
        lost.append("the nearest table")
    if not pointer(column.splitlines()):
        lost.append("where in the query it is")
    return f"messages do not say {', '.join(lost)}" if lost else None


def _probe_passed_on() -> str | None:
    relation = duckdb.connect().sql("SELECT CAST(a AS INT) FROM (VALUES ('1'), ('x')) t(a)")
    try:
        relation.to_arrow_reader(10).read_all()
    except duckdb.Error:
        return None
    except OSError as error:
        return None if is_passed_on(error) else "errors of a query look like errors of the disk"
    raise LookupError("a query that fails while its rows are fetched is no error")


_SEEN = "2.0.0 to 2.0.1"

PLACES = (
    Place(
        library="duckdb",
        name="allowed_directories, enable_external_access, lock_configuration",
        used_for="a connection that reaches the studies' rows and nothing else",
        seen_with=_SEEN,
        without="no query is answered, and the message says why: whether they hold is tried each time",
        marks=("allowed_directories", "enable_external_access", "lock_configuration"),
        probe=_probe_settings,
    ),
    Place(
        library="duckdb",
        name="memory_limit, temp_directory",
        used_for="a query that takes no more memory than it may",
        seen_with=_SEEN,
        without="no query is answered where they cannot be set; whether they hold is tried here alone",
        marks=("memory_limit", "temp_directory"),
        probe=_probe_limit,
    ),
    Place(
        library="duckdb",
        name="InterruptException, and its text where Arrow passes it on",
        used_for="a query that takes no longer than it may",
        seen_with=_SEEN,
        without="a query ends in time, in words of DuckDB's",
        marks=("InterruptException", "INTERRUPT Error"),
        probe=_probe_interruption,
    ),
    Place(
        library="duckdb",
        name="file_index, which tells of which file a row is",
        used_for="reading many studies as one",
        seen_with=_SEEN,
        without="studies are read one by one, which takes longer",
        marks=("file_index",),
        probe=_probe_file_index,
    ),
    Place(
        library="duckdb",
        name="texts of errors about unknown columns and tables, and the line that points",
        used_for="the nearest spelling, and the views that have a column",
        seen_with=_SEEN,
        without="DuckDB's own line is shown, without these",
        marks=("Referenced column", "Table with name", '"LINE "'),
        probe=_probe_texts,
    ),
    Place(
        library="duckdb",
        name="an OSError without a number for what fails while Arrow fetches rows",
        used_for="telling a query's error from one of the disk",
        seen_with=_SEEN,
        without="the error is shown as one of the system",
        marks=("errno is None", "errno is not None"),
        probe=_probe_passed_on,
    ),
)
