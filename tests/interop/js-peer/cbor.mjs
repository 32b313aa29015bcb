// Canonical CBOR as protocols/state-transition.md 1 has it: integers, byte strings, text,
// booleans, null and arrays, each in its one spelling. Integers are numbers, BigInt above 2^53.

const MAX_DEPTH = 16
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export class Malformed extends Error {}

function head (major, size) {
  const value = BigInt(size)
  const bytes = value < 24n ? 0 : value < 0x100n ? 1 : value < 0x10000n ? 2 : value < 0x100000000n ? 4 : 8
  const out = Buffer.alloc(1 + bytes)
  out[0] = major << 5 | (bytes === 0 ? Number(value) : 24 + Math.log2(bytes))
  for (let at = bytes, rest = value; at > 0; at--, rest >>= 8n) out[at] = Number(rest & 0xffn)
  return out
}

/** Encode a value: number or BigInt, Uint8Array, string, boolean, null, array of these. */
export function encode (value) {
  if (value === null) return Buffer.of(0xf6)
  if (typeof value === 'boolean') return Buffer.of(value ? 0xf5 : 0xf4)
  if (typeof value === 'number' || typeof value === 'bigint') {
    return value < 0 ? head(1, -1n - BigInt(value)) : head(0, value)
  }
  if (typeof value === 'string') {
    const text = Buffer.from(value)
    return Buffer.concat([head(3, text.length), text])
  }
  if (value instanceof Uint8Array) return Buffer.concat([head(2, value.length), value])
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(encode)])
  throw new TypeError(`${typeof value} has no encoding`)
}

/** Decode all of `bytes`; throws Malformed for every spelling but the canonical one. */
export function decode (bytes) {
  const [value, end] = item(Buffer.from(bytes), 0, 0)
  if (end !== bytes.length) throw new Malformed(`${bytes.length - end} bytes behind the value`)
  return value
}

function item (buffer, start, depth) {
  if (depth > MAX_DEPTH) throw new Malformed('nested too deeply')
  const [major, size, at] = argument(buffer, start)
  switch (major) {
    case 0: return [size, at]
    case 1: return [typeof size === 'bigint' ? -1n - size : -1 - size, at]
    case 2: return [slice(buffer, at, size), at + Number(size)]
    case 3: return [text(slice(buffer, at, size)), at + Number(size)]
    case 4: return list(buffer, at, size, depth)
    case 7:
      if (size === 22) return [null, at]
      if (size === 20 || size === 21) return [size === 21, at]
  }
  throw new Malformed(`type ${major} of ${size} is not used`)
}

function argument (buffer, at) {
  if (at >= buffer.length) throw new Malformed('the value does not end')
  const major = buffer[at] >> 5
  const low = buffer[at] & 31
  if (low < 24) return [major, low, at + 1]
  const bytes = { 24: 1, 25: 2, 26: 4, 27: 8 }[low]
  if (bytes === undefined || major === 7) throw new Malformed(`initial byte ${buffer[at]}`)
  const raw = slice(buffer, at + 1, bytes)
  const value = raw.reduce((sum, byte) => sum << 8n | BigInt(byte), 0n)
  if (head(0, value).length !== 1 + bytes) throw new Malformed('a longer spelling than needed')
  return [major, value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value, at + 1 + bytes]
}

function slice (buffer, at, size) {
  if (BigInt(at) + BigInt(size) > BigInt(buffer.length)) throw new Malformed('the value does not end')
  return buffer.subarray(at, at + Number(size))
}

function text (raw) {
  try { return utf8.decode(raw) } catch { throw new Malformed('text is not UTF-8') }
}

function list (buffer, start, size, depth) {
  const values = []
  let at = start
  for (let count = 0; count < size; count++) {
    const [value, end] = item(buffer, at, depth + 1)
    values.push(value)
    at = end
  }
  return [values, at]
}
