"""Each folder of examples/ works."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import FormData

import pubsubtest
from gizmopy.pubsub import Driver
from pubsubtest.conformance import Check, Harness, checks, run_check
from tests.examples.conftest import EXAMPLES, Load

ROOT = EXAMPLES.parent


def test_every_example_is_in_the_list() -> None:
    """examples/README.md has a row for each folder."""
    folders = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    text = (EXAMPLES / "README.md").read_text()

    assert len(folders) == 9
    assert [folder for folder in folders if f"| `{folder}` |" not in text] == []


def test_make_run_starts_a_service_that_exists(load: Load) -> None:
    """The folder, the module and the class in the recipe of `make run` are those of an example."""
    recipe = (ROOT / "Makefile").read_text().partition("\nrun:")[2].partition("\n\n")[0]
    folder = recipe.partition("cd examples/")[2].partition(" ")[0]
    module, _, service = recipe.partition("gizmopy run ")[2].strip().partition(":")

    assert hasattr(load(folder, module), service)


async def test_1_hello(load: Load) -> None:
    """The endpoint greets with the setting."""
    hello = load("1-hello", "hello")
    settings = hello.HelloSettings(greeting="hi")
    async with pubsubtest.serve(hello.Hello, settings=settings) as served:
        async with served.http.get("/hello/world?times=2") as response:
            assert await response.json() == {"hi": "world world"}


async def test_2_consumer(load: Load) -> None:
    """An order is shipped, an unknown item is a dead letter, a sold-out one waits."""
    consumer = load("2-consumer", "consumer")
    async with pubsubtest.serve(consumer.Warehouse) as warehouse:
        order = consumer.Order(id=1, item="apple", pieces=4)
        assert await warehouse.deliver("orders", order, key="1") == "ack"
        assert warehouse.service.stock["apple"] == 6
        order = consumer.Order(id=2, item="plum")
        assert await warehouse.deliver("orders", order, key="2") == "dead_letter"
        (dead,) = warehouse.published("orders.dead")
        assert dead.attributes["gizmo-dl-reason"] == "we do not sell 'plum'"
    (outcome,) = await pubsubtest.FakeSubscriber(consumer.Warehouse().on_order).run(
        [consumer.Order(id=3, item="pear")]
    )
    assert outcome != "ack"


async def test_3_both(load: Load) -> None:
    """A cat is stored, published and handled."""
    cats = load("3-both", "cats")
    async with pubsubtest.serve(cats.Cats) as served:
        response = await served.http.put("/svc/cats/1", json={"name": "Tom"})
        assert response.status == 200
        await served.idle()
        async with served.http.get("/svc/cats/stats") as response:
            assert await response.json() == {"stored": 1, "published": 1, "handled": 1}


async def test_4_batches(load: Load) -> None:
    """A batch stores good items and rejects others; a payment that arrives twice counts once."""
    batches = load("4-batches", "batches")
    faults = pubsubtest.Faults()
    async with pubsubtest.serve(batches.Meters, faults=faults) as meters:
        good, bad = (batches.Measurement(meter="a", value=value) for value in (1.0, -1.0))
        assert await meters.deliver("measurements", good) == "ack"
        assert await meters.deliver("measurements", bad) == "dead_letter"
        assert meters.service.rows == [good]
        faults.duplicate_next()
        payment = batches.Payment(account="tom", cents=100)
        assert await meters.deliver("payments", payment, key="tom") == "ack"
        await meters.idle()
        assert meters.service.balance == {"tom": 100}


def test_5_several_modules() -> None:
    """The example's own tests pass, run as a reader runs them."""
    folder = EXAMPLES / "5-several-modules"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "10 passed" in ended.stdout


@pytest.mark.usefixtures("blocking_calls_pass")  # the driver uses sqlite3, so that it is short
@pytest.mark.parametrize("check", checks(), ids=lambda check: check.name)
async def test_6_driver(check: Check, load: Load, tmp_path: Path) -> None:
    """The driver passes every check of the conformance suite that applies to it."""
    gizmo_sqlite = load("6-driver", "gizmo_sqlite")

    def open_driver() -> Driver:
        driver: Driver = gizmo_sqlite.open_driver(f"sqlite://{tmp_path}/queue.db")
        return driver

    result = await run_check(check, Harness(open=open_driver, quiet=0.2), timeout=40)
    assert result.outcome != "failed", result.reason


async def test_7_background_work(load: Load) -> None:
    """Views are reported every 10 seconds, and the last ones in the drain."""
    views = load("7-background-work", "views")
    clock = pubsubtest.Clock()
    async with pubsubtest.serve(views.Views, clock=clock) as served:
        for name in ("home", "home", "news"):
            assert (await served.http.get(f"/pages/{name}")).status == 200
        await clock.advance(10)
        await served.idle()
        assert (await served.http.get("/pages/late")).status == 200
    first, last = served.published("views")
    assert first.value(dict[str, int]) == {"home": 2, "news": 1}
    assert last.value(dict[str, int]) == {"late": 1}


async def test_8_uploads(load: Load, tmp_path: Path) -> None:
    """PNG files are stored under names of the service's own, and listed in pages."""
    album = load("8-uploads", "album")
    settings = album.AlbumSettings(folder=tmp_path)
    form = FormData({"title": "Tom", "stars": ""}, default_to_multipart=True)
    for field, name in (("photo", "../tom.png"), ("more", "a.png"), ("more", "b.png")):
        form.add_field(field, album.PNG + name.encode(), filename=name)
    async with pubsubtest.serve(album.Album, settings=settings) as served:
        async with served.http.get("/") as response:
            assert "multipart/form-data" in await response.text()
        headers = {"Cookie": "owner=Ann"}
        async with served.http.post("/photos", data=form, headers=headers) as response:
            assert response.status == 201
            stored = await response.json()
        form = FormData()
        form.add_field("photo", b"GIF89a", filename="x.png")
        async with served.http.post("/photos", data=form) as response:
            assert response.status == 422
        async with served.http.get("/photos?limit=2&offset=1") as response:
            assert await response.json() == stored[1:]
        async with served.http.get("/photos?page=1") as response:
            assert response.status == 422
    await asyncio.get_running_loop().shutdown_default_executor()
    tom, *_ = stored
    assert (tom["title"], tom["stars"], tom["owner"]) == ("Tom", None, "Ann")
    assert sorted(_names(tmp_path)) == sorted(f"{each['id']}.png" for each in stored)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_9_streams(load: Load) -> None:
    """A browser gets the events that it missed and each new one; all changes are a download."""
    prices = load("9-streams", "prices")
    async with pubsubtest.serve(prices.Prices) as served:
        for cents in (100, 101, 102):
            await served.http.put(f"/prices/ACME?cents={cents}")
        async with served.http.get("/events", headers={"Last-Event-ID": "1"}) as response:
            assert response.content_type == "text/event-stream"
            first = await response.content.readuntil(b"\n\n")
            assert first == b'id: 2\ndata: {"share":"ACME","cents":102}\n\n'
            await served.http.put("/prices/ACME?cents=103")
            second = await response.content.readuntil(b"\n\n")
            assert second == b'id: 3\ndata: {"share":"ACME","cents":103}\n\n'
        async with served.http.get("/changes") as response:
            assert (await response.text()).count("\n") == 4
        async with served.http.get("/changes.csv") as response:
            assert (await response.text()).startswith("share,cents\nACME,100\n")
        async with served.http.get("/", headers={"Range": "bytes=0-14"}) as response:
            assert (response.status, await response.text()) == (206, "<!doctype html>")
    await asyncio.get_running_loop().shutdown_default_executor()
