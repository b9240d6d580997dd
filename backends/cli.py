"""The command line of the bundled model server: `turnout backend`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import Final

from backends.errors import LoadError
from backends.mlflow import MLFLOW, MlflowSource, Wanted
from backends.repository import scan
from backends.request_log import RequestLogSettings

MAX_API_SERVERS: Final = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `turnout backend`; `main` takes what is parsed with them."""
    parser.add_argument(
        "--models",
        required=True,
        metavar="DIR",
        help="the model repository, or mlflow:URL of an MLflow server",
    )
    mlflow_options = parser.add_argument_group("models out of an MLflow registry")
    mlflow_options.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME@ALIAS",
        help="serve this registered model, by alias or NAME/VERSION; repeatable",
    )
    mlflow_options.add_argument(
        "--poll",
        type=float,
        default=30.0,
        metavar="S",
        help="look for changes this often (default: %(default)s)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9101, help="port to listen on, 0 for any (default: %(default)s)"
    )
    parser.add_argument(
        "--api-server-count",
        type=int,
        default=1,
        metavar="N",
        help="processes that speak HTTP and check tensors (default: the one that has the models)",
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        metavar="PORT",
        help="also serve gRPC on this port, 0 for any (default: no gRPC)",
    )
    log_options = parser.add_argument_group("request log")
    log_options.add_argument(
        "--request-log", type=Path, metavar="FILE", help="JSON lines; DIR.parquet: Parquet files"
    )
    log_options.add_argument(
        "--request-log-sample", type=float, default=1.0, metavar="P", help="share of requests (default: 1)"
    )
    log_options.add_argument(
        "--request-log-values", type=int, default=64, metavar="N", help="values of a tensor (default: 64)"
    )
    log_options.add_argument(
        "--request-log-redact", action="append", default=[], metavar="TENSOR", help="leave its values out"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads per instance (default: by model size)"
    )
    parser.add_argument("--allow-load", action="store_true", help="let the API load and unload models")
    parser.add_argument(
        "--max-pending-bytes",
        type=int,
        default=1 << 30,
        metavar="N",
        help="of requests that wait or run; further ones are refused (default: %(default)s)",
    )
    parser.add_argument(
        "--train", action="store_true", help="train the reference models first if they are missing"
    )
    parser.add_argument(
        "--drain-delay",
        type=float,
        default=0.5,
        metavar="S",
        help="from not ready to not listening (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-limit",
        type=float,
        default=30.0,
        metavar="S",
        help="what requests may then take (default: %(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Runs what `add_arguments` parsed; the exit status."""
    from backends.server import Settings, serve
    from backends.threads import end

    _log_to_stderr()
    with tempfile.TemporaryDirectory(prefix="turnout-models-") as scratch:
        try:
            source = _mlflow(args)
            models = Path(scratch if source is not None else args.models)
            if source is None:
                _check(models, args.train)
            if args.max_pending_bytes < 1:
                raise LoadError("--max-pending-bytes is below 1; write a number of bytes, such as 1073741824")
            if not 1 <= args.api_server_count <= MAX_API_SERVERS:
                raise LoadError(
                    f"--api-server-count is not from 1 to {MAX_API_SERVERS}; write one per spare core"
                )
        except LoadError as error:
            print(f"turnout backend: {error}", file=sys.stderr)  # noqa: T201  the command's own message
            return 1
        settings = Settings(
            models,
            args.host,
            args.port,
            args.api_server_count,
            args.grpc_port,
            _request_log(args),
            args.device,
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
    if args.train or not args.poll > 0:
        raise LoadError("with MLflow, leave out --train, and write --poll in seconds above 0")
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
