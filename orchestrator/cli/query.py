"""`swapyard query`: answer a question in SQL over all studies."""

__all__ = ["query"]

import shutil
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from orchestrator.cli.options import Incomplete, duration, partial_option, store_option

if TYPE_CHECKING:
    import duckdb

FORMATS = ("table", "csv", "json", "parquet")


class _Sql(click.Command):
    """A command whose argument may begin with ``--``, as SQL does with a comment."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name: one for one in self.params for name in one.opts if isinstance(one, click.Option)}
        takes_value = {name for name, one in options.items() if not one.is_flag}
        before = ["", *args[:-1]]
        return super().parse_args(
            ctx,
            [
                f" {arg}" if _is_comment(arg, options) and previous not in takes_value else arg
                for previous, arg in zip(before, args, strict=False)
            ],
        )


def _is_comment(arg: str, options: Collection[str]) -> bool:
    """Whether an argument that looks like an option is SQL: it has blanks, and begins with no option."""
    words = arg.split(maxsplit=1)
    return (
        arg.startswith("--") and len(words) > 1 and words[0] != arg and words[0].split("=")[0] not in options
    )


@click.command(cls=_Sql)
@click.argument("sql", required=False, metavar="[SQL|NAME]")
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read the SQL from a file.",
)
@click.option("--list", "list_names", is_flag=True, help="List the named queries.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), help="[default: by the suffix of --output, else table]"
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file, not to stdout."
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Most rows that a table shows.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Check each file of rows by its hash before it is read.  [default: verify]",
)
@partial_option
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory limit, such as 2GB; what does not fit goes to temporary files."
    "  [default: half of the machine's]",
)
@click.option("--timeout", metavar="TIME", help="Stop after this time, such as 30s.")
@click.option("--study", "studies", multiple=True, metavar="NAME", help="Only this study; may be repeated.")
@store_option
def query(
    sql: str | None,
    file: Path | None,
    list_names: bool,
    format_: str | None,
    output: Path | None,
    rows: int,
    studies: tuple[str, ...],
    verify: bool,
    partial: bool,
    memory: str | None,
    timeout: str | None,
    store: Path,
) -> None:
    """Answer one SELECT over all studies in --store; every view has a column "study".

    Views: results, activations, scores, cells, screening, pairs, inputs, runs, failures, batches, fits,
    trainings, curves. What columns a view has:

        swapyard query "DESCRIBE results"

    A NAME is one of the queries that --list shows. If studies cannot be read, or rows are lost, the answer
    is made from the rest, and the exit code is 1.
    """
    from orchestrator.query.connection import ask
    from orchestrator.query.query_limits import QueryLimits, QueryTimer, size
    from orchestrator.query.statements import named_queries
    from orchestrator.store.study_dirs import study_folders, without_copies

    if list_names:
        width = max(map(len, named_queries()))
        for one in named_queries().values():
            click.echo(f"{one.name:<{width}}  {one.about}")
        return
    text = _text_of(sql, file)
    chosen = format_ or _format_of(output)
    if chosen == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text for a terminal; give a file: -o FILE.parquet")
    limits = QueryLimits(
        memory_bytes=None if memory is None else size(memory),
        timeout_s=None if timeout is None else duration(timeout),
        with_process=True,
    )
    watch = QueryTimer(limits.timeout_s)
    folders = without_copies(study_folders(store, studies), lambda line: click.echo(line, err=True))
    with Incomplete(partial=partial) as lacking:
        connection, relation = ask(
            folders,
            text,
            leave_out=lacking.study if len(folders) > 1 else None,
            lost=lacking.rows,
            verify=verify,
            limits=limits,
            watch=watch,
        )
        with watch.over(connection):
            _write(relation, connection, chosen, output, rows)


def _text_of(sql: str | None, file: Path | None) -> str:
    """The SQL that is meant: from a file, a named query, or as given."""
    from orchestrator.query.statements import named_queries
    from workers.errors import QueryError, nearest

    if (sql is None) == (file is None):
        raise click.UsageError("give one of SQL, the NAME of a query, and -f FILE; --list shows the names")
    if file is not None:
        return file.read_text(encoding="utf-8")
    assert sql is not None
    named = named_queries()
    if sql.strip() in named:
        return named[sql.strip()].sql
    if sql.strip().isidentifier():
        raise QueryError(
            f"there is no query named {sql!r}; there are {', '.join(named)}{nearest(sql, named)}."
            f' SQL has more words, such as "FROM {sql}"'
        )
    return sql


def _format_of(output: Path | None) -> str:
    if output is None:
        return "table"
    suffix = output.suffix.removeprefix(".").lower()
    if suffix == "txt":
        return "table"
    if suffix not in FORMATS[1:]:
        raise click.UsageError(
            f"{output.name!r} says no format; end it in .csv, .json, .parquet or .txt, or give --format"
        )
    return suffix


def _write(
    relation: "duckdb.DuckDBPyRelation",
    connection: "duckdb.DuckDBPyConnection",
    format_: str,
    output: Path | None,
    rows: int,
) -> None:
    """Write the answer to the file `output`, which only comes to be when all is in it, or to stdout."""
    import pyarrow

    from orchestrator.query.statements import explained

    try:
        with explained(connection):
            _write_out(relation, format_, output, rows)
    except pyarrow.ArrowException as error:
        why = (str(error).splitlines() or ["its types are not known there"])[0]
        raise click.ClickException(
            f"the answer cannot be written as {format_}: {why}; cast the column, such as x::VARCHAR"
        ) from None


def _write_out(relation: "duckdb.DuckDBPyRelation", format_: str, output: Path | None, rows: int) -> None:
    from workers.libraries.duckdb import is_passed_on

    if output is None:
        _write_to(relation, format_, sys.stdout.buffer, rows)
        return
    partial = output.with_name(f".{output.name}.partial")
    if output.exists() and not output.is_file():
        # A device or a pipe is written to, and never put aside for a file.
        partial = output
    try:
        with partial.open("wb") as sink:
            _write_to(relation, format_, sink, rows)
        if partial != output:
            partial.replace(output)
    except OSError as error:
        if is_passed_on(error):
            raise
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    finally:
        if partial != output:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _write_to(relation: "duckdb.DuckDBPyRelation", format_: str, sink: BinaryIO, rows: int) -> None:
    from orchestrator.query.formats import WRITERS, plan_text, table_text

    if format_ != "table":
        WRITERS[format_](relation, sink)
        return
    if (shown := plan_text(relation)) is not None:
        sink.write(f"{shown}\n".encode())
        return
    width = shutil.get_terminal_size().columns if sink.isatty() else None
    text, note = table_text(relation, rows=rows, width=width)
    sink.write(f"{text}\n".encode())
    sink.flush()
    if note:
        click.echo(note, err=True)
