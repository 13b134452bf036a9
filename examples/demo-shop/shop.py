#!/usr/bin/env python3
"""A small web shop in one file (Python 3.9+, standard library only).

It is an ordinary shop that knows nothing of flash sales. The one thing it has been given is a webhook,
POST /webhooks/orders, by the Standard Webhooks spec (https://www.standardwebhooks.com): it checks the signature
and stores each order once, however often it is told.

    python3 shop.py --port 8000 --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw

Pages:  /  /products/sneaker  /orders  /assets/shop.css  /assets/shop.js  /health  /api/orders[?limit=N]

To rehearse bad days: --fail-first N (the first N webhook calls answer 500), --fail-share P (a share of them does),
--refuse-buyer NAME (answers 422), --hang (never answers), --forget-share P (stores the order, then answers 500),
--retry-after SECONDS (a 503 with Retry-After instead of the 500).
"""

import argparse
import base64
import hashlib
import hmac
import html
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOLERANCE_SECONDS = 300
BODY_LIMIT_BYTES = 256 * 1024

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Corner Shop</title><link rel="stylesheet" href="/assets/shop.css"></head>
<body><header><a href="/">Corner Shop</a> <a href="/orders">Orders</a></header>
<main><h1>{title}</h1>{body}</main><script src="/assets/shop.js"></script></body></html>
"""

ASSETS = {
    "/assets/shop.css": ("text/css; charset=utf-8", """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #222; background: #fafafa }
header { background: #223; padding: .8rem 1.2rem } header a { color: #fff; margin-right: 1rem; text-decoration: none }
main { max-width: 46rem; margin: 2rem auto; padding: 0 1.2rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
"""),
    "/assets/shop.js": ("text/javascript; charset=utf-8", """
document.querySelectorAll('time').forEach(t => { t.textContent = new Date(t.dateTime).toLocaleString() })
"""),
    "/assets/sneaker.svg": ("image/svg+xml", """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 60" width="240">
<path d="M5 45 Q5 30 20 28 L45 10 Q50 25 70 30 L105 36 Q116 39 115 48 L5 50 Z" fill="#c33" stroke="#222" stroke-width="2"/>
</svg>"""),
}


class OrderBook:
    """The orders, in a database of their own. A webhook id is taken once."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute(
            """CREATE TABLE IF NOT EXISTS orders (
                 position INTEGER PRIMARY KEY AUTOINCREMENT, webhook_id TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
                 sale TEXT, shard INTEGER, no INTEGER, hold TEXT, buyer TEXT, items TEXT, ref TEXT, meta TEXT,
                 at INTEGER, received_at REAL NOT NULL, told INTEGER NOT NULL DEFAULT 1)"""
        )

    def take(self, webhook_id, event):
        """Stores the order. False: it was here already; then it is only counted."""
        data = event["data"]
        values = (
            webhook_id, event["type"], data.get("sale"), data.get("shard"), data.get("no"), data.get("hold"),
            data.get("buyer"), json.dumps(data.get("items")), data.get("ref"), data.get("meta"), data.get("at"),
            time.time(),
        )
        with self.lock:
            added = self.database.execute(
                """INSERT INTO orders (webhook_id, type, sale, shard, no, hold, buyer, items, ref, meta, at, received_at)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (webhook_id) DO NOTHING""",
                values,
            ).rowcount
            if not added:
                self.database.execute("UPDATE orders SET told = told + 1 WHERE webhook_id = ?", (webhook_id,))
        return bool(added)

    def summary(self, limit):
        """Counts over all orders, and the newest of them."""
        with self.lock:
            count, repeats = self.database.execute("SELECT COUNT(*), COALESCE(SUM(told - 1), 0) FROM orders").fetchone()
            by_type = dict(self.database.execute("SELECT type, COUNT(*) FROM orders GROUP BY type").fetchall())
            rows = self.database.execute(
                """SELECT position, webhook_id, type, sale, shard, no, hold, buyer, items, ref, meta, at, told
                   FROM orders ORDER BY position DESC LIMIT ?""",
                (limit,),
            ).fetchall()
        names = ("position", "id", "type", "sale", "shard", "no", "hold", "buyer", "items", "ref", "meta", "at", "told")
        orders = [dict(zip(names, row)) for row in reversed(rows)]
        for order in orders:
            order["items"] = json.loads(order["items"])
        return {"count": count, "repeats": repeats, "by_type": by_type, "orders": orders}


class Faults:
    """What goes wrong on purpose."""

    def __init__(self, options):
        self.options = options
        self.lock = threading.Lock()
        self.calls = 0

    def before(self):
        """The status to answer before the order is looked at, if any."""
        with self.lock:
            self.calls += 1
            first = self.calls <= self.options.fail_first
        if self.options.hang:
            time.sleep(3600)
        if first or random.random() < self.options.fail_share:
            return 503 if self.options.retry_after else 500
        return None

    def after(self):
        """The status to answer although the order is stored, if any."""
        return 500 if random.random() < self.options.forget_share else None


def verify(secret, headers, body, now):
    """Checks a Standard Webhooks signature. Returns what is wrong with it, or None."""
    webhook_id, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp")
    signatures = headers.get("webhook-signature")
    if not webhook_id or not timestamp or not signatures:
        return "a webhook header is missing"
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return "the timestamp is too far from now"
    key = base64.b64decode(secret[len("whsec_"):])
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # Every signature is compared, each in constant time: several stand there while a secret is rotated.
    matches = [hmac.compare_digest(given.encode(), expected.encode()) for given in signatures.split(" ")]
    return None if any(matches) else "no signature matches"


class Shop(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "corner-shop"
    timeout = 30
    # Headers and body leave in one packet; otherwise each answer waits for a delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path in ASSETS:
            kind, content = ASSETS[url.path]
            return self.answer(200, content, kind, {"Cache-Control": "public, max-age=3600"})
        if url.path == "/":
            return self.page("Welcome", '<p>Good things, few of each.</p><p><a href="/products/sneaker">The red sneaker</a></p>')
        if url.path == "/products/sneaker":
            return self.page("The red sneaker", '<img src="/assets/sneaker.svg" alt=""><p>89.00, sizes 36 to 46.</p>')
        if url.path == "/health":
            return self.answer(200, "ok\n", "text/plain")
        if url.path == "/orders":
            return self.orders_page()
        if url.path == "/api/orders":
            limit = parse_qs(url.query).get("limit", ["100000"])[0]
            summary = self.server.book.summary(int(limit) if limit.isdigit() else 100000)
            return self.answer_json(200, summary)
        return self.page("Not here", "<p>There is no such page.</p>", 404)

    def do_POST(self):
        body = self.read_body()
        if body is None:
            return None
        if urlsplit(self.path).path != "/webhooks/orders":
            return self.answer_json(404, {"error": "no such page"})
        return self.webhook(body)

    def webhook(self, body):
        fault = self.server.faults.before()
        if fault is not None:
            return self.fail(fault)
        wrong = verify(self.server.secret, self.headers, body, time.time())
        if wrong:
            return self.answer_json(401, {"error": wrong})
        try:
            event = json.loads(body)
            data = event["data"]
            buyer = data["buyer"]
        except (ValueError, KeyError, TypeError):
            return self.answer_json(400, {"error": "not an order"})
        if self.server.refuse_buyer and buyer == self.server.refuse_buyer:
            return self.answer_json(422, {"error": "this buyer is not served"})
        fresh = self.server.book.take(self.headers["webhook-id"], event)
        fault = self.server.faults.after()
        if fault is not None:
            return self.fail(fault)
        return self.answer_json(201 if fresh else 200, {"stored": fresh})

    def fail(self, status):
        wait = self.server.faults.options.retry_after
        extra = {"Retry-After": str(wait)} if status == 503 else {}
        return self.answer_json(status, {"error": "a bad day"}, extra)

    def orders_page(self):
        summary = self.server.book.summary(50)
        rows = "".join(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>".format(
                *(html.escape(str(order[name])) for name in ("id", "type", "buyer", "hold"))
            )
            for order in summary["orders"]
        )
        head = "<tr><th>Id</th><th>What</th><th>Buyer</th><th>Hold</th></tr>"
        self.page(f"{summary['count']} orders", f"<table>{head}{rows}</table>")

    def read_body(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_LIMIT_BYTES:
            self.close_connection = True
            self.answer_json(413 if length.isdigit() else 411, {"error": "send a Content-Length of 256 KiB at most"})
            return None
        return self.rfile.read(int(length))

    def page(self, title, body, status=200):
        self.answer(status, PAGE.format(title=html.escape(title), body=body), "text/html; charset=utf-8")

    def answer_json(self, status, value, extra=None):
        self.answer(status, json.dumps(value) + "\n", "application/json", extra)

    def answer(self, status, text, kind, extra=None):
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, form, *values):
        if self.server.verbose:
            sys.stderr.write("shop: " + form % values + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, client_address):
        # A client that goes away is no news; anything else is.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def options():
    parser = argparse.ArgumentParser(description="A small web shop in one file.")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one; the first line printed names it")
    parser.add_argument("--secret", default=os.environ.get("SHOP_WEBHOOK_SECRET"), help="whsec_...; or SHOP_WEBHOOK_SECRET")
    parser.add_argument("--database", help="file of the orders; default: one in a new temporary folder")
    parser.add_argument("--verbose", action="store_true", help="print each request")
    parser.add_argument("--fail-first", type=int, default=int(os.environ.get("SHOP_FAIL_FIRST", "0")), metavar="N")
    parser.add_argument("--fail-share", type=float, default=float(os.environ.get("SHOP_FAIL_SHARE", "0")), metavar="P")
    parser.add_argument("--forget-share", type=float, default=0.0, metavar="P")
    parser.add_argument("--refuse-buyer", metavar="NAME")
    parser.add_argument("--retry-after", type=int, default=0, metavar="SECONDS")
    parser.add_argument("--hang", action="store_true")
    chosen = parser.parse_args()
    if not (chosen.secret or "").startswith("whsec_"):
        parser.error("--secret whsec_... is needed to tell the webhook's caller from anybody else")
    return chosen


def main():
    chosen = options()
    folder = None
    if chosen.database is None:
        folder = tempfile.TemporaryDirectory(prefix="corner-shop-")
    server = Server(("127.0.0.1", chosen.port), Shop)
    server.book = OrderBook(chosen.database or os.path.join(folder.name, "orders.db"))
    server.faults = Faults(chosen)
    server.secret, server.refuse_buyer, server.verbose = chosen.secret, chosen.refuse_buyer, chosen.verbose
    print(f"shop: listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    try:
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        if folder:
            folder.cleanup()


if __name__ == "__main__":
    main()
