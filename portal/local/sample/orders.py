"""Orders: a small real service for the demo. Standard library only; it never imports Slipway.

It is configured as services are: by environment (`PORT`, `REGION`, `DATABASE_PASSWORD`), by a file that
the deployment writes (`ORDERS_CONFIG`), and by what lies beside it in its artifact (`VERSION`, `prices.csv`).
"""

import csv
import json
import os
import signal
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_BODY_BYTES = 64 * 1024


class BrokenPrices(Exception):
    """The price table cannot be read."""


def read_prices(file: Path) -> dict[str, float]:
    """Item to price. Raises BrokenPrices naming the line."""
    prices = {}
    with file.open(newline="") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            try:
                item, price = row
                prices[item] = float(price)
            except ValueError:
                raise BrokenPrices(
                    f"{file.name}, line {number}: no item and price: {','.join(row)}"
                ) from None
    return prices


class Orders:
    """The orders of this instance, in memory, and what its health depends on."""

    def __init__(self) -> None:
        self.version = (HERE / "VERSION").read_text().strip()
        self.region = os.environ.get("REGION", "nowhere")
        self.has_password = bool(os.environ.get("DATABASE_PASSWORD"))
        self.greeting = self._config().get("greeting", "")
        self.problem = ""
        self.prices: dict[str, float] = {}
        try:
            self.prices = read_prices(HERE / "prices.csv")
        except BrokenPrices as error:
            self.problem = str(error)
        self._lock = threading.Lock()
        self._rows = sqlite3.connect(":memory:", check_same_thread=False)
        self._rows.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, price REAL)")

    @staticmethod
    def _config() -> dict[str, str]:
        file = Path(os.environ.get("ORDERS_CONFIG", "config/orders.json"))
        return json.loads(file.read_text()) if file.exists() else {}

    def describe(self) -> dict[str, object]:
        with self._lock:
            (count,) = self._rows.execute("SELECT count(*) FROM orders").fetchone()
        return {
            "service": "orders",
            "version": self.version,
            "region": self.region,
            "greeting": self.greeting,
            # Whether there is a password, never which.
            "database": "connected" if self.has_password else "no password",
            "orders": count,
        }

    def place(self, item: str) -> dict[str, object]:
        """Keep an order; raises KeyError for an item without a price."""
        price = self.prices[item]
        with self._lock:
            cursor = self._rows.execute("INSERT INTO orders (item, price) VALUES (?, ?)", (item, price))
        return {"id": cursor.lastrowid, "item": item, "price": price}


class Handler(BaseHTTPRequestHandler):
    orders: Orders
    timeout = 10

    def do_GET(self) -> None:
        if self.path == "/healthz" or self.path == "/orders":
            if self.orders.problem:
                self._answer(500, {"status": "failing", "reason": self.orders.problem})
            elif self.path == "/healthz":
                self._answer(200, {"status": "ok", "version": self.orders.version})
            else:
                self._answer(200, self.orders.describe())
        else:
            self._answer(404, {"error": f"no such page: {self.path}"})

    def do_POST(self) -> None:
        if self.path != "/orders":
            return self._answer(404, {"error": f"no such page: {self.path}"})
        try:
            length = min(int(self.headers.get("Content-Length", "0")), MAX_BODY_BYTES)
            item = json.loads(self.rfile.read(length))["item"]
            return self._answer(201, self.orders.place(item))
        except (KeyError, TypeError, ValueError):
            return self._answer(
                400, {"error": 'send {"item": NAME} with one of: ' + ", ".join(self.orders.prices)}
            )

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Keep requests out of the log: at some hundred a second they would be all that it holds."""


class Server(ThreadingHTTPServer):
    # Threads that are waited for at the end: a request in flight is answered before we go.
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    allow_reuse_address = True


def main() -> int:
    Handler.orders = Orders()
    port = int(os.environ["PORT"])
    server = Server(("127.0.0.1", port), Handler)
    print(f"orders {Handler.orders.version} in {Handler.orders.region} listens on {port}", flush=True)
    if Handler.orders.problem:
        print(f"error: {Handler.orders.problem}", flush=True)

    def stop(_number: int, _frame: object) -> None:
        # `shutdown` waits for the loop that this very thread runs: it needs a thread of its own.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    print("stopped: every request was answered", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
