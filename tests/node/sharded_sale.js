// Many buyers go through the lines that docs/sharding.md gives to Node.js.
//
// usage: sharded_sale.js PORT SNIPPET

const assert = require("assert")
const fs = require("fs")
const { Cluster } = require("ioredis")

const [port, snippet] = [Number(process.argv[2]), fs.readFileSync(process.argv[3], "utf8")]
const [name, shards] = ["spring", 12]

// Ids as shops have them, and some that a slot function could get wrong.
const odd = ["user{42}", "{user}42", "{}", "a}b{c}", "{{x}}", "käthe", "名前", "\u{1f600}{ü}", " "]
const buyers = [...odd, ...Array.from({ length: 240 }, (_, number) => `buyer-${number}`)]

const AsyncFunction = (async () => {}).constructor
const reserve = new AsyncFunction("require", "cluster", "buyer", "cart", `${snippet}\nreturn { key, answer }`)

const asMap = (pairs) => Object.fromEntries(pairs.flatMap((word, at) => (at % 2 ? [] : [[word, pairs[at + 1]]])))

// Every buyer reserves through the snippet, twice: the second time the hold is found again.
async function route(cluster) {
  const homes = new Map()
  for (const [number, buyer] of buyers.entries()) {
    const cart = `cart-${number}`
    for (const _ of [1, 2]) {
      const { key, answer } = await reserve(require, cluster, buyer, cart)
      assert.deepStrictEqual(answer.slice(0, 2), ["RESERVED", cart], buyer)
      homes.set(buyer, key)
    }
  }
  return homes
}

// The server agrees about every buyer, and every shard has the holds of its own.
async function check(cluster, homes) {
  const shares = new Map()
  for (const [number, [buyer, key]] of [...homes].entries()) {
    assert.strictEqual(key, await cluster.call("FLASH.ROUTE", name, shards, buyer), buyer)
    assert.strictEqual(asMap(await cluster.call("FLASH.HOLD", key, `cart-${number}`)).buyer, buyer)
    shares.set(key, (shares.get(key) ?? 0) + 1)
  }
  for (const key of await cluster.call("FLASH.SHARDS", name, shards)) {
    assert.strictEqual(asMap(await cluster.call("FLASH.INFO", key)).holds, shares.get(key) ?? 0, key)
  }
}

async function main() {
  const cluster = new Cluster([{ host: "127.0.0.1", port }])
  const homes = await route(cluster)
  await check(cluster, homes)
  cluster.disconnect()
  console.log(`all well: ${homes.size} buyers, ioredis ${require("ioredis/package.json").version}`)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
