"""Many buyers go through the lines that docs/sharding.md gives to Python.

usage: sharded_sale.py PORT SNIPPET MOVE_SNIPPET
"""

import collections
import sys

import redis
import redis.cluster

PORT, SNIPPET, MOVE = int(sys.argv[1]), open(sys.argv[2]).read(), open(sys.argv[3]).read()
NAME, SHARDS, BUYERS = "spring", 12, 240


def expect(actual, expected, about=""):
    assert actual == expected, f"{about}: expected {expected!r}, got {actual!r}"


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def as_map(reply):
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[0::2], reply[1::2])
    return {text(name): value for name, value in pairs}


def buyers():
    """Ids as shops have them, and some that a slot function could get wrong."""
    yield from ("user{42}", "{user}42", "{}", "{}{a}", "a{}b}", "a}b{c}", "{{x}}", "käthe", "名前", "\U0001f600{ü}", " ")
    yield from (f"buyer-{number}" for number in range(BUYERS))


def route(cluster):
    """Every buyer reserves through the snippet; tells the shard of each."""
    code, homes = compile(SNIPPET, "docs/sharding.md", "exec"), {}
    for number, buyer in enumerate(buyers()):
        given = {"cluster": cluster, "buyer": buyer, "cart": f"cart-{number}"}
        for _ in range(2):  # the second time the hold is found again
            scope = dict(given)
            exec(code, scope)
            expect(text(scope["answer"][0]), "RESERVED", buyer)
            expect(text(scope["answer"][1]), given["cart"], buyer)
        homes[buyer] = text(scope["key"])
    return homes


def check(cluster, homes):
    """The server agrees about every buyer, and every shard has the holds of its own."""
    keys = [text(key) for key in cluster.execute_command("FLASH.SHARDS", NAME, SHARDS, target_nodes=cluster.get_random_node())]
    for number, (buyer, key) in enumerate(homes.items()):
        routed = cluster.execute_command("FLASH.ROUTE", NAME, SHARDS, buyer, target_nodes=cluster.get_random_node())
        expect(key, text(routed), buyer)
        hold = as_map(cluster.execute_command("FLASH.HOLD", key, f"cart-{number}"))
        expect(text(hold["buyer"]), buyer)
    shares = collections.Counter(homes.values())
    for key in keys:
        expect(as_map(cluster.execute_command("FLASH.INFO", key))["holds"], shares[key], key)
    return keys


def sku(cluster, key):
    skus = as_map(as_map(cluster.execute_command("FLASH.INFO", key))["skus"])
    return as_map(skus["shirt"])


def move(cluster, keys):
    """Units move by the lines of the page, once however often those are run."""
    code = compile(MOVE, "docs/sharding.md", "exec")
    donor, receiver = 3, 7
    before = [sku(cluster, keys[index])["available"] for index in (donor, receiver)]
    scope = {"cluster": cluster, "keys": keys, "replicas": 1}
    exec(code, scope)
    expect(scope["move"](donor, receiver, "shirt", 5), 5)
    # A mover that died before it told anybody: the next one, which knows nothing, finishes what was begun.
    cluster.execute_command("FLASH.GRANT", keys[donor], "shirt", 4, "TO", receiver)
    scope["totals"].clear()
    expect(scope["move"](donor, receiver, "shirt", 3), 4)
    expect(scope["move"](donor, receiver, "shirt", 3), 3)
    after = [sku(cluster, keys[index])["available"] for index in (donor, receiver)]
    expect(after, [before[0] - 12, before[1] + 12])


def main():
    cluster = redis.cluster.RedisCluster(host="127.0.0.1", port=PORT)
    homes = route(cluster)
    keys = check(cluster, homes)
    move(cluster, keys)
    print(f"all well: {len(homes)} buyers, redis-py {redis.__version__}")


main()
