"""The command line of the bundled model server: `turnout backend`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from backends.errors import LoadError
from backends.request_log import RequestLogSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `turnout backend`; `main` takes what is parsed with them."""
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model repository")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9101, help="port to listen on, 0 for any (default: %(default)s)"
    )
    parser.add_argument(
        "--grpc-port",
        type=int,
        metavar="PORT",
        help="also serve gRPC on this port, 0 for any (default: no gRPC)",
    )
    log_options = parser.add_argument_group("request log")
    log_options.add_argument("--request-log", type=Path, metavar="FILE", help="append requests as JSON lines")
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
    if args.train:
        from backends import train, train_text

        train.ensure(args.models)
        train_text.ensure(args.models)
    return run(
        args.models,
        args.host,
        args.port,
        args.device,
        threads=args.threads,
        grpc_port=args.grpc_port,
        request_log=_request_log(args),
        control=args.allow_load,
        drain_delay=args.drain_delay,
        drain_limit=args.drain_limit,
    )


def _request_log(args: argparse.Namespace) -> RequestLogSettings | None:
    if args.request_log is None:
        return None
    return RequestLogSettings(
        args.request_log,
        args.request_log_sample,
        args.request_log_values,
        frozenset(args.request_log_redact),
    )


def run(
    models: Path,
    host: str = "127.0.0.1",
    port: int = 9101,
    device: str = "auto",
    *,
    grpc_port: int | None = None,
    request_log: RequestLogSettings | None = None,
    threads: int = 0,
    control: bool = False,
    drain_delay: float = 0.5,
    drain_limit: float = 30.0,
) -> int:
    """Serves the model repository ``models`` until SIGTERM or SIGINT; the exit status.

    The options are those of `backends.server.Settings`.
    """
    from backends.repository import scan
    from backends.server import Settings, serve

    _log_to_stderr()
    try:
        if not scan(models):
            raise LoadError(
                f"{models} holds no model; put one there, or make the reference models with --train"
            )
    except LoadError as error:
        print(f"turnout backend: {error}", file=sys.stderr)  # noqa: T201  the command's own message
        return 1
    return serve(
        Settings(
            models,
            host,
            port,
            grpc_port,
            request_log,
            device,
            threads=threads,
            control=control,
            drain_delay=drain_delay,
            drain_limit=drain_limit,
        )
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
