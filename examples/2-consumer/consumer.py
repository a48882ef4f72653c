"""Consume orders. A failed order is retried; a wrong one becomes a dead letter.

GIZMO_PUBSUB_URL=kafka://localhost:9092 gizmopy run consumer:Warehouse
gizmopy redrive orders.dead consumer:Warehouse --dry-run
"""

import logging
from datetime import timedelta

from pydantic import BaseModel

from gizmopy import Reject, Retry, Service, Settings, subscribe

logger = logging.getLogger(__name__)


class Order(BaseModel):
    """A message of a shop."""

    id: int
    item: str
    pieces: int = 1


class Warehouse(Service):
    """Takes orders from the shelf."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.stock = {"apple": 10, "pear": 0}

    @subscribe("orders", concurrency=4, order="key", dead_letter="orders.dead")
    async def on_order(self, order: Order) -> None:
        """Take an order from the shelf."""
        if order.item not in self.stock:
            raise Reject(f"we do not sell {order.item!r}")
        if self.stock[order.item] < order.pieces:
            raise Retry("sold out", after=timedelta(minutes=5))
        self.stock[order.item] -= order.pieces
        logger.info("shipped", extra={"order": order.id, "left": self.stock[order.item]})


if __name__ == "__main__":
    Warehouse.run()
