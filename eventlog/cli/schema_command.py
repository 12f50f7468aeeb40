"""The command that prints the JSON Schema of what `append` accepts.

Invariant: it needs no home and creates nothing.
"""

import click
import orjson

from eventlog.cli.streams import write_stdout


@click.command()
@click.argument("kind", type=click.Choice(["signal", "fact"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of a signal or of a fact.

    It follows draft 2020-12. `append` accepts each object that the schema of its kind accepts,
    except for a few rules that JSON Schema cannot state; the description in the schema lists them.

    \b
    Example:
      eventlog schema signal > signal.schema.json
    """
    from eventlog.schema.json_schema import fact_schema, signal_schema

    found = signal_schema() if kind == "signal" else fact_schema()
    write_stdout(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
