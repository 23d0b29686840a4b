"""The `rush` command: reads command line and settings, hands over to one part, says what went wrong."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence

import msgspec

from engine.settings import Settings, SettingsError, load_settings
from observability.logs import set_up_logs

EXIT_FAILED = 1
EXIT_USAGE = 2

Command = Callable[[argparse.Namespace], int]


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"rush: {message}\n")
    return status


def _is_json(settings: Settings) -> bool:
    return settings.is_production and not sys.stderr.isatty()


def _set_up_logs(settings: Settings, process: str, *, child: str | None = None) -> None:
    """`child` is the name that a supervisor gave us; it puts it in front of readable lines itself."""
    as_json = _is_json(settings)
    name = process if child is None else child if as_json else ""
    set_up_logs(settings.log_level, process=name, as_json=as_json)


def _up(arguments: argparse.Namespace) -> int:
    from rush.console import Console
    from rush.up import UpError, up, up_settings

    settings = up_settings(port=arguments.port, gateways=arguments.gateways)
    console = Console()
    set_up_logs(settings.log_level, stream=console.as_stream("rush"))
    try:
        asyncio.run(up(settings, console, has_demo=not arguments.no_demo))
    except UpError as error:
        return _fail(str(error), EXIT_FAILED)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    chosen = {"host": arguments.host, "port": arguments.port, "gateway_processes": arguments.processes}
    settings = msgspec.structs.replace(
        settings, **{name: value for name, value in chosen.items() if value is not None}
    )
    _set_up_logs(settings, "gateway", child=arguments.child)
    if settings.gateway_processes > 1:
        from rush.serve import ServeError, serve

        try:
            asyncio.run(serve(settings, is_plain=_is_json(settings)))
        except ServeError as error:
            return _fail(str(error), EXIT_FAILED)
        return 0
    from gateway.server import run

    try:
        run(settings, port=settings.port)
    except OSError as error:
        return _fail(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}", EXIT_FAILED)
    return 0


def _work(arguments: argparse.Namespace) -> int:
    settings = load_settings()
    _set_up_logs(settings, "workers", child=arguments.child)
    from workers.runner import WORKERS, run

    unknown = [name for name in arguments.names if name not in WORKERS]
    if unknown:
        return _fail(f"there is no worker {unknown[0]!r}; there are: {', '.join(WORKERS)}", EXIT_USAGE)
    if arguments.metrics_port:
        from prometheus_client import start_http_server

        from observability.metrics import REGISTRY

        try:
            start_http_server(arguments.metrics_port, settings.host, REGISTRY)
        except OSError as error:
            return _fail(
                f"cannot serve metrics on port {arguments.metrics_port}: {error.strerror}", EXIT_FAILED
            )
    run(settings, arguments.names)
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from rush.migrate import MigrationError, migrate

    settings = load_settings()
    _set_up_logs(settings, "")
    try:
        asyncio.run(migrate(settings, wait_s=arguments.wait_s))
    except MigrationError as error:
        return _fail(str(error), EXIT_FAILED)
    return 0


def _fence(arguments: argparse.Namespace) -> int:
    from rush.operate import run

    return run("fence", arguments.event, is_meant=arguments.yes)


def _unfence(arguments: argparse.Namespace) -> int:
    from rush.operate import run

    return run("unfence", arguments.event, wait_s=arguments.wait_s)


def _rebuild(arguments: argparse.Namespace) -> int:
    from rush.operate import run

    return run("rebuild", arguments.event)


def _audit(arguments: argparse.Namespace) -> int:
    from engine.audit import main as audit

    return int(audit(arguments.rest))


def _load(arguments: argparse.Namespace) -> int:
    from loadtest.cli import main as load

    return int(load(arguments.rest))


def _bench(arguments: argparse.Namespace) -> int:
    from loadtest.bench import main as bench

    return int(bench(arguments.rest))


def _verify_lottery(arguments: argparse.Namespace) -> int:
    from rush.verify_lottery import main as verify

    return verify(arguments.rest)


def _simulate(arguments: argparse.Namespace) -> int:
    from rush.simulate import main as simulate

    return int(simulate(arguments.rest))


def _bare(arguments: argparse.Namespace) -> int:
    from rush.bare import run

    run(arguments.port, arguments.answer)
    return 0


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(text)
    return port


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


_port.__name__, _count.__name__ = "port", "count"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rush", description="Ticket Rush: every seat sold exactly once.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, **options: bool) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, **options)  # type: ignore[arg-type]
        made.set_defaults(run=run)
        return made

    up = add("up", _up, "run everything on this machine, stores included, with a demo event on sale")
    up.add_argument("--port", type=_port, help="where to serve (RUSH_PORT, 8000); 0 takes any free one")
    up.add_argument(
        "--gateways", type=_count, metavar="N", help="gateway processes (RUSH_GATEWAY_PROCESSES, 1)"
    )
    up.add_argument("--no-demo", action="store_true", help="no demo accounts and no demo event")

    serve = add("serve", _serve, "run gateways: the HTTP API")
    serve.add_argument("--host", help="address to listen on (RUSH_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=_port, help="port to listen on (RUSH_PORT, 8000)")
    serve.add_argument(
        "--processes", type=_count, metavar="N", help="how many share it (RUSH_GATEWAY_PROCESSES, 1)"
    )
    serve.add_argument("--as", dest="child", help=argparse.SUPPRESS)

    work = add("work", _work, "run workers in one process: all, or those that are named")
    work.add_argument("names", nargs="*", metavar="NAME", help="which ones; all when none is named")
    work.add_argument("--metrics-port", type=_port, help="serve /metrics on this port; nothing without it")
    work.add_argument("--as", dest="child", help=argparse.SUPPRESS)

    migrate = add("migrate", _migrate, "create the database if it is missing and bring it up to date")
    migrate.add_argument("--wait-s", type=float, default=30.0, help="how long to wait for Postgres (30)")

    fence = add("fence", _fence, "close every sale, or one event's, until it is opened again by hand")
    fence.add_argument("event", nargs="?", metavar="EVENT", help="slug or id; everything without it")
    fence.add_argument("--yes", action="store_true", help="do not ask")

    unfence = add("unfence", _unfence, "open again what `rush fence` has closed, and wait until it is")
    unfence.add_argument("event", nargs="?", metavar="EVENT", help="slug or id; everything without it")
    unfence.add_argument("--wait-s", type=float, default=60.0, help="how long to wait for recovery (60)")

    rebuild = add("rebuild", _rebuild, "write one event anew in Redis from Postgres; the others sell on")
    rebuild.add_argument("event", metavar="EVENT", help="slug or id")

    bare = add("bare", _bare, "for `rush bench`: answer every POST the same, with nothing behind it")
    bare.add_argument("--port", type=_port, required=True)
    bare.add_argument("--answer", required=True, metavar="FILE", help="status, headers and body, as JSON")

    for name, run, text in (
        ("audit", _audit, "check a running system: oversold, lost, counted twice?"),
        ("load", _load, "the ticket rush: load it, audit it, say the verdict"),
        ("simulate", _simulate, "plan a sale with a waiting room: a made-up crowd under a simulated clock"),
        ("bench", _bench, "how many reservations a second the whole stack carries, and what each one costs"),
        (
            "verify-lottery",
            _verify_lottery,
            "compute the draw of a waiting room again, from public data alone",
        ),
    ):
        add(name, run, text, add_help=False).add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 2 for a wrong command line or a wrong setting."""
    words = list(sys.argv[1:] if argv is None else argv)
    # argparse keeps options that stand first out of REMAINDER, so what these get is cut off by hand.
    takes_rest = {"audit", "load", "simulate", "bench", "verify-lottery"}
    rest = words[1:] if words and words[0] in takes_rest else None
    arguments = _parser().parse_args(words[:1] if rest is not None else words)
    arguments.rest = rest
    run: Command = arguments.run
    try:
        return run(arguments)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return 130
