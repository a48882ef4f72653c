"""The CPU time of a request, beside raw aiohttp on the same loop.

    python -m benchmarks.http [SERVER ...] [--seconds 4]

``aiohttp`` answers by ``json_response``, ``aiohttp-orjson`` reads and writes with orjson; neither
logs, measures or validates anything. ``gizmopy`` has everything on and writes its access log to a
file, ``gizmopy-pipe`` to a pipe. ``aiohttp-again`` is aiohttp measured against itself: its distance
from 1 is the error of the other ratios. Figures are medians, with the lowest and highest round.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from statistics import median

from benchmarks.figures import Target, spread
from benchmarks.http_servers import SERVERS
from benchmarks.load import Load, Server, measure, served

ROUNDS = 3
SECONDS = 4.0
_BODY = b'{"name": "Tom", "colour": "black"}'
REQUESTS = {
    "GET": b"GET /cats/7 HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n\r\n",
    "PUT": b"PUT /cats/7 HTTP/1.1\r\nHost: x\r\nUser-Agent: bench\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY),
}
REFERENCES = ("aiohttp", "aiohttp-orjson")
TARGETS = {
    ("GET", "gizmopy", "aiohttp"): Target(least=1.35),
    ("GET", "gizmopy-pipe", "aiohttp"): Target(least=1.35),
    ("PUT", "gizmopy", "aiohttp-orjson"): Target(least=0.8),
    ("PUT", "gizmopy-pipe", "aiohttp-orjson"): Target(least=0.8),
    ("GET", "aiohttp-again", "aiohttp"): Target(0.97, 1.03),
    ("PUT", "aiohttp-again", "aiohttp"): Target(0.97, 1.03),
}


def _report(method: str, servers: Sequence[str], rounds: Sequence[dict[str, float]]) -> None:
    """Print the CPU time of a request by server, and the ratio to each reference."""
    references = [name for name in REFERENCES if name in servers] or servers[-1:]
    for name in servers:
        line = f"  {name:<15} {median(each[name] for each in rounds):6.1f} µs"
        for reference in references:
            ratios = [each[reference] / each[name] for each in rounds]
            target = TARGETS.get((method, name, reference))
            verdict = "" if target is None else target.judge(ratios)
            line += f"   {spread(ratios)} of {reference} {verdict}"
        print(line.rstrip())


def compare(servers: dict[str, Server], seconds: float) -> None:
    """Print the CPU time of each kind of request on each server, and the ratios."""
    for method, request in REQUESTS.items():
        loads = {name: Load(server, [request]) for name, server in servers.items()}
        rounds = measure(loads, rounds=ROUNDS, seconds=seconds)
        print(f"{method} /cats/{{id}}: CPU time a request, and work done beside a reference")
        _report(method, list(servers), rounds)


def main(argv: Sequence[str] = ()) -> None:
    """Compare the servers that the arguments name; without arguments, all."""
    parser = ArgumentParser("python -m benchmarks.http")
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=", ".join(SERVERS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="duration of a round")
    options = parser.parse_args(argv)
    names = options.servers or list(SERVERS)
    if unknown := set(names) - set(SERVERS):
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    with served({name: ("benchmarks.http_servers", name) for name in names}) as servers:
        compare(servers, options.seconds)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
