"""The formats and codings of /metrics over HTTP."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

import pubsubtest
from gizmopy import Service, get


class Shop(Service):
    """Sell things."""

    @get("/things/{id}")
    async def thing(self, id: int) -> int:
        return id


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.5", "text/plain"),
        ("application/json", "text/plain"),
    ],
)
@pytest.mark.parametrize("coding", ["gzip", "gzip;q=0", "identity"])
async def test_a_scrape_is_negotiated(accept: str, media_type: str, coding: str) -> None:
    """The text is in the format and coding of the headers, and caches are told so."""
    headers = {"Accept": accept, "Accept-Encoding": coding}
    async with pubsubtest.serve(Shop) as shop:
        await (await shop.http.get("/things/1")).read()
        async with shop.http.get("/metrics", headers=headers) as response:
            text = await response.text()
            assert response.status == 200
            assert response.content_type == media_type
            assert response.headers.get("Content-Encoding") == (
                coding if coding == "gzip" else None
            )
            assert response.headers["Vary"] == "Accept, Accept-Encoding"
    parse = plain if media_type == "text/plain" else openmetrics
    families = list(parse(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert "http_server_request_duration_seconds" in names


@pytest.mark.parametrize(
    ("query", "families"),
    [
        ("name[]=gizmo_connections&name[]=python_info", {"gizmo_connections", "python_info"}),
        ("name%5B%5D=gizmo_connections", {"gizmo_connections"}),
        ("name[]=unknown", set()),
        ("name[]=gizmo_connections&name[]=", {"gizmo_connections"}),
        ("name[]=a%0Ab{}", set()),
    ],
)
async def test_names_select_metrics(query: str, families: set[str]) -> None:
    """The names of a query are metrics; one that is unknown is no error."""
    async with pubsubtest.serve(Shop) as shop, shop.http.get(f"/metrics?{query}") as response:
        assert response.status == 200
        found = plain(await response.text())
        assert {family.name.removesuffix("_total") for family in found} == families


@pytest.mark.parametrize("query", ["name[]=", "other=1"])
async def test_a_query_without_names_selects_everything(query: str) -> None:
    """As with the clients of Prometheus, an empty name is no name."""
    async with pubsubtest.serve(Shop) as shop, shop.http.get(f"/metrics?{query}") as response:
        assert len(list(plain(await response.text()))) > 10
