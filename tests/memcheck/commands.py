"""Mixed commands for a server that runs under valgrind: `commands.py PORT COUNT`. Run by scripts/valgrind.sh.

Every command of the module, with arguments right and wrong, and what the server itself does with the type:
DUMP and RESTORE (damaged too), COPY, RENAME, expiry, lazy free, AOF rewrite, DEBUG RELOAD and LOADAOF. Ends with a
clean AUDIT of every sale and SHUTDOWN.
"""

import random
import sys
import time

import redis

port, count = int(sys.argv[1]), int(sys.argv[2])
chance = random.Random(20)


def connect():
    client = redis.Redis(port=port, socket_timeout=120)
    # Answers as they come, whatever the client makes of commands it knows.
    client.response_callbacks.clear()
    for _ in range(600):
        try:
            client.ping()
            return client
        except redis.exceptions.RedisError:
            time.sleep(0.1)
    sys.exit("the server under valgrind did not start")


client = connect()
shard = client.execute_command("FLASH.SHARDS", "big", 3)[0]
sales = ["sale", "little", shard]
skus = ["tee", "mug", b"\x00\xff", "cap"]
buyers = [f"buyer-{n}" for n in range(40)] + [b"\x00", "x" * 128]
texts = ["", "pay-1", b"\r\n\x00", "m" * 200]
words = ["ITEMS", "TTL", "-1", "0", "2147483648", "", b"\xff\x00", "x" * 200, "ID", "UPTO", "HOLDS", "LIMIT", "SHARD"]
answers = {}


def send(*words):
    """Errors are answers too; only a server that is gone is a failure."""
    try:
        answer = client.execute_command(*words)
        what = answer[0] if isinstance(answer, list) and answer else answer
        what = what.decode(errors="replace") if isinstance(what, bytes) and len(what) < 20 else type(what).__name__
    except redis.exceptions.ResponseError as error:
        answer, what = None, "error " + str(error).split(" ")[0]
    answers[what] = answers.get(what, 0) + 1
    return answer


def sale():
    return chance.choice(sales)


def hold():
    return f"hold-{chance.randrange(150)}"


def items(most=3):
    return [word for _ in range(chance.randint(1, most)) for word in (chance.choice(skus), chance.randint(1, 3))]


def batch(most):
    """Holds of one unit each, as MRESERVE takes them."""
    return [word for _ in range(chance.randint(1, most)) for word in
            (hold(), chance.choice(buyers), chance.choice(skus), 1)]


def packed(words):
    """The same as MessagePack, now and then with an end that is missing."""
    parts = [b"\xdc" + len(words).to_bytes(2, "big")]
    for word in words:
        if isinstance(word, int):
            parts.append(bytes([word]))
        else:
            word = word if isinstance(word, bytes) else word.encode()
            parts.append(b"\xc4" + bytes([len(word)]) + word)
    whole = b"".join(parts)
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.1 else whole


def some(*words):
    return list(words) if chance.random() < 0.3 else []


def create():
    for name in sales:
        part = ["SHARD", 0, 3] if name == shard else []
        events = chance.choice(["ORDERS", "ALL", "NONE"])
        made = send("FLASH.CREATE", name, "LIMIT", 30, "HOLD", 400, "RETAIN", 3000, "EVENTS", events, *part,
                    "ITEMS", "tee", 300, "mug", 50, b"\x00\xff", 20)
        if made != b"OK":
            sys.exit(f"no sale {name!r}: {made}")


def block():
    """Three clients wait: one is served, one gives up, one is gone before its turn; then the key ends."""
    send("FLASH.CREATE", "tiny", "HOLD", 60000, "ITEMS", "tee", 1)
    send("FLASH.RESERVE", "tiny", "first", "ann", "ITEMS", "tee", 1)
    waiting = [redis.Redis(port=port, socket_timeout=120).connection_pool.get_connection("_") for _ in range(3)]
    for number, connection in enumerate(waiting):
        ms = 50 if number == 1 else 5000
        connection.send_command("FLASH.RESERVE", "tiny", f"next-{number}", "bob", "BLOCK", ms, "ITEMS", "tee", 1)
    time.sleep(0.1)
    send("FLASH.RELEASE", "tiny", "first")
    time.sleep(0.1)
    waiting.pop().disconnect()
    send("DEL", "tiny")
    for connection in waiting:
        try:
            connection.read_response()
        except redis.exceptions.ResponseError:
            pass
        connection.disconnect()


def dump_and_restore():
    name = sale()
    dump = send("DUMP", name)
    if not dump:
        return
    send("RESTORE", "copy", 0, dump, "REPLACE")
    send("FLASH.AUDIT", "copy")
    for _ in range(3):
        # With a checksum that is right, or the decoder is never met.
        damaged = bytearray(dump[:-8])
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged) - 2)] = chance.randrange(256)
        send("RESTORE", "damaged", 0, bytes(damaged) + checksum(damaged), "REPLACE")
        send("FLASH.AUDIT", "damaged")
        send("FLASH.EXPIRE", "damaged")
    send("DEL", "copy", "damaged")


def checksum(payload):
    """CRC-64 (Jones), as DUMP signs with it."""
    crc = 0
    for byte in payload:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc.to_bytes(8, "little")


def table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x95AC9329AC4BC9B5 if byte & 1 else 0)
        yield byte


TABLE = list(table())


def copy_and_rename():
    name = sale()
    send("COPY", name, "{t}copy", "REPLACE")
    send("COPY", name, "{t}copy", "DB", 1, "REPLACE")
    send("RENAME", "{t}copy", "{t}renamed")
    send("FLASH.ORDER", "{t}renamed", "*", chance.choice(buyers), "ITEMS", *items(1))
    send("FLASH.CLOSE", "{t}renamed")
    send("PEXPIRE", "{t}renamed", chance.choice([1, 20]))
    send("MOVE", "{t}renamed", 2)
    send("UNLINK", "{t}renamed")


def transaction():
    pipe = client.pipeline()
    for _ in range(4):
        pipe.execute_command("FLASH.RESERVE", sale(), hold(), chance.choice(buyers), "ITEMS", *items())
    pipe.execute(raise_on_error=False)
    send("EVAL", "return redis.pcall('FLASH.RESERVE', KEYS[1], '*', ARGV[1], 'ITEMS', 'tee', 1)", 1, sale(), "eve")


def look():
    name = sale()
    for words in (["INFO", name], ["HOLD", name, hold()], ["BUYER", name, chance.choice(buyers)], ["AUDIT", name],
                  ["HOLDS", name, 0, *some("STATE", "held"), *some("COUNT", 7)], ["SHARDS", "big", 5],
                  ["ROUTE", "big", 5, chance.choice(buyers)]):
        send("FLASH." + words[0], *words[1:])
    send("MEMORY", "USAGE", name, "SAMPLES", 0)
    send("OBJECT", "ENCODING", name)
    send("DEBUG", "DIGEST-VALUE", name)
    send("INFO", "everything")


def nonsense():
    command = chance.choice("CREATE ALTER STOCK RESERVE MRESERVE ORDER CONFIRM RELEASE EXTEND RETURN EXPIRE PAUSE INFO "
                            "HOLD BUYER HOLDS AUDIT SHARDS ROUTE GRANT ACCEPT THROTTLE REPLAY".split())
    send("FLASH." + command, *[chance.choice([sale(), "text", hold(), *words, *skus]) for _ in range(chance.randint(0, 9))])


def persist():
    what = chance.choice(["RELOAD", "LOADAOF", "REWRITE", "BGSAVE"])
    if what == "REWRITE":
        # As commands, which the type makes, or as a snapshot.
        send("CONFIG", "SET", "aof-use-rdb-preamble", chance.choice(["yes", "no"]))
        send("BGREWRITEAOF")
    elif what == "BGSAVE":
        send("BGSAVE")
    else:
        send("DEBUG", what)


buying = [
    lambda: send("FLASH.RESERVE", sale(), chance.choice([hold(), "*"]), chance.choice(buyers),
                 *some("TTL", chance.randint(1, 900)), *some("UPTO"), *some("REPEATED"), *some("REPLACE", hold()),
                 *some("META", chance.choice(texts)), "ITEMS", *items()),
    lambda: send("FLASH.MRESERVE", sale(), *some("REPEATED"), "HOLDS", *batch(20)),
    lambda: send("FLASH.MRESERVE", sale(), *some("REPEATED"), "PACKED", packed(batch(20))),
    lambda: send("FLASH.ORDER", sale(), hold(), chance.choice(buyers), *some("REF", chance.choice(texts)),
                 "ITEMS", *items()),
    lambda: send("FLASH.CONFIRM", sale(), hold(), *some("REF", chance.choice(texts)), *some("LATE"),
                 *some("ITEMS", *items(1))),
    lambda: send("FLASH.RELEASE", sale(), hold(), *some("REASON", chance.choice(texts))),
    lambda: send("FLASH.EXTEND", sale(), hold(), chance.randint(1, 900)),
    lambda: send("FLASH.RETURN", sale(), hold(), f"return-{chance.randrange(9)}", *some("ITEMS", *items(1))),
    lambda: send("FLASH.STOCK", sale(), chance.choice(skus), chance.randint(-3, 9),
                 *some("ID", f"alloc-{chance.randrange(9)}"), *some("LIMIT", 9)),
]
others = [
    (lambda: send("FLASH.EXPIRE", sale(), *some("COUNT", 3)), 3),
    (lambda: send("FLASH.ALTER", sale(), "LIMIT", chance.randint(10, 90), *some("EVENTS", "ALL")), 2),
    (lambda: [send("FLASH.PAUSE", name := sale()), send("FLASH.RESUME", name)], 1),
    (lambda: send("FLASH.GRANT", shard, chance.choice(skus), 2, "TO", 1), 2),
    (lambda: send("FLASH.ACCEPT", shard, chance.choice(skus), "FROM", 2, "TOTAL", chance.randint(0, 90)), 2),
    (lambda: send("FLASH.THROTTLE", f"rate-{chance.randrange(5)}", 3, 10, 1), 4),
    (look, 2),
    (nonsense, 10),
    (transaction, 3),
    (dump_and_restore, 2),
    (copy_and_rename, 3),
    (lambda: send("XTRIM", "{sale}:orders", "MAXLEN", 10), 1),
]

create()
send("SET", "text", "not a sale")
actions, weights = zip(*others)
for number in range(count):
    if number % (count // 16 + 1) == 7:
        persist()
    if number % (count // 6 + 1) == 11:
        block()
    if chance.random() < 0.7:
        chance.choice(buying)()
    else:
        chance.choices(actions, weights)[0]()

time.sleep(1)
audits = {name: client.execute_command("FLASH.AUDIT", name) for name in sales}
wrong = {name: audit for name, audit in audits.items() if audit[audit.index(b"ok") + 1] != 1}
send("DEBUG", "RELOAD")
print("answers:", ", ".join(f"{what} {times}" for what, times in sorted(answers.items())))
if wrong:
    sys.exit(f"AUDIT finds differences: {wrong}")
for kind in ("RESERVED", "CONFIRMED", "RELEASED", "RETURNED", "EXTENDED", "EXPIRED", "STOCKED"):
    if kind not in answers:
        sys.exit(f"no command was answered {kind}: what is checked is not what should be")
send("DEL", *sales)
try:
    client.execute_command("SHUTDOWN", "NOSAVE")
except redis.exceptions.ConnectionError:
    pass
