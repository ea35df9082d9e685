"""What every program of the project does with its streams and its arguments, whatever the locale."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


def run_program(run: Callable[[], object], explanation: str | None = None, least: int = 1) -> None:
    """Call `run`, the `main` of a script, in [`plain_streams`], with arguments as [`decode_arguments`] has them.

    A script without a parser gives an `explanation`, which is printed if there are fewer than `least` arguments, or
    the first is an option, such as `--help`.
    """
    name, given = Path(sys.argv[0]).name, sys.argv[1:]
    with plain_streams(name):
        if explanation and (len(given) < least or given[0].startswith("-")):
            asked = given[:1] in (["-h"], ["--help"])
            print(explanation, file=sys.stdout if asked else sys.stderr)
            sys.exit(0 if asked else 1)
        try:
            sys.argv[1:] = decode_arguments(given)
        except ValueError as error:
            sys.exit(f"{name}: {error}")
        run()


@contextmanager
def plain_streams(name: str) -> Iterator[None]:
    """Write UTF-8 to the standard streams, and end quietly if nobody reads on, or with one line after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError:
        _leave_closed_pipe()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def decode_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments as the UTF-8 that they are, even where the locale has another encoding.

    `ValueError` names the first that is not UTF-8.
    """
    decoded = []
    for number, argument in enumerate(arguments, start=1):
        try:
            # A locale of ASCII leaves the bytes of other characters as halves of surrogate pairs.
            is_text = not any("\ud800" <= letter <= "\udfff" for letter in argument)
            decoded.append(argument if is_text else os.fsencode(argument).decode("utf-8"))
        except UnicodeError:
            shown = ascii(argument).replace("\\udc", "\\x")
            raise ValueError(f"argument {number} is not UTF-8: {shown}") from None
    return decoded


def _leave_closed_pipe() -> None:
    """End as the signal SIGPIPE would end a program, without what Python says when it cannot flush."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # a stream of a test may have no file
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())
    sys.exit(128 + getattr(signal, "SIGPIPE", 13))
