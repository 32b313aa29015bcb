// protocols/wire/*.cddl read as data: JSON documents (genesis files, commands) to canonical values.
// A document's entries have the names of the CDDL's fields; `kind` tells the members of a choice.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const BECH32 = 'qpzry9x8gf2tvdw0s3jn54khce6mua7l'

/**
 * The rules of a folder of CDDL files by name: {tag, fields}, {choice} or {values}. Files have names
 * of their own: `vote` of a participant and of a validator are `governance/vote`, `consensus/vote`.
 */
export function loadSchema (folder) {
  const rules = new Map()
  for (const file of readdirSync(folder).sort()) {
    const text = readFileSync(join(folder, file), 'utf8')
    const add = (name, rule) => {
      rules.set(name, rule)
      rules.set(`${file.replace('.cddl', '')}/${name}`, rule)
    }
    for (const [, name, tag, body] of text.matchAll(/^([a-z0-9-]+) = \[\n +(\d+),\n([^]*?)^\]/gm)) {
      const fields = [...body.matchAll(/^ +([a-z0-9_]+): (.*),$/gm)].map(([, field, type]) => [field, type])
      add(name, { tag: Number(tag), fields })
    }
    for (const [, name, body] of text.matchAll(/^([a-z0-9-]+) =\n((?: .*\n)+)/gm)) {
      const named = [...body.matchAll(/(\d+) ; (\w+)/g)].map(([, value, word]) => [word, Number(value)])
      if (named.length) add(name, { values: Object.fromEntries(named) })
    }
    for (const [, name, body] of text.matchAll(/^([a-z0-9-]+) =[ \n]+([a-z][^\n]*)$/gm)) {
      add(name, { choice: body.split(' / ').map(each => each.trim()) })
    }
  }
  return rules
}

/** The canonical value of a document by the rule `name`. */
export function toValue (rules, name, document) {
  const rule = rules.get(name)
  if (rule.choice) return toValue(rules, document.kind.replaceAll('_', '-'), document)
  return [rule.tag, ...rule.fields.map(([field, type]) => {
    if (!(field in document)) throw new Error(`${name} lacks ${field}`)
    return fieldValue(rules, type, document[field])
  })]
}

/** The value by the rule `name` of fields that are values already. */
export function valueOf (rules, name, fields) {
  const { tag, fields: wanted } = rules.get(name)
  return [tag, ...wanted.map(([field]) => {
    if (!(field in fields)) throw new Error(`${name} lacks ${field}`)
    return fields[field]
  })]
}

/** The fields of a value by name, as `valueOf` takes them. Throws for a value of another rule. */
export function fieldsOf (rules, name, value) {
  const { tag, fields } = rules.get(name)
  if (!Array.isArray(value) || value[0] !== tag) throw new Error(`not a ${name}`)
  if (value.length !== 1 + fields.length) throw new Error(`a ${name} has ${fields.length} fields, not ${value.length - 1}`)
  return Object.fromEntries(fields.map(([field], at) => [field, value[at + 1]]))
}

function fieldValue (rules, type, raw) {
  if (raw === null) return null
  if (Array.isArray(raw)) {
    const inner = type.match(/^\[\S+\*\S* (.*)\]$/)[1]
    return raw.map(each => fieldValue(rules, inner, each))
  }
  if (typeof raw === 'object') return toValue(rules, type.split(' ')[0], raw)
  if (type.startsWith('bstr')) return raw.startsWith('gtx1') ? addressKey(raw) : Buffer.from(raw, 'hex')
  return rules.get(type)?.values?.[raw] ?? raw
}

/** The public key in a bech32m address; its check symbols are left to who typed it. */
export function addressKey (text) {
  const symbols = [...text.slice(4, -6)].map(each => BECH32.indexOf(each))
  const bits = symbols.reduce((sum, each) => sum << 5n | BigInt(each), 0n) >> BigInt(symbols.length * 5 - 256)
  return Buffer.from(bits.toString(16).padStart(64, '0'), 'hex')
}
