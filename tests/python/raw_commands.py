"""Raw flashsale commands through redis-py, as a shop written in Python would send them.

usage: raw_commands.py PORT
"""

import sys
import threading

import redis


def as_map(reply):
    """RESP2 sends a map as a flat list; RESP3 clients get a dict."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[0::2], reply[1::2]))


def connect(**options):
    return redis.Redis(host="127.0.0.1", port=int(sys.argv[1]), **options)


def expect(actual, expected):
    assert actual == expected, f"expected {expected!r}, got {actual!r}"


def one_buyer(r):
    expect(r.execute_command("FLASH.CREATE", "sale:1", "LIMIT", 4, "ITEMS", "shirt", 100, "cap", 10), b"OK")

    status, hold, deadline = r.execute_command(
        "FLASH.RESERVE", "sale:1", "cart-1", "ann", "ITEMS", "shirt", 1, "cap", 1
    )
    expect((status, hold), (b"RESERVED", b"cart-1"))
    assert isinstance(deadline, int)

    # Sent again because the answer was lost: the same answer, nothing counted twice.
    again = r.execute_command("FLASH.RESERVE", "sale:1", "cart-1", "ann", "ITEMS", "cap", 1, "shirt", 1)
    expect(again, [b"RESERVED", b"cart-1", deadline])
    # The same id for something else is refused.
    other = r.execute_command("FLASH.RESERVE", "sale:1", "cart-1", "ann", "ITEMS", "shirt", 2)
    expect(other, [b"MISMATCH", b"items"])
    # Over the limit: a value, not an exception.
    expect(
        r.execute_command("FLASH.RESERVE", "sale:1", "cart-2", "ann", "ITEMS", "shirt", 3),
        [b"LIMIT", b"", 2],
    )

    expect(r.execute_command("FLASH.CONFIRM", "sale:1", "cart-1", "REF", "pay-77"), [b"CONFIRMED", b"cart-1", 1])
    expect(r.execute_command("FLASH.RELEASE", "sale:1", "cart-1"), [b"CONFIRMED", b"cart-1", 1])
    hold = as_map(r.execute_command("FLASH.HOLD", "sale:1", "cart-1"))
    expect((hold[b"buyer"], hold[b"state"], hold[b"ref"]), (b"ann", b"confirmed", b"pay-77"))

    # A late RESERVE of an id that was released before it arrived.
    expect(r.execute_command("FLASH.RELEASE", "sale:1", "cart-3"), [b"RELEASED"])
    expect(r.execute_command("FLASH.RESERVE", "sale:1", "cart-3", "bob", "ITEMS", "cap", 1), [b"RELEASED"])
    expect(r.execute_command("FLASH.CONFIRM", "sale:1", "nobody"), [b"NOTFOUND"])


def ids_of_any_bytes(r):
    """Ids are bytes: a packed UUID is as good as text."""
    name = bytes(range(128, 256))
    reply = r.execute_command("FLASH.ORDER", "sale:1", name, b"\x00\xff", "ITEMS", "shirt", 1)
    expect((reply[0], reply[1]), (b"CONFIRMED", name))


def errors(r):
    for call, word in [
        (("FLASH.INFO", "nowhere"), "NOSALE"),
        (("FLASH.CREATE", "sale:1"), "EXISTS"),
        (("FLASH.RESERVE", "sale:1", "x", "ann", "ITEMS", "shirt", 0), ""),
    ]:
        try:
            reply = r.execute_command(*call)
        except redis.exceptions.ResponseError as error:
            assert str(error).startswith(word), error
        else:
            raise AssertionError(f"{call} answered {reply!r}")


def pipelines_and_transactions(r):
    with r.pipeline(transaction=False) as pipe:
        for number in range(50):
            pipe.execute_command("FLASH.RESERVE", "sale:1", f"p-{number}", f"buyer-{number}", "ITEMS", "shirt", 1)
        assert all(reply[0] == b"RESERVED" for reply in pipe.execute())
    with r.pipeline(transaction=True) as pipe:
        pipe.execute_command("FLASH.CONFIRM", "sale:1", "p-0")
        pipe.execute_command("FLASH.CONFIRM", "sale:1", "p-1")
        first, second = pipe.execute()
        expect((first[0], second[0]), (b"CONFIRMED", b"CONFIRMED"))
        expect(second[2], first[2] + 1)


def a_refusal_does_not_wake_watch(r):
    with r.pipeline() as pipe:
        pipe.watch("sale:1")
        refused = connect().execute_command("FLASH.RESERVE", "sale:1", "w-1", "zoe", "ITEMS", "cap", 1000)
        assert refused[0] != b"RESERVED"
        pipe.multi()
        pipe.ping()
        expect(pipe.execute(), [True])
    with r.pipeline() as pipe:
        pipe.watch("sale:1")
        reserved = connect().execute_command("FLASH.RESERVE", "sale:1", "w-2", "zoe", "ITEMS", "shirt", 1)
        expect(reserved[0], b"RESERVED")
        pipe.multi()
        pipe.ping()
        try:
            pipe.execute()
        except redis.exceptions.WatchError:
            pass
        else:
            raise AssertionError("a reservation did not wake WATCH")


def a_crowd(r):
    """200 buyers want 50 units: exactly 50 get one."""
    r.execute_command("FLASH.CREATE", "sale:2", "LIMIT", 1, "ITEMS", "console", 50)
    won = []

    def buy(first):
        mine = connect()
        for number in range(first, first + 25):
            hold = f"h{number}"
            reply = mine.execute_command("FLASH.RESERVE", "sale:2", hold, f"b{number}", "ITEMS", "console", 1)
            if reply[0] == b"RESERVED":
                expect(mine.execute_command("FLASH.CONFIRM", "sale:2", hold)[0], b"CONFIRMED")
                won.append(hold.encode())

    threads = [threading.Thread(target=buy, args=(first,)) for first in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(len(won), 50)
    expect(r.execute_command("FLASH.RESERVE", "sale:2", "late", "late", "ITEMS", "console", 1), [b"SOLDOUT", b"console"])

    # The order stream is an ordinary stream: consumer groups and all.
    r.xgroup_create("{sale:2}:orders", "shop", id="0")
    [[_, entries]] = r.xreadgroup("shop", "worker-1", {"{sale:2}:orders": ">"}, count=100)
    expect(sorted(fields[b"hold"] for _, fields in entries), sorted(won))
    expect([int(fields[b"no"]) for _, fields in entries], list(range(1, 51)))
    expect(as_map(r.execute_command("FLASH.AUDIT", "sale:2"))[b"ok"], 1)


def main():
    r = connect()
    one_buyer(r)
    ids_of_any_bytes(r)
    errors(r)
    pipelines_and_transactions(r)
    a_refusal_does_not_wake_watch(r)
    a_crowd(r)
    expect(as_map(r.execute_command("FLASH.AUDIT", "sale:1"))[b"ok"], 1)
    print("all well")


if __name__ == "__main__":
    main()
