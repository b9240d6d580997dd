"""The command line of the bundled model server: `turnout backend`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Final, TypeVar

from backends.batching.pending import MAX_PENDING_BYTES
from backends.errors import LoadError
from backends.mlflow import MLFLOW, MlflowSource, Wanted
from backends.repository import scan
from backends.request_log import RequestLogSettings

T = TypeVar("T", int, float)

MAX_API_SERVERS: Final = 64
MAX_SECONDS: Final = 86_400
MIN_POLL_S: Final = 0.1


def within(kind: Callable[[str], T], low: float, high: float = inf) -> Callable[[str], T]:
    """The type of an option with a value from ``low`` to ``high``."""

    def parse(text: str) -> T:
        value = kind(text)
        if not low <= float(text) <= high:  # NaN is refused, too
            bounds = f"{low:g} or more" if high == inf else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; write a number {bounds}")
        return value

    parse.__name__ = kind.__name__
    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `turnout backend`; `main` takes what is parsed with them."""
    port, seconds = within(int, 0, 65535), within(float, 0, MAX_SECONDS)
    add = parser.add_argument
    add(
        "--models",
        required=True,
        metavar="DIR",
        help="the model repository, or mlflow:URL of an MLflow server",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=port, default=9101, help="port to listen on, 0 for any (default: %(default)s)")
    add(
        "--api-server-count",
        type=within(int, 1, MAX_API_SERVERS),
        default=1,
        metavar="N",
        help="processes that serve HTTP (default: 1, the process with the models)",
    )
    add(
        "--grpc-port",
        type=port,
        metavar="PORT",
        help="also serve gRPC on this port, 0 for any (default: no gRPC)",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=within(int, 0), default=0, help="CPU threads per instance (default: by model size)")
    add("--allow-load", action="store_true", help="let the API load and unload models")
    add(
        "--max-pending-bytes",
        type=within(int, 1),
        default=MAX_PENDING_BYTES,
        metavar="N",
        help="maximum size of the requests that wait or run; others are refused (default: %(default)s)",
    )
    add("--train", action="store_true", help="train the reference models first if they are missing")
    add(
        "--drain-delay",
        type=seconds,
        default=0.5,
        metavar="S",
        help="time between 'not ready' and the end of listening (default: %(default)s)",
    )
    add(
        "--drain-limit",
        type=seconds,
        default=30.0,
        metavar="S",
        help="maximum time for the requests in flight after that (default: %(default)s)",
    )
    add = parser.add_argument_group("models out of an MLflow registry").add_argument
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME@ALIAS",
        help="serve this registered model, by alias or NAME/VERSION; repeatable",
    )
    add(
        "--poll",
        type=within(float, MIN_POLL_S, MAX_SECONDS),
        default=30.0,
        metavar="S",
        help="look for changes this often (default: %(default)s)",
    )
    add = parser.add_argument_group("request log").add_argument
    add(
        "--request-log",
        type=Path,
        metavar="FILE",
        help="log requests as JSON lines to FILE, or as Parquet files to DIR.parquet",
    )
    add(
        "--request-log-sample",
        type=within(float, 0, 1),
        default=1.0,
        metavar="P",
        help="share of requests that is logged (default: 1)",
    )
    add(
        "--request-log-values",
        type=within(int, 0),
        default=64,
        metavar="N",
        help="maximum number of logged values of a tensor (default: 64)",
    )
    add(
        "--request-log-redact",
        action="append",
        default=[],
        metavar="TENSOR",
        help="log no values of this tensor; repeatable",
    )


def main(args: argparse.Namespace) -> int:
    """Runs what `add_arguments` parsed; the exit status."""
    from backends.server import Settings, serve
    from backends.threads import end

    _log_to_stderr()
    with ExitStack() as stack:
        try:
            source = _mlflow(args)
            if source is None:
                models = Path(args.models)
                _check(models, args.train)
            else:
                models = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="turnout-models-")))
        except LoadError as error:
            print(f"turnout backend: {error}", file=sys.stderr)  # noqa: T201  the command's own message
            return 1
        settings = Settings(
            models=models,
            host=args.host,
            port=args.port,
            api_servers=args.api_server_count,
            grpc_port=args.grpc_port,
            request_log=_request_log(args),
            device=args.device,
            threads=args.threads,
            control=args.allow_load,
            max_pending=args.max_pending_bytes,
            drain_delay=args.drain_delay,
            drain_limit=args.drain_limit,
            mlflow=source,
        )
        status = serve(settings)
    return end(status)


def _check(models: Path, make: bool) -> None:
    """Raises LoadError if there is nothing in ``models``, after training if ``make`` says so."""
    if make:
        from backends import train, train_text

        train.ensure(models)
        train_text.ensure(models)
    if not scan(models):
        raise LoadError(f"{models} holds no model; put one there, or make the reference models with --train")


def _mlflow(args: argparse.Namespace) -> MlflowSource | None:
    """Raises LoadError."""
    if not args.models.startswith(MLFLOW):
        if args.model:
            raise LoadError("--model is for --models mlflow:URL; all models of a directory are served")
        return None
    url = args.models.removeprefix(MLFLOW)
    if not url.startswith(("http://", "https://")):
        raise LoadError(f"--models {args.models} has no URL; write mlflow:http://HOST:PORT")
    if not args.model:
        raise LoadError("no model is named; write --model NAME@ALIAS or --model NAME/VERSION")
    if args.train:
        raise LoadError("--train makes models in a directory; leave it out with --models mlflow:URL")
    return MlflowSource(url, tuple(Wanted.parse(one) for one in args.model), args.poll)


def _request_log(args: argparse.Namespace) -> RequestLogSettings | None:
    if args.request_log is None:
        return None
    return RequestLogSettings(
        args.request_log,
        args.request_log_sample,
        args.request_log_values,
        frozenset(args.request_log_redact),
    )


def _log_to_stderr() -> None:
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr)
    logging.getLogger("turnout.backend").setLevel(logging.INFO)


def _standalone() -> int:
    parser = argparse.ArgumentParser(prog="turnout backend", description=__doc__)
    add_arguments(parser)
    return main(parser.parse_args())


if __name__ == "__main__":
    sys.exit(_standalone())
