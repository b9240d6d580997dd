-- Seals the decision id of a request: HMAC-SHA256 (RFC 2104, FIPS 180-4) by the key of its stamp.
local band, bor, bxor, ror, rshift, tobit, tohex = bit.band, bit.bor, bit.bxor, bit.ror, bit.rshift, bit.tobit, bit.tohex
local byte, char, rep = string.byte, string.char, string.rep
local MAX_KEYS = 4096

local function fraction(root)
  return tobit(math.floor((root % 1) * 2 ^ 32))
end

-- The fractional parts of the cube and square roots of the first primes.
local ROUNDS, START = {}, {}
local number = 1
while #ROUNDS < 64 do
  number = number + 1
  local prime = true
  for divisor = 2, math.sqrt(number) do
    prime = prime and number % divisor ~= 0
  end
  if prime then
    ROUNDS[#ROUNDS + 1] = fraction(number ^ (1 / 3))
    START[#START + 1] = #START < 8 and fraction(number ^ (1 / 2)) or nil
  end
end

local words = {}

-- The state after the 64 bytes of `text` from `at`.
local function compress(state, text, at)
  for i = 1, 16 do
    local a, b, c, d = byte(text, at, at + 3)
    words[i] = bor(a * 2 ^ 24, b * 2 ^ 16, c * 2 ^ 8, d)
    at = at + 4
  end
  for i = 17, 64 do
    local x, y = words[i - 15], words[i - 2]
    local low = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local high = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    words[i] = tobit(words[i - 16] + low + words[i - 7] + high)
  end
  local a, b, c, d, e, f, g, h = unpack(state)
  for i = 1, 64 do
    local choice, majority = bxor(g, band(e, bxor(f, g))), bor(band(a, b), band(c, bor(a, b)))
    local one = tobit(h + bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + choice + ROUNDS[i] + words[i])
    local two = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + majority
    h, g, f, e, d, c, b, a = g, f, e, tobit(d + one), c, b, a, tobit(one + two)
  end
  local s = state
  return {
    tobit(s[1] + a), tobit(s[2] + b), tobit(s[3] + c), tobit(s[4] + d),
    tobit(s[5] + e), tobit(s[6] + f), tobit(s[7] + g), tobit(s[8] + h),
  }
end

local function bytes(word)
  return char(rshift(word, 24), band(rshift(word, 16), 255), band(rshift(word, 8), 255), band(word, 255))
end

-- The digest of a block of 64 bytes, after which `state` is, and `text`.
local function finish(state, text)
  local padded = text .. "\128" .. rep("\0", (55 - #text) % 64) .. "\0\0\0\0" .. bytes(8 * (64 + #text))
  for at = 1, #padded, 64 do
    state = compress(state, padded, at)
  end
  return state
end

local function pad(key, value)
  local function masked(letter)
    return char(bxor(byte(letter), value))
  end
  return compress(START, (key:gsub(".", masked)) .. rep(char(value), 64 - #key), 1)
end

-- By key, in hexadecimal: the states after its inner and its outer block.
local pads, count = {}, 0

local function pads_of(key)
  if not pads[key] then
    if count == MAX_KEYS then
      pads, count = {}, 0
    end
    local raw = key:gsub("%x%x", function(digits)
      return char(tonumber(digits, 16))
    end)
    pads[key], count = { pad(raw, 0x36), pad(raw, 0x5c) }, count + 1
  end
  return unpack(pads[key])
end

-- The first 128 bits of the HMAC, in hexadecimal.
local function seal(id, key)
  local inner, outer = pads_of(key)
  local text = ""
  for _, word in ipairs(finish(inner, id)) do
    text = text .. bytes(word)
  end
  local digest = finish(outer, text)
  return tohex(digest[1]) .. tohex(digest[2]) .. tohex(digest[3]) .. tohex(digest[4])
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local id = headers:get("x-decision-id")
  headers:replace("x-decision-id", id .. "~" .. seal(id, handle:filterContext():get("key")))
end
