#!lua name=flashsale
--[[
flashsale as Redis Functions: the commands of the flashsale module for servers that load no modules.
Redis 7.0 and later, Valkey 7.2 and later.

    redis-cli -x FUNCTION LOAD REPLACE < flashsale.lua
    redis-cli FCALL flash_create 1 sale:42 ITEMS shirt 100
    redis-cli FCALL flash_reserve 1 sale:42 hold-1 ann ITEMS shirt 1

FLASH.RESERVE key ... of the module is FCALL flash_reserve 1 key ... here, and so for every command: the same
arguments, order of checks, replies and texts of errors. docs/managed-redis.md says what differs.

HOW TO READ THIS FILE: from the top. 1 what is accepted, 2 errors, 3 words into values, 4 cluster slots and
shards, 5 the sale and its keys, 6 what changes a sale, 7 deadlines, 8 the rules of buying, 9 the commands of a
sale, 10 moving a sale to the module, 11 looking at a sale, 12 the rate limit, 13 the table of functions. Sections 6 to 8 say in Lua what the
module's core says in Rust; `apply` and `decide` there have their names from here on as well.

DATA. All keys of a sale lie in one cluster slot. BASE is KEY where KEY has a hash tag, else {KEY}.

    KEY               hash. `sale`: settings and counters of the sale (`sale_of`). `sku:NAME`: one SKU
                      (`sku_from_store`). `alloc:ID`: a STOCK that was given an ID, {sku, delta}.
                      `granted:SHARD:NAME` and `accepted:SHARD:NAME`: totals of transfers, decimal.
    BASE:orders       stream. The order stream, the same as the module's.
    BASE:skus         list. Names of the SKUs, in the order in which they were first stocked.
    BASE:holds        hash. id -> hold (`hold_from_store`): live holds, orders, and ids that are remembered.
    BASE:slots        hash. number -> id of every hold: what HOLDS pages through.
    BASE:free         list. Numbers that are free again, the last freed first.
    BASE:buyers       hash. `:BUYER` -> {held, sold, holds} of the sale; `N:SKU` .. BUYER with N the length of
                      the SKU's name -> {held, sold} of that SKU. Only buyers who have something.
    BASE:due          sorted set. id of every live hold, by deadline.
    BASE:due:skus     sorted set in order of bytes. One member for each SKU of each live hold: length of the
                      name (a byte), name, deadline (15 digits), units, blank, id.
    BASE:due:buyers   the same by buyer: length of the name, name, deadline, id.
    BASE:ended        sorted set. ids of released and expired holds and of wholly returned orders, by their end.
    BASE:tombstones   sorted set. ids that RELEASE met before RESERVE, by that time.

A sale that is on its way to the module (section 10, `flash_move`) has a word in the place of its layout, so that no
version of this library changes it any more.

Records are cmsgpack arrays. Numbers are integers below 2^53, which Lua's doubles hold exactly. Replicas and
append-only files get the writes, not the call: they read no clock.

CREATE removes what a deleted sale of the same name has left in these keys, but for the order stream.
]]

-- The version of this file. Whoever loads it may replace an older one, never a newer one.
local VERSION = '0.3.0'
-- The version of the data layout above.
local LAYOUT = 1

-------------------------------------------------------------------------------------------------------------
-- 1  What is accepted: every bound on a value that a stranger may send. The same as the module's.
-------------------------------------------------------------------------------------------------------------

local MAX_NAME_BYTES = 128
local MAX_META_BYTES = 1024
local MAX_REF_BYTES = 256
local MAX_QUANTITY = 2147483647
local MAX_ITEMS = 64
local MAX_SKUS = 65535
local MAX_SHARDS = 16384
local MAX_HOLD_MS = 2147483647
local MAX_RETAIN_MS = 315360000000
local MAX_TIME_MS = 100000000000000
local MAX_STOCKED = 2 ^ 52
local MAX_TOMBSTONES = 65536
local MIN_ENDED = 65536
local MAX_RETURNS = 1024
local MAX_CURSOR = 4294967295

-- Bounds on the work of one call.
-- Due holds that each command ends beyond its own needs.
local FEW_DUE = 16
-- Due holds of a limited buyer that one command ends; the others are left out of its sums.
local DUE_OF_ONE_BUYER = 64
-- Due holds that one command ends for the units that it needs.
local DUE_FOR_UNITS = 4096
-- Due holds that EXPIRE ends if it is not told how many, and at most.
local EXPIRE_COUNT = 1000
local MAX_EXPIRE_COUNT = 10000
-- Due holds that INFO looks at to tell how many buyers have anything.
local DUE_LOOKED_AT = 1024
-- Ended ids that one step forgets: two for each one that it can add, so that the queue drains.
local FORGOTTEN_AT_ONCE = 2
-- Words that one call of the server is given, an even number.
local PART = 1000

local INFINITE = 1 / 0

-------------------------------------------------------------------------------------------------------------
-- 2  Errors: misuse is answered with an error, everything else with an outcome.
-------------------------------------------------------------------------------------------------------------

-- A number without exponent or fraction: Lua's own form loses digits beyond 10^14.
local function int(number)
  return string.format('%.0f', number)
end

-- Ends the command with an error reply. What it has done so far stays: see `change`.
local function fault(text, ...)
  error({ fault = string.format(text, ...) })
end

local function misuse(text, ...)
  error({ fault = 'ERR ' .. string.format(text, ...) })
end

local WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value'
local STREAM_WRONGTYPE = "WRONGTYPE the key of the sale's order stream (KEY:orders, or {KEY}:orders) holds "
  .. 'something that is no stream: move it away'
local NOSALE = 'NOSALE no sale at that key: FLASH.CREATE makes one'
local EXISTS = 'EXISTS there is a sale at that key: FLASH.ALTER changes it, DEL removes it'

local ESCAPES = { ['\t'] = '\\t', ['\r'] = '\\r', ['\n'] = '\\n', ["'"] = "\\'", ['"'] = '\\"', ['\\'] = '\\\\' }

-- Any bytes, readable.
local function escaped(bytes)
  return (bytes:gsub('[%c\'"\\\127-\255%z]', function(byte)
    return ESCAPES[byte] or string.format('\\x%02x', byte:byte())
  end))
end

-- A stranger's bytes, readable and short.
local function shown(bytes)
  local MOST = 64
  return "'" .. escaped(bytes:sub(1, MOST)) .. (#bytes > MOST and '...' or '') .. "'"
end

-------------------------------------------------------------------------------------------------------------
-- 3  Words into values
-------------------------------------------------------------------------------------------------------------

-- The words of one command, read from the left.
local Words = {}
Words.__index = Words

local function words_of(argv, command)
  return setmetatable({ list = argv, at = 0, command = command }, Words)
end

function Words:arity()
  misuse("wrong number of arguments for '%s' command", self.command)
end

function Words:left()
  return #self.list - self.at
end

function Words:next()
  if self.at < #self.list then
    self.at = self.at + 1
    return self.list[self.at]
  end
end

function Words:required()
  return self:next() or self:arity()
end

function Words:value_of(what)
  return self:next() or misuse('%s needs a value after it', what)
end

function Words:done()
  local word = self:next()
  if word then
    misuse('unknown option %s', shown(word))
  end
end

local function checked_name(word, what)
  if #word == 0 or #word > MAX_NAME_BYTES then
    misuse('%s is %d bytes long: give 1..%d bytes', what, #word, MAX_NAME_BYTES)
  end
  return word
end

-- A decimal integer as Redis takes it: an optional minus, digits, no leading zero, nothing else.
local function integer(word, what, min, max)
  local digits = word:match('^%-?(%d+)$')
  local number = digits and #digits <= 19 and (word == '0' or digits:sub(1, 1) ~= '0') and tonumber(word)
  if not number or number < min or number > max then
    misuse('%s %s is not an integer in %s..%s', what, shown(word), int(min), int(max))
  end
  return number
end

function Words:name(what)
  return checked_name(self:required(), what)
end

function Words:number(what, min, max)
  return integer(self:required(), what, min, max)
end

-- A hold's id: `*` asks for one to be made.
function Words:hold_id()
  local id = self:name('id')
  return id ~= '*' and id
end

-- All that is left: `sku qty` pairs, equal SKUs added up.
function Words:items(min)
  local count = self:left()
  if count == 0 then
    misuse("ITEMS needs at least one 'sku qty'")
  elseif count % 2 == 1 then
    misuse("ITEMS takes groups of 'sku qty' up to the end: %d words are no whole groups", count)
  end
  local items, by_sku = {}, {}
  for _ = 1, count / 2 do
    local sku = checked_name(self:next(), 'SKU')
    local qty = integer(self:next(), 'qty', min, MAX_QUANTITY)
    local known = by_sku[sku]
    if known then
      known.qty = known.qty + qty
      if known.qty > MAX_QUANTITY then
        misuse('the quantities of SKU %s add up to more than %d', shown(sku), MAX_QUANTITY)
      end
    elseif #items == MAX_ITEMS then
      misuse('ITEMS has more than %d SKUs', MAX_ITEMS)
    else
      by_sku[sku] = { sku = sku, qty = qty }
      items[#items + 1] = by_sku[sku]
    end
  end
  return items
end

-- Readers of the values of options, for `Words:options`.
local function number_option(what, min, max)
  return function(words)
    return integer(words:value_of(what), what, min, max)
  end
end

local function name_option(what)
  return function(words)
    return checked_name(words:value_of(what), what)
  end
end

local function text_option(what, max)
  return function(words)
    local text = words:value_of(what)
    if #text > max then
      misuse('%s is %d bytes long: give at most %d', what, #text, max)
    end
    return text
  end
end

local function choice_option(what, choices, allowed)
  return function(words)
    local given = words:value_of(what)
    for _, choice in ipairs(choices) do
      if given:upper() == choice:upper() then
        return choice
      end
    end
    misuse('%s %s is none of %s', what, shown(given), allowed)
  end
end

local function items_option(min)
  return function(words)
    return words:items(min)
  end
end

local function flag_option()
  return true
end

-- Reads options in any order, each at most once. The answer maps names to values.
function Words:options(readers)
  local given = {}
  for word in self.next, self do
    local name = word:upper()
    local read = readers[name]
    if not read then
      misuse('unknown option %s', shown(word))
    end
    local value = read(self)
    if given[name] ~= nil then
      misuse('%s is given twice', name)
    end
    given[name] = value
  end
  return given
end

local META = text_option('META', MAX_META_BYTES)
local REF = text_option('REF', MAX_REF_BYTES)

local SETTINGS = {
  LIMIT = number_option('LIMIT', 0, MAX_QUANTITY),
  HOLD = number_option('HOLD', 1, MAX_HOLD_MS),
  MAXHOLD = number_option('MAXHOLD', 1, MAX_HOLD_MS),
  OPENS = number_option('OPENS', 0, MAX_TIME_MS),
  CLOSES = number_option('CLOSES', 0, MAX_TIME_MS),
  RETAIN = number_option('RETAIN', 0, MAX_RETAIN_MS),
  BACKLOG = number_option('BACKLOG', 1, MAX_QUANTITY),
  EVENTS = choice_option('EVENTS', { 'ORDERS', 'ALL', 'NONE' }, 'ORDERS, ALL, NONE'),
}

-- The field of the sale that each setting changes.
local SETTING_FIELDS = {
  LIMIT = 'limit',
  HOLD = 'hold_ms',
  MAXHOLD = 'maxhold_ms',
  OPENS = 'opens_at',
  CLOSES = 'closes_at',
  RETAIN = 'retain_ms',
  BACKLOG = 'backlog',
  EVENTS = 'events',
}

-------------------------------------------------------------------------------------------------------------
-- 4  Cluster slots and shards
-------------------------------------------------------------------------------------------------------------

local SLOTS = 16384

-- CRC16 by the Redis Cluster specification, a byte at a time. The table is made when it is first needed: while a
-- library is loaded Lua's own libraries are not there.
local CRC16 = {}

local function make_crc_table()
  for byte = 0, 255 do
    local crc = bit.lshift(byte, 8)
    for _ = 1, 8 do
      crc = bit.bxor(bit.lshift(crc, 1), bit.band(crc, 0x8000) ~= 0 and 0x1021 or 0)
      crc = bit.band(crc, 0xffff)
    end
    CRC16[byte] = crc
  end
end

local function crc_step(crc, byte)
  if not CRC16[0] then
    make_crc_table()
  end
  return bit.band(bit.bxor(bit.lshift(crc, 8), CRC16[bit.bxor(bit.rshift(crc, 8), byte)]), 0xffff)
end

-- What stands between the first `{` and the next `}`, if anything does.
local function hash_tag(key)
  local open = key:find('{', 1, true)
  local close = open and key:find('}', open + 1, true)
  return close and close > open + 1 and key:sub(open + 1, close - 1) or nil
end

local function key_slot(key)
  local hashed = hash_tag(key) or key
  local crc = 0
  for at = 1, #hashed do
    crc = crc_step(crc, hashed:byte(at))
  end
  return crc % SLOTS
end

-- Where all keys of a sale but the first get their names from.
local function base_of(key)
  return hash_tag(key) and key or '{' .. key .. '}'
end

-- A key with a `}` but no hash tag has no BASE in its slot: in `{a}b}:orders` the tag is `a`.
local function has_base_in_its_slot(key)
  return hash_tag(key) ~= nil or not key:find('}', 1, true)
end

-- The shard where a buyer lives: buyers never move, stock moves to them.
local function home_shard(buyer, shards)
  return shards <= 1 and 0 or key_slot(buyer) % shards
end

-- The smallest decimal number of each slot, as far as they have been looked for. Numbers are looked at ten at
-- a time: those that differ in the last digit share the rest of their CRC.
local smallest_of_slot = {}
local tens_looked_at = 0

local function look_at_ten(tens)
  local prefix = tens == 0 and '' or int(tens)
  local crc = 0
  for at = 1, #prefix do
    crc = crc_step(crc, prefix:byte(at))
  end
  for digit = 0, 9 do
    local slot = crc_step(crc, 48 + digit) % SLOTS
    smallest_of_slot[slot] = smallest_of_slot[slot] or tens * 10 + digit
  end
end

local function shard_tag(index, shards)
  local slot = math.floor((2 * index + 1) * SLOTS / (2 * shards))
  while not smallest_of_slot[slot] do
    look_at_ten(tens_looked_at)
    tens_looked_at = tens_looked_at + 1
  end
  return smallest_of_slot[slot]
end

local function shard_key(name, index, shards)
  return name .. '{' .. int(shard_tag(index, shards)) .. '}'
end

-- The key of another shard, from the key of one: `NAME{TAG}` with another tag.
local function sibling_key(key, index, shards)
  return shard_key(key:match('^[^{]*'), index, shards)
end

-------------------------------------------------------------------------------------------------------------
-- 5  The sale and its keys. Records are read when they are asked for, changed in memory, and written at the
--    end of the command; sorted sets are changed at once, because the same command may look into them again.
-------------------------------------------------------------------------------------------------------------

-- Where a hold stands. It ends once: only HELD is left for another state, but for a LATE confirm of an expired
-- hold, which is decided like a new one.
local HELD = 'held'
local CONFIRMED = 'confirmed'
-- An order of which nothing is left; remembered like an ended hold.
local RETURNED = 'returned'
local RELEASED = 'released'
local EXPIRED = 'expired'
-- Released before it was ever reserved: only the id is known.
local TOMBSTONE = 'tombstone'

local IS_ENDED = { [RETURNED] = true, [RELEASED] = true, [EXPIRED] = true, [TOMBSTONE] = true }
local IS_ORDER = { [CONFIRMED] = true, [RETURNED] = true }

local function items_to_store(items)
  local flat = {}
  for at, item in ipairs(items or {}) do
    flat[2 * at - 1], flat[2 * at] = item.sku, item.qty
  end
  return flat
end

local function items_from_store(flat)
  local items = {}
  for at = 1, #flat, 2 do
    items[#items + 1] = { sku = flat[at], qty = flat[at + 1] }
  end
  return items
end

-- Records are spelled out, field by field: loops over names cost several times as much.

-- What is kept of a SKU. `sold_out`: whether the world was last told so; `version` rises whenever that changes.
local function sku_from_store(name, packed)
  local v = cmsgpack.unpack(packed)
  return {
    name = name, stocked = v[1], available = v[2], held = v[3], sold = v[4], granted = v[5], accepted = v[6],
    limit = v[7], sold_out = v[8], version = v[9],
  }
end

local function sku_to_store(sku)
  return cmsgpack.pack({
    sku.stocked, sku.available, sku.held, sku.sold, sku.granted, sku.accepted, sku.limit, sku.sold_out, sku.version,
  })
end

local function refunds_to_store(refunds)
  local stored = {}
  for at, refund in ipairs(refunds) do
    stored[2 * at - 1], stored[2 * at] = refund.id, items_to_store(refund.items)
  end
  return stored
end

local function refunds_from_store(stored)
  local refunds = {}
  for at = 1, #stored, 2 do
    refunds[#refunds + 1] = { id = stored[at], items = items_from_store(stored[at + 1]) }
  end
  return refunds
end

-- What is kept of a hold. `time_ms` is the deadline; of what was released or wholly returned, when that
-- happened. `life_ms`: from its beginning to its deadline. `requested`: the items first asked for, where UPTO
-- took fewer. `confirmed_from`: the items held, where CONFIRM took fewer. `returns`: refunds in their order.
-- `false` stands for nothing. Items are stored as SKU and units in turn, refunds as id and items in turn.
local function hold_from_store(id, packed)
  local v = cmsgpack.unpack(packed)
  return {
    id = id, slot = v[1], state = v[2], buyer = v[3], time_ms = v[4], life_ms = v[5],
    items = items_from_store(v[6]), order_no = v[7], ref = v[8], meta = v[9],
    requested = v[10] and items_from_store(v[10]), confirmed_from = v[11] and items_from_store(v[11]),
    returns = v[12] and refunds_from_store(v[12]),
  }
end

local function hold_to_store(hold)
  return cmsgpack.pack({
    hold.slot, hold.state, hold.buyer, hold.time_ms, hold.life_ms,
    items_to_store(hold.items), hold.order_no, hold.ref, hold.meta,
    hold.requested and items_to_store(hold.requested), hold.confirmed_from and items_to_store(hold.confirmed_from),
    hold.returns and refunds_to_store(hold.returns),
  })
end

-- The server's clock, unix ms.
local function server_ms()
  local time = redis.call('TIME')
  return math.min(time[1] * 1000 + math.floor(time[2] / 1000), MAX_TIME_MS)
end

-- Calls the server with many words, a part at a time.
local function call_in_parts(command, key, words)
  for first = 1, #words, PART do
    redis.call(command, key, unpack(words, first, math.min(first + PART - 1, #words)))
  end
end

-- Names of the keys that belong to a sale, made when they are needed.
local SUFFIXES = {
  orders = ':orders', skus = ':skus', holds = ':holds', slots = ':slots', free = ':free', buyers = ':buyers',
  due = ':due', due_skus = ':due:skus', due_buyers = ':due:buyers', ended = ':ended', tombstones = ':tombstones',
}

local Keys = {}

function Keys.__index(keys, name)
  local key = keys.base .. SUFFIXES[name]
  keys[name] = key
  return key
end

local Sale = {}
Sale.__index = Sale

-- A sale as it was stored.
local function sale_of(key, v)
  return setmetatable({
    layout = v[1],
    -- settings, see FLASH.CREATE
    limit = v[2], hold_ms = v[3], maxhold_ms = v[4], opens_at = v[5], closes_at = v[6], retain_ms = v[7],
    backlog = v[8], events = v[9],
    shard = v[10], shards = v[11],
    paused = v[12], closed = v[13],
    -- time of the latest change: the clock of a sale never runs backwards
    clock_ms = v[14],
    -- number of the latest order stream entry
    entry_no = v[15],
    -- stream ids have at least this as their time part: the stream had a later entry from elsewhere
    stream_floor_ms = v[16],
    -- entries that stood in the stream before the first of this sale
    stream_start = v[17],
    -- all units ever stocked or accepted
    units = v[18],
    live_holds = v[19],
    -- orders ever confirmed
    orders = v[20],
    -- buyers with anything held or sold
    buyers = v[21],
    skus = v[22],
    -- numbers ever given to holds, and how many of them are free
    slots = v[23], free = v[24],
    ended = v[25], tombstones = v[26],
    -- only while it moves to the module, and afterwards: by which run, and where to
    mover = v[27], moved_to = v[28],

    -- What is not stored:
    key = key,
    keys = setmetatable({ base = base_of(key) }, Keys),
    -- The time of the command.
    now_ms = 0,
    -- Records that were read or made; `false` where there is none.
    sku_cache = {}, hold_cache = {}, buyer_cache = {},
    -- Names of the records that are to be written, and fields of KEY and BASE:slots with their new values.
    changed_skus = {}, changed_holds = {}, changed_buyers = {}, changed_fields = {}, changed_slots = {},
    changed = false,
    -- For the order stream and the state channel, in their order.
    entries = {}, news = {},
    -- How many entries earlier steps of the same command have added, which are not written yet.
    entries_before = 0,
  }, Sale)
end

local function sale_to_store(sale)
  return cmsgpack.pack({
    sale.layout, sale.limit, sale.hold_ms, sale.maxhold_ms, sale.opens_at, sale.closes_at, sale.retain_ms,
    sale.backlog, sale.events, sale.shard, sale.shards, sale.paused, sale.closed, sale.clock_ms, sale.entry_no,
    sale.stream_floor_ms, sale.stream_start, sale.units, sale.live_holds, sale.orders, sale.buyers, sale.skus,
    sale.slots, sale.free, sale.ended, sale.tombstones, sale.mover, sale.moved_to,
  })
end

-- What CREATE begins with.
local function new_sale(key)
  local sale = sale_of(key, {})
  for name, value in pairs({
    layout = LAYOUT, limit = 0, hold_ms = 300000, maxhold_ms = 3600000, opens_at = 0, closes_at = 0,
    retain_ms = 86400000, backlog = 1000000, events = 'ORDERS', shard = 0, shards = 1, paused = false,
    closed = false, clock_ms = 0, entry_no = 0, stream_floor_ms = 0, stream_start = 0, units = 0, live_holds = 0,
    orders = 0, buyers = 0, skus = 0, slots = 0, free = 0, ended = 0, tombstones = 0,
  }) do
    sale[name] = value
  end
  return sale
end

-- The move of a sale to the module (section 10), and what stands meanwhile in the place of its layout: MOVING until
-- FINISH, MOVED since: the module has it, or may have it at any moment. Nothing here changes such a sale.
local Move = { MOVING = 'moving', MOVED = 'moved', steps = {} }

Move.IN_MODULE = 'TRYAGAIN the sale lives in the module now: ask it by FLASH commands'

-- Why a key has no sale of this library.
function Move.no_sale(key)
  local kind = redis.call('TYPE', key).ok
  return kind == 'none' and NOSALE or kind == 'flashsale' and Move.IN_MODULE or WRONGTYPE
end

-- Opens the sale in a key to look at it. `skus` are items whose SKUs will be asked for.
local function open_to_look(key, skus)
  local fields = { 'sale' }
  for at, item in ipairs(skus or {}) do
    fields[at + 1] = 'sku:' .. item.sku
  end
  local values = redis.pcall('HMGET', key, unpack(fields))
  if values.err then
    fault('%s', values.err:find('^WRONGTYPE') and Move.no_sale(key) or values.err)
  elseif not values[1] then
    fault('%s', Move.no_sale(key))
  end
  local sale = sale_of(key, cmsgpack.unpack(values[1]))
  if sale.layout ~= LAYOUT and not sale.mover then
    misuse('the sale was written by another version of the flashsale library (layout %s): load that version',
      tostring(sale.layout))
  end
  for at, item in ipairs(skus or {}) do
    local packed = values[at + 1]
    sale.sku_cache[item.sku] = packed and sku_from_store(item.sku, packed)
  end
  -- The server's clock may go back, and a replica may be promoted whose clock is late.
  sale.now_ms = math.max(server_ms(), sale.clock_ms)
  return sale
end

-- The same to change it, which cannot be while it moves.
local function open(key, skus)
  local sale = open_to_look(key, skus)
  if sale.layout == Move.MOVING then
    fault('TRYAGAIN the sale is being moved to %s: send the same request again', sale.moved_to)
  elseif sale.layout == Move.MOVED then
    fault('TRYAGAIN the sale was moved to %s: send the request there', sale.moved_to)
  end
  return sale
end

function Sale:sku(name)
  local sku = self.sku_cache[name]
  if sku == nil then
    local packed = redis.call('HGET', self.key, 'sku:' .. name)
    sku = packed and sku_from_store(name, packed)
    self.sku_cache[name] = sku
  end
  return sku or nil
end

function Sale:hold(id)
  local hold = self.hold_cache[id]
  if hold == nil then
    local packed = redis.call('HGET', self.keys.holds, id)
    hold = packed and hold_from_store(id, packed)
    self.hold_cache[id] = hold
  end
  return hold or nil
end

-- A field of KEY that stands for itself: allocations and transfers.
function Sale:field(name)
  local value = self.changed_fields[name]
  return value or redis.call('HGET', self.key, name)
end

local function buyer_field(buyer, sku)
  return sku and #sku .. ':' .. sku .. buyer or ':' .. buyer
end

-- Reads what a buyer has of the sale and of some SKUs at once.
function Sale:load_buyer(buyer, items)
  local fields = { buyer_field(buyer) }
  for at, item in ipairs(items) do
    fields[at + 1] = buyer_field(buyer, item.sku)
  end
  for at, packed in ipairs(redis.call('HMGET', self.keys.buyers, unpack(fields))) do
    local v = packed and cmsgpack.unpack(packed) or { 0, 0, 0 }
    self.buyer_cache[fields[at]] = self.buyer_cache[fields[at]] or { held = v[1], sold = v[2], holds = v[3] }
  end
end

-- What a buyer has of the sale (without `sku`) or of one SKU, due holds included.
function Sale:buyer_sums(buyer, sku)
  local field = buyer_field(buyer, sku)
  if not self.buyer_cache[field] then
    self:load_buyer(buyer, { sku and { sku = sku } })
  end
  return self.buyer_cache[field], field
end

-- Writes everything that has changed: records, then the order stream, then news for subscribers.
function Sale:flush()
  if not self.changed then
    return
  end
  self:write_stream()
  local fields = { 'sale', sale_to_store(self) }
  for name in pairs(self.changed_skus) do
    fields[#fields + 1] = 'sku:' .. name
    fields[#fields + 1] = sku_to_store(self.sku_cache[name])
  end
  for name, value in pairs(self.changed_fields) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  call_in_parts('HSET', self.key, fields)
  self:write_records(self.keys.holds, self.changed_holds, function(id)
    local hold = self.hold_cache[id]
    return hold and hold_to_store(hold)
  end)
  self:write_records(self.keys.slots, self.changed_slots, function(slot)
    return self.changed_slots[slot]
  end)
  self:write_records(self.keys.buyers, self.changed_buyers, function(field)
    local sums = self.buyer_cache[field]
    return sums.held + sums.sold + sums.holds > 0 and cmsgpack.pack({ sums.held, sums.sold, sums.holds })
  end)
  self:tell_news()
end

-- Sets the fields of a hash that `value_of` gives values, and deletes the others.
function Sale:write_records(key, names, value_of)
  local set, gone = {}, {}
  for name in pairs(names) do
    local value = value_of(name)
    if value then
      set[#set + 1] = name
      set[#set + 1] = value
    else
      gone[#gone + 1] = name
    end
  end
  call_in_parts('HSET', key, set)
  call_in_parts('HDEL', key, gone)
end

-- Members of the two sorted sets that are in order of bytes: a name with its length, a deadline of fixed width,
-- and what the member stands for.
local function prefix_of(name)
  return string.char(#name) .. name
end

local function deadline_text(ms)
  return string.format('%015.0f', ms)
end

function Sale:sku_member(hold, item)
  return prefix_of(item.sku) .. deadline_text(hold.time_ms) .. int(item.qty) .. ' ' .. hold.id
end

function Sale:buyer_member(hold)
  return prefix_of(hold.buyer) .. deadline_text(hold.time_ms) .. hold.id
end

-- Hangs a live hold in at its deadline.
function Sale:hang_in(hold)
  local words = {}
  for _, item in ipairs(hold.items) do
    words[#words + 1] = '0'
    words[#words + 1] = self:sku_member(hold, item)
  end
  redis.call('ZADD', self.keys.due, int(hold.time_ms), hold.id)
  redis.call('ZADD', self.keys.due_skus, unpack(words))
  redis.call('ZADD', self.keys.due_buyers, '0', self:buyer_member(hold))
end

-- Takes a live hold out, before its deadline or its items change.
function Sale:take_out(hold)
  local words = {}
  for at, item in ipairs(hold.items) do
    words[at] = self:sku_member(hold, item)
  end
  redis.call('ZREM', self.keys.due, hold.id)
  redis.call('ZREM', self.keys.due_skus, unpack(words))
  redis.call('ZREM', self.keys.due_buyers, self:buyer_member(hold))
end

-- Members of a sorted set in order of bytes that belong to a name and are due, in parts: a function to iterate.
function Sale:due_members(key, name)
  local prefix = prefix_of(name)
  local from, to = '[' .. prefix, '(' .. prefix .. deadline_text(self.now_ms + 1)
  local members, at, offset = {}, 0, 0
  local PAGE = 256
  local start = #prefix + 16
  return function()
    at = at + 1
    if at > #members then
      if at > 1 and #members < PAGE then
        return nil
      end
      members = redis.call('ZRANGEBYLEX', key, from, to, 'LIMIT', offset, PAGE)
      offset, at = offset + PAGE, 1
    end
    return members[at] and members[at]:sub(start)
  end
end

-- Due units of a SKU: an iterator of hold ids and units.
function Sale:due_of_sku(name)
  local members = self:due_members(self.keys.due_skus, name)
  return function()
    local member = members()
    if member then
      local qty, id = member:match('^(%d+) (.*)$')
      return id, tonumber(qty)
    end
  end
end

function Sale:due_units(name)
  local units = 0
  for _, qty in self:due_of_sku(name) do
    units = units + qty
  end
  return units
end

-- The earliest deadline after now of a live hold that has units of a SKU.
function Sale:next_deadline_of(name)
  local prefix = prefix_of(name)
  local from, to = '[' .. prefix .. deadline_text(self.now_ms + 1), '(' .. prefix .. ':'
  local first = redis.call('ZRANGEBYLEX', self.keys.due_skus, from, to, 'LIMIT', 0, 1)[1]
  return first and tonumber(first:sub(#prefix + 1, #prefix + 15))
end

-------------------------------------------------------------------------------------------------------------
-- 6  What changes a sale. Nothing here refuses: the rules have been asked before.
-------------------------------------------------------------------------------------------------------------

local IN_EVERY_STREAM = { confirmed = true, returned = true }

-- Numbers a step, and keeps what the order stream must know of it.
function Sale:note(step)
  if not IN_EVERY_STREAM[step.type] and self.events ~= 'ALL' then
    return
  end
  self.entry_no = self.entry_no + 1
  if self.events == 'NONE' then
    return
  end
  step.no = self.entry_no
  step.levels = {}
  for at, item in ipairs(step.items) do
    local sku = self:sku(item.sku)
    step.levels[at] = { available = sku.available, held = sku.held, sold = sku.sold }
  end
  self.entries[#self.entries + 1] = step
end

local function form_urlencoded(text)
  return (text:gsub('[^%w*%-._]', function(byte)
    return string.format('%%%02X', byte:byte())
  end))
end

-- Lists by SKU: every language reads `sku=1&sku=2`, whatever bytes a SKU has.
local function form(items, value_of)
  local parts = {}
  for at, item in ipairs(items) do
    parts[at] = form_urlencoded(item.sku) .. '=' .. int(value_of(item, at))
  end
  return table.concat(parts, '&')
end

function Sale:write_stream()
  for _, entry in ipairs(self.entries) do
    local hold = entry.hold or {}
    local level = function(name)
      return form(entry.items, function(_, at) return entry.levels[at][name] end)
    end
    local fields = {
      'type', entry.type,
      'no', int(entry.no),
      'hold', hold.id or '',
      'buyer', hold.buyer or '',
      'items', form(entry.items, function(item) return item.qty end),
      'ref', not entry.without_ref and hold.ref or '',
      'meta', entry.note or hold.meta or '',
      'at', int(self.now_ms),
      'available', level('available'), 'held', level('held'), 'sold', level('sold'),
    }
    self:add_to_stream(entry.no, fields)
  end
end

-- The two parts of the stream's last id. `nil` if there is no stream.
function Sale:last_stream_id()
  local info = redis.pcall('XINFO', 'STREAM', self.keys.orders)
  for at = 1, info.err and 0 or #info, 2 do
    if info[at] == 'last-generated-id' then
      local ms, no = info[at + 1]:match('^(%d+)-(%d+)$')
      return tonumber(ms), tonumber(no)
    end
  end
end

-- A new sale in the key of an earlier one goes on behind the entries that are still in the stream: whoever has
-- seen an entry's number must not see it again on another one.
function Sale:go_on_behind_stream()
  local ms, no = self:last_stream_id()
  if ms and ms > 0 then
    self.stream_floor_ms = ms
    self.entry_no = math.min(no, MAX_STOCKED)
  end
  -- Together with `entry_no` an upper bound of the stream's length.
  self.stream_start = math.max(0, self:stream_length() - self.entry_no)
end

-- If somebody has put later entries into the stream by hand, ids are moved behind them.
function Sale:add_to_stream(no, fields)
  local id = function() return int(math.max(self.now_ms, self.stream_floor_ms)) .. '-' .. int(no) end
  local added = redis.pcall('XADD', self.keys.orders, id(), unpack(fields))
  if type(added) == 'table' and added.err then
    self.stream_floor_ms = (self:last_stream_id() or 0) + 1
    redis.call('XADD', self.keys.orders, id(), unpack(fields))
  end
end

-- Whether this server is a node of a cluster, asked once. `nil` where the user may not know.
local is_cluster

-- A sharded channel reaches only the nodes of its own slot, which is the key's if they share a hash tag.
local function channel_commands(key)
  if not hash_tag(key) then
    return { 'PUBLISH' }
  end
  if is_cluster == nil then
    local info = redis.pcall('INFO', 'cluster')
    if type(info) == 'string' then
      is_cluster = info:find('cluster_enabled:1', 1, true) ~= nil
    end
  end
  if is_cluster == nil then
    return { 'PUBLISH', 'SPUBLISH' }
  end
  return { is_cluster and 'SPUBLISH' or 'PUBLISH' }
end

-- Who may not publish still sells: edges then poll.
function Sale:tell_news()
  for _, message in ipairs(self.news) do
    for _, command in ipairs(channel_commands(self.key)) do
      redis.pcall(command, self.key .. ':state', message)
    end
  end
end

-- Marks a SKU as changed. It is sold out when nothing of it is left to be had here, now or when holds end.
function Sale:tell_change(sku)
  self.changed_skus[sku.name] = true
  local sold_out = sku.available == 0 and sku.held == 0
  if sold_out ~= sku.sold_out then
    sku.sold_out = sold_out
    sku.version = sku.version + 1
    local word = sold_out and 'soldout' or 'available'
    self.news[#self.news + 1] = word .. ' ' .. sku.name .. ' ' .. int(sku.version)
  end
end

function Sale:tell_changes(items)
  for _, item in ipairs(items) do
    self:tell_change(self:sku(item.sku))
  end
end

-- Moves units of a SKU from one counter to another.
function Sale:move_units(items, from, to)
  for _, item in ipairs(items) do
    local sku = self:sku(item.sku)
    sku[from] = sku[from] - item.qty
    sku[to] = sku[to] + item.qty
    self.changed_skus[item.sku] = true
  end
end

-- Everything that changes a sale begins here: it is the time of a change.
function Sale:touch()
  self.changed = true
  self.clock_ms = math.max(self.clock_ms, self.now_ms)
end

-- Counts items of a buyer in or out (`sign`), as `held` or `sold`, and `holds` live holds.
function Sale:count_buyer(buyer, items, what, sign, holds)
  if not self.buyer_cache[buyer_field(buyer)] then
    self:load_buyer(buyer, items)
  end
  local total, total_field = self:buyer_sums(buyer)
  local had = total.held + total.sold > 0
  for _, item in ipairs(items) do
    local of_sku, field = self:buyer_sums(buyer, item.sku)
    of_sku[what] = of_sku[what] + sign * item.qty
    total[what] = total[what] + sign * item.qty
    self.changed_buyers[field] = true
  end
  total.holds = total.holds + holds
  self.changed_buyers[total_field] = true
  local has = total.held + total.sold > 0
  if had ~= has then
    self.buyers = self.buyers + (has and 1 or -1)
  end
end

-- Whether what ended then is no longer remembered.
function Sale:is_old(ended_ms)
  return ended_ms + self.retain_ms <= self.now_ms
end

function Sale:is_due(hold)
  return hold.state == HELD and hold.time_ms <= self.now_ms
end

function Sale:is_forgotten(hold)
  return (IS_ENDED[hold.state] or self:is_due(hold)) and self:is_old(hold.time_ms)
end

-- The hold or order of an id, unless it ended so long ago that it is forgotten.
function Sale:known(id)
  local hold = self:hold(id)
  return hold and not self:is_forgotten(hold) and hold or nil
end

-- Stores a hold whose id is not there, under the number that was freed last.
function Sale:store_hold(hold)
  if self.free > 0 then
    hold.slot = tonumber(redis.call('LPOP', self.keys.free))
    self.free = self.free - 1
  else
    hold.slot = self.slots
    self.slots = self.slots + 1
  end
  for _, field in ipairs({ 'order_no', 'ref', 'meta', 'requested', 'confirmed_from', 'returns' }) do
    hold[field] = hold[field] or false
  end
  hold.order_no = hold.order_no or 0
  self.hold_cache[hold.id] = hold
  self.changed_holds[hold.id] = true
  self.changed_slots[int(hold.slot)] = hold.id
  return hold
end

local function queue_of(hold)
  return hold.state == TOMBSTONE and 'tombstones' or 'ended'
end

-- Puts what has ended into the queue of those that will be forgotten.
function Sale:queue_ended(hold)
  local queue = queue_of(hold)
  redis.call('ZADD', self.keys[queue], int(hold.time_ms), hold.id)
  self[queue] = self[queue] + 1
end

function Sale:unqueue_ended(hold)
  local queue = queue_of(hold)
  redis.call('ZREM', self.keys[queue], hold.id)
  self[queue] = self[queue] - 1
end

function Sale:forget(hold)
  self:unqueue_ended(hold)
  self.hold_cache[hold.id] = false
  self.changed_holds[hold.id] = true
  self.changed_slots[int(hold.slot)] = false
  redis.call('LPUSH', self.keys.free, int(hold.slot))
  self.free = self.free + 1
end

-- Memory grows with the stock, never with the crowd.
function Sale:ended_cap()
  return math.max(MIN_ENDED, 2 * self.units)
end

-- Forgets ended ids whose time has come, a few at each step.
function Sale:forget_old()
  local left = FORGOTTEN_AT_ONCE
  for _, queue in ipairs({ 'ended', 'tombstones' }) do
    if left > 0 and self[queue] > 0 then
      local latest = int(self.now_ms - self.retain_ms)
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', self.keys[queue], '-inf', latest, 'LIMIT', 0, left)) do
        self:forget(self:hold(id))
        left = left - 1
      end
    end
  end
  if self.ended > self:ended_cap() then
    self:forget(self:hold(redis.call('ZRANGE', self.keys.ended, 0, 0)[1]))
  end
end

function Sale:apply_stock(name, delta, alloc_id, limit)
  self:touch()
  local sku = self:sku(name)
  if not sku then
    sku = { name = name, stocked = 0, available = 0, held = 0, sold = 0, granted = 0, accepted = 0, limit = 0,
      sold_out = false, version = 0 }
    self.sku_cache[name] = sku
    self.skus = self.skus + 1
    redis.call('RPUSH', self.keys.skus, name)
  end
  sku.available = sku.available + delta
  sku.stocked = sku.stocked + delta
  sku.limit = limit or sku.limit
  self.units = self.units + delta
  if alloc_id then
    self.changed_fields['alloc:' .. alloc_id] = cmsgpack.pack({ name, delta })
  end
  self:note({ type = 'stocked', items = { { sku = name, qty = delta } }, note = alloc_id })
  self:tell_change(sku)
end

-- Makes a hold of items that are available.
function Sale:apply_reserve(id, buyer, items, requested, deadline_ms, meta)
  self:touch()
  self:forget_old()
  local known = self:hold(id)
  if known then
    self:forget(known)
  end
  local hold = self:store_hold({
    id = id, state = HELD, buyer = buyer, items = items, requested = requested, meta = meta,
    time_ms = deadline_ms, life_ms = deadline_ms - self.now_ms,
  })
  self:hold_units(hold)
  return hold
end

-- Available units become held; the hold is counted and given its deadline.
function Sale:hold_units(hold)
  self:move_units(hold.items, 'available', 'held')
  self:count_buyer(hold.buyer, hold.items, 'held', 1, 1)
  self:hang_in(hold)
  self.live_holds = self.live_holds + 1
  self:note({ type = 'held', items = hold.items, hold = hold })
  self:tell_changes(hold.items)
end

-- A live hold is one no more: its units are available.
function Sale:free_units(hold)
  self:take_out(hold)
  self:count_buyer(hold.buyer, hold.items, 'held', -1, -1)
  self:move_units(hold.items, 'held', 'available')
  self.live_holds = self.live_holds - 1
  self.changed_holds[hold.id] = true
end

-- Turns a live hold into an order, of `part` of its items if that is given, with another META if that is.
function Sale:apply_confirm(hold, ref, meta, part)
  self:touch()
  local held = hold.items
  self:free_units(hold)
  if part then
    hold.confirmed_from = held
    hold.items = part
  end
  self:move_units(hold.items, 'available', 'sold')
  self:count_buyer(hold.buyer, hold.items, 'sold', 1, 0)
  hold.ref = ref or false
  hold.meta = meta or hold.meta
  hold.state = CONFIRMED
  self.orders = self.orders + 1
  self:note({ type = 'confirmed', items = hold.items, hold = hold })
  hold.order_no = self.entry_no
  self:tell_changes(held)
end

-- Ends a live hold without an order.
function Sale:end_hold(hold, state, reason)
  self:touch()
  self:forget_old()
  self:free_units(hold)
  hold.state = state
  if state ~= EXPIRED then
    -- An expired hold ended at its deadline, whenever that was noticed.
    hold.time_ms = self.now_ms
  end
  self:queue_ended(hold)
  -- The same command may still give the hold another REF and META.
  local note = reason or hold.meta or ''
  self:note({ type = state, items = hold.items, hold = hold, note = note, without_ref = true })
  self:tell_changes(hold.items)
end

function Sale:apply_tombstone(id)
  self:touch()
  self:forget_old()
  local known = self:hold(id)
  if known then
    self:forget(known)
  end
  if self.tombstones >= MAX_TOMBSTONES then
    self:forget(self:hold(redis.call('ZRANGE', self.keys.tombstones, 0, 0)[1]))
  end
  local hold = self:store_hold({
    id = id, state = TOMBSTONE, buyer = '', items = {}, time_ms = self.now_ms, life_ms = 0,
  })
  self:queue_ended(hold)
end

function Sale:apply_extend(hold, deadline_ms)
  self:touch()
  self:take_out(hold)
  hold.life_ms = hold.life_ms + deadline_ms - hold.time_ms
  hold.time_ms = deadline_ms
  self:hang_in(hold)
  self.changed_holds[hold.id] = true
end

local same_list

-- An expired hold takes its units again, to be confirmed in the same step.
function Sale:apply_revive(hold, items)
  self:touch()
  self:unqueue_ended(hold)
  if not same_list(hold.items, items) then
    hold.confirmed_from = hold.items
    hold.items = items
    hold.ref = false
  end
  hold.state = HELD
  hold.time_ms = self.now_ms
  hold.life_ms = 0
  self:hold_units(hold)
end

local kept_items

local function units_of(items)
  local units = 0
  for _, item in ipairs(items) do
    units = units + item.qty
  end
  return units
end

function Sale:apply_return(hold, return_id, items)
  self:touch()
  local all = units_of(items) == units_of(kept_items(hold))
  self:count_buyer(hold.buyer, items, 'sold', -1, 0)
  hold.returns = hold.returns or {}
  table.insert(hold.returns, { id = return_id, items = items })
  self.changed_holds[hold.id] = true
  self:move_units(items, 'sold', 'available')
  self:note({ type = 'returned', items = items, hold = hold, note = return_id })
  self:tell_changes(items)
  if all then
    self:forget_old()
    hold.state = RETURNED
    hold.time_ms = self.now_ms
    self:queue_ended(hold)
  end
end

local function transfer_field(direction, shard, sku)
  return direction .. ':' .. int(shard) .. ':' .. sku
end

function Sale:apply_grant(sku, qty, to, total)
  self:touch()
  sku.available = sku.available - qty
  sku.granted = sku.granted + qty
  self.changed_fields[transfer_field('granted', to, sku.name)] = int(total)
  self:note({ type = 'granted', items = { { sku = sku.name, qty = qty } }, note = int(to) })
  self:tell_change(sku)
end

function Sale:apply_accept(sku, qty, from, total)
  self:touch()
  sku.available = sku.available + qty
  sku.accepted = sku.accepted + qty
  self.units = self.units + qty
  self.changed_fields[transfer_field('accepted', from, sku.name)] = int(total)
  self:note({ type = 'accepted', items = { { sku = sku.name, qty = qty } }, note = int(from) })
  self:tell_change(sku)
end

-------------------------------------------------------------------------------------------------------------
-- 7  Deadlines. Holds whose deadline has passed are expired for every command at once, whether or not a sweep
--    ran. A command ends those that matter for its own answer and a few more, so that its work is bounded
--    however many fall due at one instant.
-------------------------------------------------------------------------------------------------------------

-- The due holds that a command ends before it is decided.
local Picked = {}
Picked.__index = Picked

function Picked:add(hold)
  if hold and self.sale:is_due(hold) and not self.by_id[hold.id] then
    self.by_id[hold.id] = hold
    self.list[#self.list + 1] = hold
    return true
  end
end

function Picked:id(id)
  if id then
    self:add(self.sale:hold(id))
  end
end

function Picked:of_buyer(buyer)
  local left = DUE_OF_ONE_BUYER
  for id in self.sale:due_members(self.sale.keys.due_buyers, buyer) do
    if left == 0 then
      return
    end
    self:add(self.sale:hold(id))
    left = left - 1
  end
end

-- Picks until so many units of the SKU are available, or nothing of it is due any more.
function Picked:units(name, needed)
  local sku = self.sale:sku(name)
  if not sku then
    return
  end
  local available = sku.available
  for _, hold in ipairs(self.list) do
    for _, item in ipairs(hold.items) do
      available = available + (item.sku == name and item.qty or 0)
    end
  end
  for id, qty in self.sale:due_of_sku(name) do
    if available >= needed or #self.list >= DUE_FOR_UNITS then
      return
    end
    if self:add(self.sale:hold(id)) then
      available = available + qty
    end
  end
end

function Picked:request(buyer, items)
  self:of_buyer(buyer)
  for _, item in ipairs(items) do
    self:units(item.sku, item.qty)
  end
end

-- A LATE confirm takes the units of its hold again, as a new request would.
function Picked:late(id)
  local hold = self.sale:hold(id)
  if hold and hold.state ~= TOMBSTONE then
    self:request(hold.buyer, hold.items)
  end
end

function Sale:first_due(most)
  return redis.call('ZRANGEBYSCORE', self.keys.due, '-inf', int(self.now_ms), 'LIMIT', 0, most)
end

-- Ends the due holds that a command must not see; `pick` names those that matter to it.
function Sale:expire_for(pick)
  local first = self:first_due(FEW_DUE)
  if #first == 0 then
    return
  end
  local picked = setmetatable({ sale = self, by_id = {}, list = {} }, Picked)
  if pick then
    pick(picked)
  end
  for _, id in ipairs(first) do
    picked:id(id)
  end
  for _, hold in ipairs(picked.list) do
    self:end_hold(hold, EXPIRED)
  end
end

-------------------------------------------------------------------------------------------------------------
-- 8  The rules of buying. The order of the checks is part of the contract.
-------------------------------------------------------------------------------------------------------------

local function qty_of(items, sku)
  for _, item in ipairs(items) do
    if item.sku == sku then
      return item.qty
    end
  end
end

-- The same items in the same order.
same_list = function(one, other)
  for at = 1, math.max(#one, #other) do
    if not one[at] or not other[at] or one[at].sku ~= other[at].sku or one[at].qty ~= other[at].qty then
      return false
    end
  end
  return true
end

-- The same items in any order; a SKU stands in each list once.
local function same_items(stored, given)
  for _, item in ipairs(given) do
    if qty_of(stored, item.sku) ~= item.qty then
      return false
    end
  end
  return #stored == #given
end

-- The part of `from` that a command names; all if it names nothing. Nothing if it names more.
local function part_of(from, given)
  local part = {}
  if not given then
    for _, item in ipairs(from) do
      part[#part + 1] = item.qty > 0 and item or nil
    end
    return part
  end
  for at, item in ipairs(given) do
    local most = qty_of(from, item.sku)
    if not most or item.qty > most then
      return nil
    end
    part[at] = { sku = item.sku, qty = item.qty }
  end
  return part
end

-- Items of an order that were left after its first `count` refunds.
local function left_after(hold, count)
  local left, by_sku = {}, {}
  for at, item in ipairs(hold.items) do
    left[at] = { sku = item.sku, qty = item.qty }
    by_sku[item.sku] = left[at]
  end
  for at = 1, count do
    for _, item in ipairs(hold.returns[at].items) do
      by_sku[item.sku].qty = by_sku[item.sku].qty - item.qty
    end
  end
  return left
end

-- Items of an order that have not been returned.
kept_items = function(hold)
  return left_after(hold, hold.returns and #hold.returns or 0)
end

-- How a hold that is not live has ended.
local function end_of(hold)
  if IS_ORDER[hold.state] then
    return { 'CONFIRMED', hold.id, hold.order_no }
  elseif hold.state == EXPIRED then
    return { 'EXPIRED' }
  end
  return { 'RELEASED' }
end

local function mismatch(field)
  return { 'MISMATCH', field }
end

-- The answer to a request whose id is known and not live.
local function again(hold, buyer, items)
  if hold.state == TOMBSTONE then
    return { 'RELEASED' }
  elseif hold.buyer ~= buyer then
    return mismatch('buyer')
  elseif not same_items(hold.requested or hold.confirmed_from or hold.items, items) then
    return mismatch('items')
  elseif hold.state ~= HELD then
    return end_of(hold)
  end
end

local function reserved(word, hold, up_to)
  local reply = { word, hold.id, hold.time_ms }
  for _, item in ipairs(up_to and hold.items or {}) do
    reply[#reply + 1] = item.sku
    reply[#reply + 1] = item.qty
  end
  return reply
end

function Sale:is_closed()
  return self.closed or self.closes_at ~= 0 and self.now_ms >= self.closes_at
end

function Sale:refuse_place_and_time(buyer)
  local home = home_shard(buyer, self.shards)
  if home ~= self.shard then
    return { 'WRONGSHARD', sibling_key(self.key, home, self.shards) }
  elseif self.now_ms < self.opens_at then
    return { 'NOTOPEN', self.opens_at }
  elseif self.paused then
    return { 'PAUSED' }
  elseif self:is_closed() then
    return { 'CLOSED' }
  end
end

-- The order stream's length when the step began; an error if something else is in its place.
function Sale:stream_length()
  local length = redis.pcall('XLEN', self.keys.orders)
  if type(length) == 'table' then
    fault('%s', length.err:find('^WRONGTYPE') and STREAM_WRONGTYPE or length.err)
  end
  return length + self.entries_before
end

-- The stream is only asked when it may be full: it has no more entries than this sale has numbered.
function Sale:refuse_backlog()
  local may_be_full = self.stream_start + self.entry_no >= self.backlog
  return may_be_full and self:stream_length() >= self.backlog and { 'BACKLOG' } or nil
end

-- What a buyer has, as if everything due were expired.
function Sale:usage(buyer, items)
  self:load_buyer(buyer, items)
  local total = self:buyer_sums(buyer)
  local usage = { held = total.held, sold = total.sold, holds = total.holds, of_sku = {} }
  for _, item in ipairs(items) do
    local sums = self:buyer_sums(buyer, item.sku)
    usage.of_sku[item.sku] = sums.held + sums.sold
  end
  if total.holds > 0 then
    for id in self:due_members(self.keys.due_buyers, buyer) do
      self:leave_out(usage, self:hold(id))
    end
  end
  return usage
end

-- Leaves a live hold out of what a buyer has.
function Sale:leave_out(usage, hold)
  for _, item in ipairs(hold.items) do
    usage.held = usage.held - item.qty
    usage.of_sku[item.sku] = (usage.of_sku[item.sku] or 0) - item.qty
  end
  usage.holds = usage.holds - 1
end

-- Units that a buyer may still have: of the sale, and of each SKU wanted.
function Sale:limits(request)
  local limited = self.limit > 0
  local left = { of_sale = INFINITE, of_sku = {} }
  for _, item in ipairs(request.items) do
    left.of_sku[item.sku] = INFINITE
    limited = limited or self:sku(item.sku).limit > 0
  end
  if not limited then
    return left
  end
  local usage = self:usage(request.buyer, request.items)
  if request.replaced then
    self:leave_out(usage, request.replaced)
  end
  if self.limit > 0 then
    left.of_sale = math.max(0, self.limit - usage.held - usage.sold)
  end
  for _, item in ipairs(request.items) do
    local limit = self:sku(item.sku).limit
    if limit > 0 then
      left.of_sku[item.sku] = math.max(0, limit - usage.of_sku[item.sku])
    end
  end
  return left
end

local function replaced_units(request, name)
  return request.replaced and qty_of(request.replaced.items, name) or 0
end

-- Units that the request may take: what is available, and what it replaces.
function Sale:within_reach(request, name)
  return self:sku(name).available + replaced_units(request, name)
end

function Sale:shortage(request, name)
  if self:sku(name).held - replaced_units(request, name) > 0 then
    local next_ms = self:next_deadline_of(name)
    if next_ms then
      return { 'ALLHELD', name, next_ms }
    end
  end
  -- This library hears nothing of other shards: they may have units.
  return { self.shards > 1 and 'EMPTY' or 'SOLDOUT', name }
end

-- All or none.
function Sale:take_all(request, left)
  if units_of(request.items) > left.of_sale then
    return nil, { 'LIMIT', '', left.of_sale }
  end
  for _, item in ipairs(request.items) do
    if item.qty > left.of_sku[item.sku] then
      return nil, { 'LIMIT', item.sku, left.of_sku[item.sku] }
    end
  end
  for _, item in ipairs(request.items) do
    if item.qty > self:within_reach(request, item.sku) then
      return nil, self:shortage(request, item.sku)
    end
  end
  return request.items
end

-- As many as stock and limits allow; nothing at all is a refusal.
function Sale:take_some(request, left)
  if left.of_sale == 0 then
    return nil, { 'LIMIT', '', 0 }
  end
  local left_of_sale, taken = left.of_sale, {}
  for _, item in ipairs(request.items) do
    local most = math.min(self:within_reach(request, item.sku), left.of_sku[item.sku], left_of_sale)
    local qty = math.min(item.qty, most)
    left_of_sale = left_of_sale - qty
    if qty > 0 then
      taken[#taken + 1] = { sku = item.sku, qty = qty }
    end
  end
  if #taken > 0 then
    return taken
  end
  for _, item in ipairs(request.items) do
    if left.of_sku[item.sku] == 0 then
      return nil, { 'LIMIT', item.sku, 0 }
    end
  end
  return nil, self:shortage(request, request.items[1].sku)
end

-- What is taken; or nothing and NOSKU, LIMIT, SOLDOUT, ALLHELD or EMPTY.
function Sale:take(request)
  for _, item in ipairs(request.items) do
    if not self:sku(item.sku) then
      return nil, { 'NOSKU', item.sku }
    end
  end
  local left = self:limits(request)
  if request.up_to then
    return self:take_some(request, left)
  end
  return self:take_all(request, left)
end

-- The buyer's own live hold that REPLACE names, or a refusal.
function Sale:replaced(request)
  local older = request.replace and self:known(request.replace)
  if not older or older.state == TOMBSTONE then
    return nil
  elseif older.buyer ~= request.buyer then
    return nil, mismatch('buyer')
  elseif older.state == HELD then
    return older
  elseif IS_ORDER[older.state] then
    return nil, end_of(older)
  end
end

-- Made-up ids are INC-SEQ. INC is 8 hex digits drawn once by each server process; SEQ is the time in
-- microseconds, raised where two ids fall into one. A promoted replica is another process: its INC differs. A
-- process that comes back as primary has its old INC, but a later time than that of any id it has given out.
local incarnation
local latest_sequence = 0

local function time_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- An id that the sale does not know, whatever ids its clients have chosen themselves.
local function made_up_id(sale)
  if not incarnation then
    -- The run id is random and new with each process. A user who may not read it still has the time.
    local server = redis.pcall('INFO', 'server')
    local run_id = type(server) == 'string' and server:match('run_id:(%w+)') or sale.key
    incarnation = redis.sha1hex(run_id .. ' ' .. int(time_us())):sub(1, 8)
  end
  repeat
    latest_sequence = math.max(latest_sequence + 1, time_us())
    local id = incarnation .. '-' .. int(latest_sequence)
    if not sale:hold(id) then
      return id
    end
  until false
end

function Sale:life(ttl_ms)
  if ttl_ms and ttl_ms > self.maxhold_ms then
    misuse('TTL %s is out of range: a hold may live 1..%s ms in this sale (MAXHOLD)', int(ttl_ms),
      int(self.maxhold_ms))
  end
  return ttl_ms or self.hold_ms
end

-- What buyers asked for in vain in one shard of several, by key and SKU: units, and those of the latest request. Whoever
-- moves stock between shards looks at it. It lives in this process alone, as the module's: a refusal writes nothing.
-- Beyond so many keys it begins anew.
local Missed = { of_key = {}, keys = 0, MOST_KEYS = 4096 }

function Missed.note(sale, items, refusal)
  if sale.shards == 1 or refusal[1] ~= 'EMPTY' and refusal[1] ~= 'ALLHELD' then
    return
  end
  if not Missed.of_key[sale.key] then
    if Missed.keys >= Missed.MOST_KEYS then
      Missed.of_key, Missed.keys = {}, 0
    end
    Missed.of_key[sale.key], Missed.keys = {}, Missed.keys + 1
  end
  local of_sku, name = Missed.of_key[sale.key], refusal[2]
  local qty, before = qty_of(items, name), of_sku[name]
  of_sku[name] = { units = (before and before.units or 0) + qty, last = qty }
end

function Missed.of(sale, name)
  local of_sku = Missed.of_key[sale.key]
  return of_sku and of_sku[name] or { units = 0, last = 0 }
end

-- A new sale has missed nobody.
function Missed.forget(key)
  if Missed.of_key[key] then
    Missed.of_key[key], Missed.keys = nil, Missed.keys - 1
  end
end

-- RESERVE, after what is due has been treated.
function Sale:decide_reserve(request)
  if request.replace and request.replace == request.id then
    misuse("REPLACE names the hold that is to be made: give the older hold's id")
  end
  local id = request.id or made_up_id(self)
  local known = self:known(id)
  if known then
    local word = request.tell_repeated and 'REPEATED' or 'RESERVED'
    return again(known, request.buyer, request.items) or reserved(word, known, request.up_to)
  end
  -- A retry finds its hold even if MAXHOLD has been lowered meanwhile: so this comes after.
  local life_ms = self:life(request.ttl_ms)
  local refusal
  request.replaced, refusal = self:replaced(request)
  refusal = refusal or self:refuse_place_and_time(request.buyer)
  if not refusal and request.not_after and self.now_ms > request.not_after then
    refusal = { 'TOOLATE' }
  end
  refusal = refusal or self:refuse_backlog()
  if refusal then
    return refusal
  end
  local taken
  taken, refusal = self:take(request)
  if refusal then
    Missed.note(self, request.items, refusal)
    return refusal
  end
  if request.replaced then
    self:end_hold(request.replaced, RELEASED, 'replaced')
  end
  local requested = not same_list(taken, request.items) and request.items
  local hold = self:apply_reserve(id, request.buyer, taken, requested, self.now_ms + life_ms, request.meta)
  return reserved('RESERVED', hold, request.up_to)
end

-------------------------------------------------------------------------------------------------------------
-- 9  The commands of a sale
-------------------------------------------------------------------------------------------------------------

-- Commands that need the order stream, by what it holds: an order without its entry would be a broken promise.
local WRITES_ORDERS = { flash_order = true, flash_confirm = true, flash_return = true }

-- Runs a step on a sale: treats what is due, decides, writes. Also a misuse leaves what it found due ended.
local function step(sale, command, pick, decide)
  sale.entries_before = #sale.entries
  if sale.events == 'ALL' or sale.events == 'ORDERS' and WRITES_ORDERS[command] then
    sale:stream_length()
  end
  sale:expire_for(pick)
  return decide(sale)
end

-- Answers on which somebody may act as on a write. Where the command itself changed nothing, an earlier one did.
local TELLS_OF_A_WRITE = {
  STOCKED = true, RESERVED = true, REPEATED = true, CONFIRMED = true, RELEASED = true, EXPIRED = true,
  EXTENDED = true, RETURNED = true, GRANTED = true, ACCEPTED = true,
}

-- WAIT looks at what its own connection has written last (Redis 7.2 on, Valkey). Whoever repeats a command on
-- another connection would be told at once that replicas have what only this server has: so a repeat writes, too,
-- what stands there already.
function Sale:vouch(reply)
  if not self.changed and not self.vouched and (reply.ok or TELLS_OF_A_WRITE[reply[1]]) then
    redis.call('HSET', self.key, 'sale', sale_to_store(self))
    self.vouched = true
  end
end

-- Opens a sale, runs a step, and writes.
local function change(key, command, skus, pick, decide)
  local sale = open(key, skus)
  local ok, reply = pcall(step, sale, command, pick, decide)
  if ok or type(reply) == 'table' and reply.fault then
    sale:flush()
  end
  if not ok then
    error(reply)
  end
  sale:vouch(reply)
  return reply
end

local OK = { ok = 'OK' }

-- What settings become by ALTER; an error if they contradict each other.
local function changed_settings(sale, given)
  local settings = {}
  for option, field in pairs(SETTING_FIELDS) do
    settings[field] = given[option] == nil and sale[field] or given[option]
  end
  if settings.hold_ms > settings.maxhold_ms then
    misuse('HOLD %s is longer than MAXHOLD %s: lower HOLD or raise MAXHOLD', int(settings.hold_ms),
      int(settings.maxhold_ms))
  elseif settings.closes_at ~= 0 and settings.closes_at <= settings.opens_at then
    misuse('CLOSES %s is not later than OPENS %s', int(settings.closes_at), int(settings.opens_at))
  end
  return settings
end

local function read_shard(words)
  local index = integer(words:value_of('SHARD'), 'SHARD i', 0, MAX_SHARDS)
  local count = integer(words:value_of('SHARD'), 'SHARD n', 1, MAX_SHARDS)
  if index >= count then
    misuse('SHARD %d %d: the shards of a sale of %d are 0..%d', index, count, count, count - 1)
  end
  return { index = index, count = count }
end

local CREATE = {
  LIMIT = SETTINGS.LIMIT, HOLD = SETTINGS.HOLD, MAXHOLD = SETTINGS.MAXHOLD, OPENS = SETTINGS.OPENS,
  CLOSES = SETTINGS.CLOSES, RETAIN = SETTINGS.RETAIN, BACKLOG = SETTINGS.BACKLOG, EVENTS = SETTINGS.EVENTS,
  SHARD = read_shard, ITEMS = items_option(0),
}

local SHARD_KEY = 'the key is not that of this shard: a sale of several shards has the keys that '
  .. 'FLASH.SHARDS name n gives'

local function create(key, words)
  local given = words:options(CREATE)
  if not has_base_in_its_slot(key) then
    misuse("the key has a '}' but no hash tag, so its order stream would lie in another cluster slot: leave "
      .. "the '}' out, or put a part of the name in braces")
  end
  local shard = given.SHARD
  if shard and sibling_key(key, shard.index, shard.count) ~= key then
    misuse('%s', SHARD_KEY)
  end
  local sale = new_sale(key)
  for field, value in pairs(changed_settings(sale, given)) do
    sale[field] = value
  end
  if shard then
    sale.shard, sale.shards = shard.index, shard.count
  end
  local there = redis.pcall('HEXISTS', key, 'sale')
  if there == 1 then
    fault('%s', EXISTS)
  elseif there ~= 0 or redis.call('EXISTS', key) == 1 then
    fault('%s', WRONGTYPE)
  end
  sale:go_on_behind_stream()
  -- A sale that was deleted, or evicted, leaves its other keys behind.
  for name in pairs(SUFFIXES) do
    if name ~= 'orders' then
      redis.call('UNLINK', sale.keys[name])
    end
  end
  Missed.forget(key)
  sale.now_ms = server_ms()
  sale.changed = true
  for _, item in ipairs(given.ITEMS or {}) do
    sale.sku_cache[item.sku] = false
    sale:apply_stock(item.sku, item.qty)
  end
  sale:flush()
  return OK
end

local function alter(key, words)
  local given = words:options(SETTINGS)
  return change(key, 'flash_alter', nil, nil, function(sale)
    for field, value in pairs(changed_settings(sale, given)) do
      if sale[field] ~= value then
        sale[field] = value
        sale:touch()
      end
    end
    return OK
  end)
end

-- The counters that a SKU has, as if all that is due were expired.
local function stocked(sale, sku)
  local due = sale:due_units(sku.name)
  return { 'STOCKED', sku.available + due, sku.held - due, sku.sold }
end

local STOCK = { ID = name_option('ID'), LIMIT = number_option('LIMIT', 0, MAX_QUANTITY) }

local function stock(key, words)
  local name = words:name('SKU')
  local delta = words:number('delta', -MAX_QUANTITY, MAX_QUANTITY)
  local given = words:options(STOCK)
  local pick = delta < 0 and function(picked) picked:units(name, -delta) end
  return change(key, 'flash_stock', { { sku = name } }, pick, function(sale)
    local sku = sale:sku(name)
    local before = given.ID and sale:field('alloc:' .. given.ID)
    if before then
      local alloc = cmsgpack.unpack(before)
      if alloc[1] ~= name then
        return mismatch('items')
      end
      return alloc[2] == delta and stocked(sale, sku) or mismatch('delta')
    end
    -- What was accepted from other shards leaves by GRANT alone: `stocked` is never negative.
    local available = sku and math.min(sku.available, sku.stocked) or 0
    local stocked_so_far = sku and sku.stocked or 0
    if -delta > available then
      return { 'BELOWHELD', available }
    elseif not sku and sale.skus >= MAX_SKUS then
      misuse('the sale has %d SKUs already, which is the most: spread them over several sales', MAX_SKUS)
    elseif stocked_so_far + delta > MAX_STOCKED then
      misuse('the SKU is stocked with %s units and may have at most %s', int(stocked_so_far), int(MAX_STOCKED))
    end
    sale:apply_stock(name, delta, given.ID, given.LIMIT)
    return stocked(sale, sale:sku(name))
  end)
end

local NO_ITEMS = "ITEMS needs at least one 'sku qty'"

local RESERVE = {
  TTL = number_option('TTL', 1, MAX_HOLD_MS),
  UPTO = flag_option,
  REPEATED = flag_option,
  REPLACE = name_option('REPLACE'),
  NOTAFTER = number_option('NOTAFTER', 0, MAX_TIME_MS),
  BLOCK = number_option('BLOCK', 0, MAX_HOLD_MS),
  META = META,
  ITEMS = items_option(1),
}

local function pick_for_request(request)
  return function(picked)
    picked:id(request.id)
    picked:id(request.replace)
    picked:request(request.buyer, request.items)
  end
end

local function reserve(key, words)
  local id, buyer = words:hold_id(), words:name('buyer')
  local given = words:options(RESERVE)
  if not given.ITEMS then
    misuse(NO_ITEMS)
  elseif given.BLOCK then
    misuse('BLOCK cannot be had from a function, which cannot wait: leave it out, and come back at the time that '
      .. 'ALLHELD tells')
  end
  local request = {
    id = id, buyer = buyer, items = given.ITEMS, ttl_ms = given.TTL, up_to = given.UPTO,
    tell_repeated = given.REPEATED, replace = given.REPLACE, not_after = given.NOTAFTER, meta = given.META,
  }
  return change(key, 'flash_reserve', request.items, pick_for_request(request), function(sale)
    return sale:decide_reserve(request)
  end)
end

-- Reads one MessagePack array of id, buyer, sku, qty and so on, as far as it is made of strings and integers. Redis'
-- own cmsgpack does not know `bin`, which is what most languages make of bytes.
local Packed = {}
Packed.__index = Packed

function Packed:expected(what)
  misuse('PACKED: %s is expected at byte %d: give one MessagePack array of id, buyer, sku, qty and so on', what, self.at)
end

-- An unsigned number of so many bytes.
function Packed:number(bytes, what)
  if self.at + bytes > #self.packed then
    self:expected(what)
  end
  local number = 0
  for at = self.at + 1, self.at + bytes do
    number = number * 256 + self.packed:byte(at)
  end
  self.at = self.at + bytes
  return number
end

function Packed:length()
  local first = self:number(1, 'an array')
  if first >= 0x90 and first <= 0x9f then
    return first - 0x90
  elseif first == 0xdc then
    return self:number(2, 'an array')
  elseif first == 0xdd then
    return self:number(4, 'an array')
  end
  self:expected('an array')
end

local BYTES_OF_LENGTH = { [0xd9] = 1, [0xda] = 2, [0xdb] = 4, [0xc4] = 1, [0xc5] = 2, [0xc6] = 4 }

function Packed:name(what)
  local first, length = self:number(1, 'a string')
  if first >= 0xa0 and first <= 0xbf then
    length = first - 0xa0
  elseif BYTES_OF_LENGTH[first] then
    length = self:number(BYTES_OF_LENGTH[first], 'the length of a string')
  else
    self:expected('a string')
  end
  if self.at + length > #self.packed then
    self:expected('all bytes of a string')
  end
  local name = self.packed:sub(self.at + 1, self.at + length)
  self.at = self.at + length
  return checked_name(name, what)
end

local BYTES_OF_UNSIGNED = { [0xcc] = 1, [0xcd] = 2, [0xce] = 4, [0xcf] = 8 }
local BYTES_OF_SIGNED = { [0xd0] = 1, [0xd1] = 2, [0xd2] = 4, [0xd3] = 8 }

function Packed:quantity()
  local what = 'an integer'
  local first, number = self:number(1, what)
  if first <= 0x7f then
    number = first
  elseif first >= 0xe0 then
    number = first - 0x100
  elseif BYTES_OF_UNSIGNED[first] then
    number = self:number(BYTES_OF_UNSIGNED[first], what)
  elseif BYTES_OF_SIGNED[first] then
    local bytes = BYTES_OF_SIGNED[first]
    number = self:number(bytes, what)
    number = number < 2 ^ (8 * bytes - 1) and number or number - 2 ^ (8 * bytes)
  else
    self:expected(what)
  end
  return integer(int(number), 'qty', 1, MAX_QUANTITY)
end

local function packed_holds(word)
  local packed = setmetatable({ packed = word, at = 0 }, Packed)
  local length = packed:length()
  if length == 0 then
    misuse("PACKED needs at least one 'id buyer sku qty'")
  elseif length % 4 ~= 0 then
    misuse("PACKED takes groups of 'id buyer sku qty' up to the end: %d words are no whole groups", length)
  end
  local holds = {}
  for at = 1, length / 4 do
    local id, buyer = packed:name('id'), packed:name('buyer')
    local items = { { sku = packed:name('SKU'), qty = packed:quantity() } }
    holds[at] = { id = id ~= '*' and id or nil, buyer = buyer, items = items }
  end
  if packed.at < #word then
    packed:expected('the end')
  end
  return holds
end

-- The words after HOLDS are read as groups; those of PACKED are one string.
local MRESERVE = {
  TTL = RESERVE.TTL,
  REPEATED = flag_option,
  NOTAFTER = RESERVE.NOTAFTER,
  HOLDS = function(words)
    local count = words:left()
    if count > 0 and count % 4 ~= 0 then
      misuse("HOLDS takes groups of 'id buyer sku qty' up to the end: %d words are no whole groups", count)
    end
    local holds = {}
    for at = 1, count / 4 do
      local group = words_of({ words:next(), words:next(), words:next(), words:next() }, words.command)
      holds[at] = { id = group:hold_id(), buyer = group:name('buyer'), items = group:items(1) }
    end
    return holds
  end,
  PACKED = function(words)
    local holds = packed_holds(words:value_of('PACKED'))
    if words:left() > 0 then
      misuse('unknown option %s', shown(words:next()))
    end
    return holds
  end,
}

local function mreserve(key, words)
  local given = words:options(MRESERVE)
  local requests = given.HOLDS or given.PACKED or {}
  if #requests == 0 then
    misuse("HOLDS needs at least one 'id buyer sku qty'")
  end
  local sale = open(key)
  local replies = {}
  for at, request in ipairs(requests) do
    request.ttl_ms, request.not_after, request.tell_repeated = given.TTL, given.NOTAFTER, given.REPEATED
    local ok, reply = pcall(step, sale, 'flash_mreserve', pick_for_request(request), function()
      return sale:decide_reserve(request)
    end)
    if not ok and not (type(reply) == 'table' and reply.fault) then
      error(reply)
    end
    if given.PACKED then
      replies[at] = ok and reply or { 'ERR', (reply.fault:gsub('^ERR ', '')) }
    else
      replies[at] = ok and reply or redis.error_reply(reply.fault)
    end
  end
  sale:flush()
  for _, reply in ipairs(replies) do
    sale:vouch(reply)
  end
  return given.PACKED and cmsgpack.pack(replies) or replies
end

local ORDER = { REF = REF, META = META, ITEMS = items_option(1) }

-- Whether a REF was given that is not the order's.
local function other_reference(hold, given)
  return given and hold.ref ~= given
end

local function order(key, words)
  local id, buyer = words:hold_id(), words:name('buyer')
  local given = words:options(ORDER)
  local items, ref = given.ITEMS, given.REF
  if not items then
    misuse(NO_ITEMS)
  end
  local request = { id = id, buyer = buyer, items = items }
  return change(key, 'flash_order', items, pick_for_request(request), function(sale)
    local hold_id = id or made_up_id(sale)
    local hold = sale:known(hold_id)
    if hold then
      local answer = again(hold, buyer, items)
      if answer then
        local differs = IS_ORDER[hold.state] and answer[1] == 'CONFIRMED' and other_reference(hold, ref)
        return differs and mismatch('ref') or answer
      end
    else
      local refusal = sale:refuse_place_and_time(buyer) or sale:refuse_backlog()
      local taken
      if not refusal then
        taken, refusal = sale:take(request)
      end
      if refusal then
        Missed.note(sale, items, refusal)
        return refusal
      end
      hold = sale:apply_reserve(hold_id, buyer, taken, nil, sale.now_ms + sale.hold_ms, given.META)
    end
    sale:apply_confirm(hold, ref)
    return end_of(hold)
  end)
end

local CONFIRM = { REF = REF, META = META, LATE = flag_option, ITEMS = items_option(1) }

local function confirm_live(sale, hold, given)
  local part = part_of(hold.items, given.ITEMS)
  if not part then
    return mismatch('items')
  end
  local all = not given.ITEMS or same_items(hold.items, given.ITEMS)
  hold.meta = given.META or hold.meta
  sale:apply_confirm(hold, given.REF, given.META, not all and part or nil)
  return end_of(hold)
end

local function confirm_again(hold, given)
  if other_reference(hold, given.REF) then
    return mismatch('ref')
  end
  local same = not hold.confirmed_from
  if given.ITEMS then
    same = same_items(hold.items, given.ITEMS)
  end
  return same and end_of(hold) or mismatch('items')
end

-- Takes the units of an expired hold again, decided like a new request but for opening times.
local function confirm_late(sale, hold, given)
  local items = part_of(hold.items, given.ITEMS)
  if not items then
    return mismatch('items')
  end
  -- Refusals name the first SKU in the order given now.
  local _, refusal = sale:take({ buyer = hold.buyer, items = items })
  if refusal then
    return refusal
  end
  if given.ITEMS and same_items(hold.items, given.ITEMS) then
    -- All of it in another order is not a part of it.
    items = hold.items
  end
  sale:apply_revive(hold, items)
  hold.meta = given.META or hold.meta
  sale:apply_confirm(hold, given.REF, given.META)
  return end_of(hold)
end

local function confirm(key, words)
  local id = words:name('id')
  local given = words:options(CONFIRM)
  local function pick(picked)
    picked:id(id)
    if given.LATE then
      picked:late(id)
    end
  end
  return change(key, 'flash_confirm', nil, pick, function(sale)
    local hold = sale:known(id)
    if not hold then
      return { 'NOTFOUND' }
    elseif hold.state == HELD then
      return confirm_live(sale, hold, given)
    elseif IS_ORDER[hold.state] then
      return confirm_again(hold, given)
    elseif hold.state == EXPIRED and given.LATE then
      return confirm_late(sale, hold, given)
    end
    return end_of(hold)
  end)
end

local function release(key, words)
  local id = words:name('id')
  local given = words:options({ REASON = text_option('REASON', MAX_REF_BYTES) })
  local function pick(picked) picked:id(id) end
  return change(key, 'flash_release', nil, pick, function(sale)
    local hold = sale:known(id)
    if not hold then
      sale:apply_tombstone(id)
      return { 'RELEASED' }
    elseif hold.state == HELD then
      sale:end_hold(hold, RELEASED, given.REASON)
    end
    return end_of(hold)
  end)
end

local function extend(key, words)
  local id = words:name('id')
  local ms = words:number('ms', 1, MAX_HOLD_MS)
  words:done()
  local function pick(picked) picked:id(id) end
  return change(key, 'flash_extend', nil, pick, function(sale)
    if ms > sale.maxhold_ms then
      misuse('ms %s is out of range: a hold may live 1..%s ms in this sale (MAXHOLD)', int(ms),
        int(sale.maxhold_ms))
    end
    local hold = sale:known(id)
    if not hold then
      return { 'NOTFOUND' }
    elseif hold.state ~= HELD then
      return end_of(hold)
    end
    -- A MAXHOLD that was lowered meanwhile never ends a hold earlier than was promised.
    local latest_ms = math.max(hold.time_ms - hold.life_ms + sale.maxhold_ms, hold.time_ms)
    local deadline_ms = math.min(sale.now_ms + ms, latest_ms)
    if deadline_ms ~= hold.time_ms then
      sale:apply_extend(hold, deadline_ms)
    end
    return { 'EXTENDED', id, deadline_ms }
  end)
end

-- Whether a return that was counted before had these items.
local function same_return(hold, at, given)
  local refund = hold.returns[at]
  if given then
    return same_items(refund.items, given)
  end
  -- "All that is left" was meant: is that what was left then?
  return units_of(left_after(hold, at - 1)) == units_of(refund.items)
end

local function return_items(key, words)
  local id, return_id = words:name('id'), words:name('return-id')
  local given = words:options({ ITEMS = items_option(1) }).ITEMS
  return change(key, 'flash_return', nil, nil, function(sale)
    local hold = sale:known(id)
    if not hold or not IS_ORDER[hold.state] then
      return { 'NOTFOUND' }
    end
    local refunds = hold.returns or {}
    for at, refund in ipairs(refunds) do
      if refund.id == return_id then
        return same_return(hold, at, given) and { 'RETURNED' } or mismatch('items')
      end
    end
    if #refunds >= MAX_RETURNS then
      misuse('the order has %d returns already, which is the most that are remembered', MAX_RETURNS)
    end
    local items = part_of(kept_items(hold), given)
    if not items or #items == 0 then
      return mismatch('items')
    end
    sale:apply_return(hold, return_id, items)
    return { 'RETURNED' }
  end)
end

local function expire(key, words)
  local given = words:options({ COUNT = number_option('COUNT', 1, MAX_QUANTITY) })
  local sale = open(key)
  local due = sale:first_due(math.min(given.COUNT or EXPIRE_COUNT, MAX_EXPIRE_COUNT))
  for _, id in ipairs(due) do
    sale:end_hold(sale:hold(id), EXPIRED)
  end
  sale:flush()
  return #due
end

local function switch(command, decide)
  return function(key, words)
    words:done()
    return change(key, command, nil, nil, function(sale)
      decide(sale)
      return OK
    end)
  end
end

local function set_paused(paused)
  return function(sale)
    if sale.closed then
      misuse('the sale was closed for good: create a new one to sell again')
    elseif sale.paused ~= paused then
      sale.paused = paused
      sale:touch()
    end
  end
end

local function set_closed(sale)
  if not sale.closed then
    sale.closed = true
    sale:touch()
  end
end

local function check_other_shard(sale, given)
  if given >= sale.shards or given == sale.shard then
    misuse("%d is not another shard of this sale, which has %d: give 0..%d but not the key's own", given,
      sale.shards, math.max(0, sale.shards - 1))
  end
end

local GRANT = { TO = number_option('TO', 0, MAX_QUANTITY), AFTER = number_option('AFTER', 0, MAX_STOCKED) }

local function grant(key, words)
  local name = words:name('SKU')
  local qty = words:number('qty', 1, MAX_QUANTITY)
  local given = words:options(GRANT)
  local to = given.TO or words:arity()
  local function pick(picked) picked:units(name, qty) end
  return change(key, 'flash_grant', { { sku = name } }, pick, function(sale)
    check_other_shard(sale, to)
    local sku = sale:sku(name)
    if not sku then
      return { 'NOSKU', name }
    end
    local total = tonumber(sale:field(transfer_field('granted', to, name)) or 0)
    local granted = math.min(sku.available, qty)
    if given.AFTER and given.AFTER ~= total then
      granted = 0
    end
    if granted > 0 then
      sale:apply_grant(sku, granted, to, total + granted)
    end
    return { 'GRANTED', total + granted, sku.available + sale:due_units(name) }
  end)
end

local ACCEPT = { FROM = number_option('FROM', 0, MAX_QUANTITY), TOTAL = number_option('TOTAL', 0, MAX_STOCKED) }

local function accept(key, words)
  local name = words:name('SKU')
  local given = words:options(ACCEPT)
  local from = given.FROM or words:arity()
  local total = given.TOTAL or words:arity()
  return change(key, 'flash_accept', { { sku = name } }, nil, function(sale)
    check_other_shard(sale, from)
    local sku = sale:sku(name)
    if not sku and sale.skus >= MAX_SKUS then
      misuse('the sale has %d SKUs already, which is the most: spread them over several sales', MAX_SKUS)
    end
    local before = tonumber(sale:field(transfer_field('accepted', from, name)) or 0)
    local accepted = sku and sku.accepted or 0
    local taken = math.max(0, total - before)
    if taken > math.max(0, MAX_STOCKED - accepted) then
      misuse('the SKU is stocked with %s units and may have at most %s', int(accepted), int(MAX_STOCKED))
    end
    if taken > 0 then
      -- A SKU that is new to this shard is made: units on their way must never be lost.
      if not sku then
        sale:apply_stock(name, 0)
        sku = sale:sku(name)
      end
      sale:apply_accept(sku, taken, from, total)
    end
    return { 'ACCEPTED', taken, sku and sku.available + sale:due_units(name) or 0 }
  end)
end

-------------------------------------------------------------------------------------------------------------
-- 10  Moving a sale to the module. `flashsale sale migrate` does it; docs/managed-redis.md says how.
--
-- BEGIN stops every change of the sale, BACK lets it go on here, FINISH gives leave to land. After FINISH only a caller
-- who has first taken that leave back at the target may send BACK: the library cannot know what has landed. LAND puts the module's value,
-- which the caller has made of these keys, in their place. Each run has a token of its own, and a later one takes
-- over: so of two that work at the same time one fails before it can do harm.
-------------------------------------------------------------------------------------------------------------

function Move.write(sale, layout, mover, moved_to)
  sale.layout, sale.mover, sale.moved_to = layout, mover, moved_to
  redis.call('HSET', sale.key, 'sale', sale_to_store(sale))
end

function Move.steps.BEGIN(sale, token, words)
  local moved_to = words:required()
  words:done()
  Move.write(sale, sale.layout == Move.MOVED and Move.MOVED or Move.MOVING, token, moved_to)
  return { sale.layout:upper() }
end

function Move.check(sale, token)
  if sale.mover ~= token then
    misuse('this run does not move the sale (any more): another one has taken over, or it was taken back')
  end
end

function Move.steps.BACK(sale, token, words)
  words:done()
  Move.check(sale, token)
  Move.write(sale, LAYOUT, nil, nil)
  return { 'BACK' }
end

function Move.steps.FINISH(sale, token, words)
  words:done()
  Move.check(sale, token)
  Move.write(sale, Move.MOVED, token, sale.moved_to)
  return { 'MOVED' }
end

-- On the same server: the module's value takes the place of this library's, in one step. The order stream stays.
function Move.steps.LAND(sale, token, words)
  local payload = words:required()
  words:done()
  Move.check(sale, token)
  redis.call('RESTORE', sale.key, '0', payload, 'REPLACE')
  for name in pairs(SUFFIXES) do
    if name ~= 'orders' then
      redis.call('UNLINK', sale.keys[name])
    end
  end
  return { 'LANDED' }
end

function Move.call(key, words)
  local step = words:required()
  local run = Move.steps[step:upper()] or misuse('%s is none of BEGIN, BACK, FINISH, LAND', shown(step))
  return run(open_to_look(key), words:name('token'), words)
end

-------------------------------------------------------------------------------------------------------------
-- 11  Looking at a sale. What is due at the time of looking is shown as expired, whether or not a sweep ran.
-------------------------------------------------------------------------------------------------------------

local function state_of(sale)
  if sale:is_closed() then
    return 'closed'
  elseif sale.now_ms < sale.opens_at then
    return 'pending'
  end
  return (sale.paused or sale.mover) and 'paused' or 'open'
end

-- How many buyers have anything: without those whose last holds are due, if they are not too many.
local function buyers_with_anything(sale)
  local seen, nothing_left = {}, 0
  for _, id in ipairs(sale:first_due(DUE_LOOKED_AT)) do
    local buyer = sale:hold(id).buyer
    if not seen[buyer] then
      seen[buyer] = true
      local usage = sale:usage(buyer, {})
      nothing_left = nothing_left + (usage.held + usage.sold == 0 and 1 or 0)
    end
  end
  return sale.buyers - nothing_left
end

local function sku_names(sale)
  return redis.call('LRANGE', sale.keys.skus, 0, -1)
end

-- Calls `each` with direction, other shard, SKU and total of every transfer.
local function each_transfer(sale, each)
  local fields = redis.call('HGETALL', sale.key)
  for at = 1, #fields, 2 do
    local direction, shard, sku = fields[at]:match('^(%a+):(%d+):(.*)$')
    if direction == 'granted' or direction == 'accepted' then
      each(direction, shard, sku, tonumber(fields[at + 1]))
    end
  end
end

-- Totals of transfers by direction, SKU and other shard.
local function transfer_maps(sale)
  local maps = { granted = {}, accepted = {} }
  if sale.shards > 1 then
    each_transfer(sale, function(direction, shard, sku, total)
      local of_sku = maps[direction][sku] or {}
      of_sku[shard] = total > 0 and total or nil
      maps[direction][sku] = of_sku
    end)
  end
  return maps
end

local function sku_map(sale)
  local map, transfers = {}, transfer_maps(sale)
  for _, name in ipairs(sku_names(sale)) do
    local sku, due = sale:sku(name), sale:due_units(name)
    local in_vain = Missed.of(sale, name)
    map[name] = { map = {
      stocked = sku.stocked, available = sku.available + due, held = sku.held - due, sold = sku.sold,
      granted = sku.granted, accepted = sku.accepted, limit = sku.limit, version = sku.version,
      missed = in_vain.units, missed_last = in_vain.last,
      granted_to = { map = transfers.granted[name] or {} }, accepted_from = { map = transfers.accepted[name] or {} },
    } }
  end
  return { map = map }
end

local function info(key, words)
  words:done()
  local sale = open_to_look(key)
  local first = redis.call('ZRANGE', sale.keys.due, 0, 0, 'WITHSCORES')
  local earliest = tonumber(first[2])
  local due = redis.call('ZCOUNT', sale.keys.due, '-inf', int(sale.now_ms))
  return { map = {
    state = state_of(sale), events = sale.events, limit = sale.limit, hold_ms = sale.hold_ms,
    maxhold_ms = sale.maxhold_ms, opens_at = sale.opens_at, closes_at = sale.closes_at,
    retain_ms = sale.retain_ms, backlog = sale.backlog, shard = sale.shard, shards = sale.shards,
    holds = sale.live_holds - due, orders = sale.orders, buyers = buyers_with_anything(sale),
    remembered = sale.ended + sale.tombstones, next_deadline = earliest or 0,
    expiry_lag_ms = earliest and math.max(0, sale.now_ms - earliest) or 0, entries = sale.entry_no,
    -- A library cannot count what it only reads.
    commands = 0,
    -- Where the sale is going, or has gone; there only then.
    moved_to = sale.moved_to,
    skus = sku_map(sale),
  } }
end

local SHOWN_STATE = { [RETURNED] = 'confirmed', [TOMBSTONE] = 'released' }

local function shown_state(sale, hold)
  return sale:is_due(hold) and EXPIRED or SHOWN_STATE[hold.state] or hold.state
end

local function hold_map(sale, hold)
  local is_order = IS_ORDER[hold.state]
  local ended_early = hold.state == RELEASED or hold.state == RETURNED or hold.state == TOMBSTONE
  local items = {}
  for _, item in ipairs(is_order and kept_items(hold) or hold.items) do
    items[item.sku] = item.qty
  end
  return { map = {
    id = hold.id, buyer = hold.buyer, state = shown_state(sale, hold), items = { map = items },
    began = ended_early and 0 or hold.time_ms - hold.life_ms, deadline = hold.time_ms,
    order_no = is_order and hold.order_no or 0, ref = hold.ref, meta = hold.meta,
  } }
end

local function hold(key, words)
  local id = words:name('id')
  words:done()
  local sale = open_to_look(key)
  local known = sale:known(id)
  return known and hold_map(sale, known) or false
end

local function buyer(key, words)
  local name = words:name('buyer')
  words:done()
  local usage = open_to_look(key):usage(name, {})
  return { map = { held = usage.held, sold = usage.sold, holds = usage.holds } }
end

local HOLDS = {
  STATE = choice_option('STATE', { 'held', 'confirmed', 'released', 'expired' }, 'held, confirmed, released, expired'),
  COUNT = number_option('COUNT', 1, MAX_QUANTITY),
}

-- The cursor is the number of the next hold: COUNT numbers are looked at, some of them free.
local function holds(key, words)
  local cursor = words:number('cursor', 0, MAX_CURSOR)
  local given = words:options(HOLDS)
  local sale = open_to_look(key)
  local first = math.min(cursor, sale.slots)
  local last = math.min(sale.slots, first + (given.COUNT or 100))
  local found = {}
  for from = first, last - 1, PART do
    local numbers = {}
    for slot = from, math.min(from + PART, last) - 1 do
      numbers[#numbers + 1] = int(slot)
    end
    for _, id in ipairs(redis.call('HMGET', sale.keys.slots, unpack(numbers))) do
      local known = id and sale:known(id)
      if known and (not given.STATE or shown_state(sale, known) == given.STATE) then
        found[#found + 1] = hold_map(sale, known)
      end
    end
  end
  return { last == sale.slots and '0' or int(last), found }
end

-- Recounts everything from the holds.
local function sums_of_holds(sale)
  local sums = { live = 0, ended = 0, tombstones = 0, all = 0, highest_order_no = 0, skus = {}, buyers = {} }
  local function add(hold, items, what)
    local of_buyer = sums.buyers[hold.buyer] or { held = 0, sold = 0 }
    sums.buyers[hold.buyer] = of_buyer
    for _, item in ipairs(items) do
      local of_sku = sums.skus[item.sku] or { held = 0, sold = 0 }
      sums.skus[item.sku] = of_sku
      of_sku[what] = of_sku[what] + item.qty
      of_buyer[what] = of_buyer[what] + item.qty
    end
  end
  local cursor, seen = '0', {}
  repeat
    local page = redis.call('HSCAN', sale.keys.holds, cursor, 'COUNT', PART)
    cursor = page[1]
    for at = 1, #page[2], 2 do
      local id = page[2][at]
      if not seen[id] then
        seen[id] = true
        local hold = hold_from_store(id, page[2][at + 1])
        sums.all = sums.all + 1
        if hold.state == HELD then
          sums.live = sums.live + 1
          add(hold, hold.items, 'held')
        elseif hold.state == CONFIRMED then
          sums.highest_order_no = math.max(sums.highest_order_no, hold.order_no)
          add(hold, kept_items(hold), 'sold')
        elseif hold.state == TOMBSTONE then
          sums.tombstones = sums.tombstones + 1
        else
          sums.ended = sums.ended + 1
        end
      end
    end
  until cursor == '0'
  return sums
end

-- Totals of transfers by direction and SKU.
local function transfer_sums(sale)
  local sums = { granted = {}, accepted = {} }
  each_transfer(sale, function(direction, _, sku, total)
    sums[direction][sku] = (sums[direction][sku] or 0) + total
  end)
  return sums
end

local function audit_skus(sale, sums, differences)
  local transfers = transfer_sums(sale)
  for _, name in ipairs(sku_names(sale)) do
    local sku, counted = sale:sku(name), sums.skus[name] or { held = 0, sold = 0 }
    local function differ(text, ...)
      differences[#differences + 1] = escaped(name) .. ': ' .. string.format(text, ...)
    end
    if counted.held ~= sku.held or counted.sold ~= sku.sold then
      differ('kept %s held and %s sold, counted %s and %s', int(sku.held), int(sku.sold), int(counted.held),
        int(counted.sold))
    end
    if sku.stocked + sku.accepted ~= sku.granted + sku.available + sku.held + sku.sold then
      differ('stocked %s + accepted %s - granted %s is not available %s + held %s + sold %s', int(sku.stocked),
        int(sku.accepted), int(sku.granted), int(sku.available), int(sku.held), int(sku.sold))
    end
    local granted, accepted = transfers.granted[name] or 0, transfers.accepted[name] or 0
    if granted ~= sku.granted or accepted ~= sku.accepted then
      differ('kept granted %s and accepted %s, counted %s and %s', int(sku.granted), int(sku.accepted),
        int(granted), int(accepted))
    end
  end
end

local function audit_buyers(sale, sums, differences)
  local count = 0
  for name, counted in pairs(sums.buyers) do
    count = count + (counted.held + counted.sold > 0 and 1 or 0)
    local kept = sale:buyer_sums(name)
    if kept.held ~= counted.held or kept.sold ~= counted.sold then
      differences[#differences + 1] = string.format('buyer %s: kept %s held and %s sold, counted %s and %s',
        escaped(name), int(kept.held), int(kept.sold), int(counted.held), int(counted.sold))
    end
  end
  return count
end

local function audit(key, words)
  words:done()
  local sale = open_to_look(key)
  local sums = sums_of_holds(sale)
  local differences = {}
  audit_skus(sale, sums, differences)
  local buyers = audit_buyers(sale, sums, differences)
  local function compare(what, kept, counted)
    if kept ~= counted then
      differences[#differences + 1] = string.format('%s: kept %s, counted %s', what, int(kept), int(counted))
    end
  end
  compare('live holds', sale.live_holds, sums.live)
  compare('holds with a deadline', redis.call('ZCARD', sale.keys.due), sums.live)
  compare('holds with a deadline, by buyer', redis.call('ZCARD', sale.keys.due_buyers), sums.live)
  compare('ended ids', redis.call('ZCARD', sale.keys.ended), sums.ended)
  compare('ended ids', sale.ended, sums.ended)
  compare('tombstones', redis.call('ZCARD', sale.keys.tombstones), sums.tombstones)
  compare('tombstones', sale.tombstones, sums.tombstones)
  compare('remembered ids', sale.slots - sale.free, sums.all)
  compare('numbered ids', redis.call('HLEN', sale.keys.slots), sums.all)
  compare('buyers', sale.buyers, buyers)
  if sums.highest_order_no > sale.entry_no then
    differences[#differences + 1] = string.format('order %s stands above the latest entry %s',
      int(sums.highest_order_no), int(sale.entry_no))
  end
  return { map = { ok = #differences == 0 and 1 or 0, differences = differences } }
end

-- The name of a sharded sale has no braces: those of the shard must be the first.
local function sale_name(name)
  if name:find('[{}]') then
    misuse('%s', SHARD_KEY)
  end
  return name
end

local function shards(name, words)
  local count = words:number('n', 1, MAX_SHARDS)
  words:done()
  sale_name(name)
  local keys = {}
  for index = 0, count - 1 do
    keys[index + 1] = shard_key(name, index, count)
  end
  return keys
end

local function route(name, words)
  local count = words:number('n', 1, MAX_SHARDS)
  local of_buyer = words:name('buyer')
  words:done()
  return shard_key(sale_name(name), home_shard(of_buyer, count), count)
end

-------------------------------------------------------------------------------------------------------------
-- 12  The rate limit: the generic cell rate algorithm (ITU-T I.371), with the outcomes of CL.THROTTLE.
--
-- The whole state of a limit is one instant: when the bucket would be full again if nobody asked any more. It
-- is kept in ticks, 2^-32 of a nanosecond, in a string of 32 hex digits that goes away by its own TTL when the
-- bucket is full. Ticks need more than 53 bits: they are lists of 8 digits to the base 2^16, the lowest first.
-------------------------------------------------------------------------------------------------------------

local DIGIT = 65536
local DIGITS = 8

local Ticks = { MAX_UNITS = 2 ^ 32, MAX_PERIOD_S = 2 ^ 31, NS_PER_MS = 1000000 }

-- `number` times 2^32.
function Ticks.shifted(number)
  local ticks = { 0, 0 }
  for at = 3, DIGITS do
    ticks[at] = number % DIGIT
    number = math.floor(number / DIGIT)
  end
  return ticks
end

-- ticks * factor + 0, with a factor of at most 2^33.
function Ticks.times(ticks, factor)
  local product, carry = {}, 0
  for at = 1, DIGITS do
    local digit = ticks[at] * factor + carry
    product[at] = digit % DIGIT
    carry = math.floor(digit / DIGIT)
  end
  return product
end

function Ticks.sum(one, other)
  local sum, carry = {}, 0
  for at = 1, DIGITS do
    local digit = one[at] + other[at] + carry
    sum[at] = digit % DIGIT
    carry = math.floor(digit / DIGIT)
  end
  return sum
end

-- one - other, which is not greater.
function Ticks.difference(one, other)
  local difference, borrow = {}, 0
  for at = 1, DIGITS do
    local digit = one[at] - other[at] - borrow
    difference[at] = digit % DIGIT
    borrow = digit < 0 and 1 or 0
  end
  return difference
end

-- Quotient and rest by a divisor of at most 2^33.
function Ticks.divided(ticks, divisor)
  local quotient, rest = {}, 0
  for at = DIGITS, 1, -1 do
    local value = rest * DIGIT + ticks[at]
    quotient[at] = math.floor(value / divisor)
    rest = value % divisor
  end
  return quotient, rest
end

function Ticks.less(one, other)
  for at = DIGITS, 1, -1 do
    if one[at] ~= other[at] then
      return one[at] < other[at]
    end
  end
  return false
end

function Ticks.later(one, other)
  return Ticks.less(one, other) and other or one
end

-- How often `part` goes into `whole`: at most `most` times.
function Ticks.contains(whole, part, most)
  local low, high = 0, most
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if Ticks.less(whole, Ticks.times(part, middle)) then
      high = middle - 1
    else
      low = middle
    end
  end
  return low
end

-- One tick: what `ceiling` rounds up by.
Ticks.ONE = { 1, 0, 0, 0, 0, 0, 0, 0 }

function Ticks.of_ms(ms)
  return Ticks.times(Ticks.shifted(ms), Ticks.NS_PER_MS)
end

-- ticks / divisor, rounded up.
function Ticks.ceiling(ticks, divisor)
  local quotient, rest = Ticks.divided(ticks, divisor)
  return rest > 0 and Ticks.sum(quotient, Ticks.ONE) or quotient
end

-- A number that is small enough for Lua.
function Ticks.number(ticks)
  local number = 0
  for at = DIGITS, 1, -1 do
    number = number * DIGIT + ticks[at]
  end
  return number
end

-- Whole milliseconds, rounded down, or up with `round_up`.
function Ticks.to_ms(ticks, round_up)
  local divide = round_up and Ticks.ceiling or Ticks.divided
  -- By 2^32 in two steps, each within what `divided` can do; then by the nanoseconds of a millisecond.
  local of_ms = Ticks.divided(Ticks.divided(ticks, DIGIT), DIGIT)
  if round_up then
    of_ms = Ticks.ceiling(Ticks.ceiling(ticks, DIGIT), DIGIT)
  end
  return Ticks.number((divide(of_ms, Ticks.NS_PER_MS)))
end

-- Whole seconds, the next one if whole milliseconds are left over: what is below is rounding, not waiting.
function Ticks.to_s(ticks)
  return math.ceil(Ticks.to_ms(ticks) / 1000)
end

function Ticks.to_store(ticks)
  local digits = {}
  for at = DIGITS, 1, -1 do
    digits[#digits + 1] = string.format('%04x', ticks[at])
  end
  return table.concat(digits)
end

function Ticks.from_store(stored)
  local ticks = {}
  for digit in stored:gmatch('%x%x%x%x') do
    table.insert(ticks, 1, tonumber(digit, 16))
  end
  return ticks
end

local function stored_arrival(key)
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' then
    fault('%s', stored.err:find('^WRONGTYPE') and WRONGTYPE or stored.err)
  elseif stored and not (#stored == 4 * DIGITS and stored:find('^%x+$')) then
    fault('%s', WRONGTYPE)
  end
  return stored and Ticks.from_store(stored)
end

local function throttle(key, words)
  local burst = words:number('burst', 0, Ticks.MAX_UNITS - 1)
  local count = words:number('count', 1, Ticks.MAX_UNITS)
  local period_s = words:number('period', 1, Ticks.MAX_PERIOD_S)
  local quantity = words:left() > 0 and words:number('quantity', 0, Ticks.MAX_UNITS) or 1
  local interval = Ticks.ceiling(Ticks.of_ms(period_s * 1000), count)
  local bucket = Ticks.times(interval, burst + 1)
  if Ticks.less(Ticks.of_ms(MAX_TIME_MS), bucket) then
    misuse('the burst would take thousands of years to come back at that rate: lower burst or period, or raise count')
  end
  local now = Ticks.of_ms(server_ms())
  local before = Ticks.later(stored_arrival(key) or now, now)
  local increment = Ticks.times(interval, quantity)
  local after = Ticks.sum(before, increment)
  local latest = Ticks.sum(now, bucket)
  local limited = Ticks.less(latest, after)
  local until_full = Ticks.difference(limited and before or after, now)
  local room = Ticks.difference(Ticks.later(bucket, until_full), until_full)
  if not limited and quantity > 0 then
    redis.call('SET', key, Ticks.to_store(after), 'PXAT', int(Ticks.to_ms(after, true)))
  end
  local comes_back = limited and not Ticks.less(bucket, increment)
  return {
    limited and 1 or 0,
    burst + 1,
    Ticks.contains(room, interval, burst + 1),
    comes_back and Ticks.to_s(Ticks.difference(after, latest)) or -1,
    Ticks.to_s(until_full),
  }
end

-------------------------------------------------------------------------------------------------------------
-- 13  The table of functions
-------------------------------------------------------------------------------------------------------------

-- Whether the server may run a function without memory to spare: nobody who is paying is turned away, and what
-- frees units always works.
local NEEDS_MEMORY = {}
local EVEN_WITHOUT_MEMORY = { 'allow-oom' }
local READS = { 'no-writes', 'allow-oom' }

-- Calls `run` with a key and the words after it, of which there are `least` to `most`.
local function call(name, least, most, run, key, argv)
  local words = words_of(argv, (name:upper():gsub('_', '.', 1)))
  if not key or #argv < least or #argv > most then
    words:arity()
  end
  return run(key, words)
end

-- Makes a command a function. `keyless`: its first word is no key, and may be given as none.
local function define(name, flags, least, most, run, keyless)
  redis.register_function({
    function_name = name,
    flags = flags,
    callback = function(keys, argv)
      local key = keys[1]
      if keyless and not key then
        key = table.remove(argv, 1)
      elseif #keys ~= 1 then
        return redis.error_reply('ERR give exactly one key: FCALL ' .. name .. ' 1 key ...')
      end
      local ok, reply = pcall(call, name, least, most, run, key, argv)
      if ok then
        return reply
      elseif type(reply) == 'table' and reply.fault then
        return redis.error_reply(reply.fault)
      end
      error(reply)
    end,
  })
end

local ANY = INFINITE

define('flash_create', NEEDS_MEMORY, 0, ANY, create)
define('flash_alter', NEEDS_MEMORY, 0, ANY, alter)
define('flash_stock', NEEDS_MEMORY, 2, ANY, stock)
define('flash_reserve', NEEDS_MEMORY, 5, ANY, reserve)
define('flash_mreserve', NEEDS_MEMORY, 2, ANY, mreserve)
define('flash_order', NEEDS_MEMORY, 5, ANY, order)
define('flash_confirm', EVEN_WITHOUT_MEMORY, 1, ANY, confirm)
define('flash_release', EVEN_WITHOUT_MEMORY, 1, ANY, release)
define('flash_extend', EVEN_WITHOUT_MEMORY, 2, 2, extend)
define('flash_return', EVEN_WITHOUT_MEMORY, 2, ANY, return_items)
define('flash_expire', EVEN_WITHOUT_MEMORY, 0, ANY, expire)
define('flash_pause', EVEN_WITHOUT_MEMORY, 0, 0, switch('flash_pause', set_paused(true)))
define('flash_resume', EVEN_WITHOUT_MEMORY, 0, 0, switch('flash_resume', set_paused(false)))
define('flash_close', EVEN_WITHOUT_MEMORY, 0, 0, switch('flash_close', set_closed))
define('flash_grant', EVEN_WITHOUT_MEMORY, 4, ANY, grant)
define('flash_accept', NEEDS_MEMORY, 5, 5, accept)
define('flash_move', EVEN_WITHOUT_MEMORY, 2, 3, Move.call)
define('flash_info', READS, 0, 0, info)
define('flash_hold', READS, 1, 1, hold)
define('flash_buyer', READS, 1, 1, buyer)
define('flash_holds', READS, 1, ANY, holds)
define('flash_audit', READS, 0, 0, audit)
define('flash_shards', READS, 1, 1, shards, true)
define('flash_route', READS, 2, 2, route, true)
define('flash_throttle', NEEDS_MEMORY, 3, 4, throttle)

-- The version of this library: 'VERSION layout LAYOUT'. Takes no key.
redis.register_function({
  function_name = 'flash_version',
  flags = READS,
  callback = function()
    return VERSION .. ' layout ' .. int(LAYOUT)
  end,
})
