// What a stranger needs to believe a block, from protocols/{networking,consensus,state-transition}.md
// alone: the chain's identity from its genesis, signatures of messages and certificates, and what a
// header commits to. Execution is not repeated: that needs the state.
import { createHash, createPublicKey, verify as verifySignature } from 'node:crypto'
import { decode, encode } from './cbor.mjs'
import { toValue } from './schema.mjs'

export const TAG = { signature: 10, certificate: 11, proposal: 14, vote: 15, timeout: 16, transaction: 30, batch: 31, header: 32, block: 33, compact: 34 }
export const PHASE = { propose: 1, prepare: 2, commit: 3 }
const HEADER_FIELDS = [
  'chain_id', 'height', 'view0', 'time_ms', 'parent_hash', 'proposer_index', 'set_hash',
  'next_set_hash', 'transactions_root', 'state_root', 'results_root', 'outbox_root', 'outbox_count',
  'inbox_next', 'inbox_root', 'root_height', 'root_hash', 'history_root', 'last_commit_hash', 'evidence_root'
]
const NO_HASH = Buffer.alloc(32)
const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // DER before a raw Ed25519 public key

export class Invalid extends Error {}

const insist = (holds, why) => { if (!holds) throw new Invalid(why) }

export function sha256 (...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}

/** state-transition.md 7: the Merkle root of RFC 6962. */
export function merkleRoot (items) {
  if (items.length === 0) return sha256()
  let level = items.map(item => sha256(Buffer.of(0), item))
  while (level.length > 1) {
    const above = []
    for (let at = 0; at < level.length; at += 2) {
      above.push(at + 1 < level.length ? sha256(Buffer.of(1), level[at], level[at + 1]) : level[at])
    }
    level = above
  }
  return level[0]
}

/** state-transition.md 3: the identity and the first validators of one chain of a genesis file. */
export function chainOf (schema, genesis, name) {
  const region = genesis.chains.find(each => each.name === name)
  const alone = encode(toValue(schema, 'genesis', { ...genesis, chains: [region] }))
  const members = toValue(schema, 'region-chain', region)
    .find(field => Array.isArray(field) && field[0]?.[0] === schema.get('genesis-validator').tag)
    .map(([, , publicKey, weight]) => ({ publicKey, weight }))
    .sort((a, b) => Buffer.compare(a.publicKey, b.publicKey))
  return {
    name,
    chainId: sha256(alone),
    genesisHash: sha256(encode(toValue(schema, 'genesis', genesis))),
    members,
    setHash: sha256('gtx.vset', encode([members.map(each => [each.publicKey, each.weight])]))
  }
}

const keys = new Map()

function signed (publicKey, message, signature) {
  const name = publicKey.toString('hex')
  if (!keys.has(name)) keys.set(name, createPublicKey({ key: Buffer.concat([SPKI, publicKey]), format: 'der', type: 'spki' }))
  return verifySignature(null, message, keys.get(name), signature)
}

/** consensus.md 2.2: what a member signs. */
function statement (chain, type, height, view, rest) {
  const numbers = Buffer.alloc(12)
  numbers.writeBigUInt64BE(BigInt(height), 0)
  numbers.writeUInt32BE(view, 8)
  return Buffer.concat([Buffer.from('GTXv1'), Buffer.of(type), chain.chainId, numbers, rest])
}

function memberAt (chain, index) {
  insist(index < chain.members.length, `no member ${index}`)
  return chain.members[index]
}

/** consensus.md 2.2: check a certificate; returns {phase, height, view, blockHash}. */
export function verifyCertificate (chain, value) {
  const [tag, phase, height, view, blockHash, signatures] = value
  insist(tag === TAG.certificate && value.length === 6, 'not a certificate')
  insist(phase === PHASE.prepare || phase === PHASE.commit, `no certificate of phase ${phase}`)
  const message = statement(chain, phase, height, view, blockHash)
  let previous = -1
  let weight = 0
  for (const [kind, index, signature] of signatures) {
    insist(kind === TAG.signature && index > previous, 'indexes must strictly increase')
    weight += memberAt(chain, index).weight
    previous = index
    insist(signed(chain.members[index].publicKey, message, signature), `bad signature of member ${index}`)
  }
  const total = chain.members.reduce((sum, each) => sum + each.weight, 0)
  insist(3 * weight > 2 * total, `weight ${weight} of ${total} is no quorum`)
  return { phase, height, view, blockHash }
}

/** consensus.md 2.2: check one message of the topic `votes`; returns {kind, height, view, ...}. */
export function verifyMessage (chain, data) {
  const value = decode(data)
  const [tag, ...fields] = value
  if (tag === TAG.vote) {
    const [type, height, view, blockHash, index, signature] = fields
    insist(type === PHASE.prepare || type === PHASE.commit, `no vote of type ${type}`)
    const good = signed(memberAt(chain, index).publicKey, statement(chain, type, height, view, blockHash), signature)
    insist(good, `bad signature of member ${index}`)
    return { kind: type === PHASE.prepare ? 'prepare' : 'commit', height, view, index, blockHash }
  }
  if (tag === TAG.proposal) {
    const [height, view, blockHash, timeouts, certificate, signature] = fields
    const digest = each => each === null ? NO_HASH : sha256(encode(each))
    const why = view === 0 ? NO_HASH : sha256('gtx.just', digest(timeouts), digest(certificate))
    const message = statement(chain, PHASE.propose, height, view, Buffer.concat([blockHash, why]))
    const index = chain.members.findIndex(each => signed(each.publicKey, message, signature))
    insist(index >= 0, 'no member signed the proposal')
    return { kind: 'proposal', height, view, index, blockHash }
  }
  if (tag === TAG.certificate) return { kind: 'certificate', ...verifyCertificate(chain, value) }
  return { kind: `tag ${tag}`, height: fields[0], view: fields[1] }
}

/** state-transition.md 5: {hash, ...fields} of a header of this chain and its first set. */
export function readHeader (chain, value) {
  insist(value[0] === TAG.header && value.length === 1 + HEADER_FIELDS.length, 'not a header')
  const header = Object.fromEntries(HEADER_FIELDS.map((field, at) => [field, value[at + 1]]))
  insist(header.chain_id.equals(chain.chainId), 'a header of another chain')
  insist(header.set_hash.equals(chain.setHash), 'another validator set than the one known')
  insist(header.proposer_index < chain.members.length, 'nobody proposed it')
  return { hash: sha256('gtx.hdr', encode(value)), ...header }
}

function verifyContents (chain, header, ids, lastCommit, evidence) {
  insist(merkleRoot(ids).equals(header.transactions_root), 'other transactions than the header says')
  insist(sha256('gtx.commit', lastCommit).equals(header.last_commit_hash), 'another last commit')
  insist(merkleRoot(evidence.map(encode)).equals(header.evidence_root), 'other evidence')
  if (header.height === 1) {
    insist(lastCommit.length === 0 && header.parent_hash.equals(chain.chainId), 'block 1 has no parent')
    return
  }
  const parent = verifyCertificate(chain, decode(lastCommit))
  const extended = parent.phase === PHASE.commit && parent.height === header.height - 1
  insist(extended && parent.blockHash.equals(header.parent_hash), 'the last commit is not the parent\'s')
}

/** A compact block as gossiped: everything but what its transactions do. Returns {header, ids}. */
export function verifyCompactBlock (chain, data) {
  const [tag, headerValue, ids, lastCommit, evidence] = decode(data)
  insist(tag === TAG.compact, 'not a compact block')
  const header = readHeader(chain, headerValue)
  verifyContents(chain, header, ids, lastCommit, evidence)
  return { header, ids }
}

/** networking.md 3.2: a decided block and the certificate that decides it. */
export function verifyDecidedBlock (chain, blockBytes, certificateBytes) {
  const [tag, headerValue, transactions, lastCommit, evidence] = decode(blockBytes)
  insist(tag === TAG.block, 'not a block')
  const header = readHeader(chain, headerValue)
  const decided = verifyCertificate(chain, decode(certificateBytes))
  insist(decided.phase === PHASE.commit && decided.height === header.height, 'not the commit of its height')
  insist(decided.blockHash.equals(header.hash), 'the certificate is for another block')
  const ids = transactions.map(each => transactionId(chain, each))
  verifyContents(chain, header, ids, lastCommit, evidence)
  return { header, ids }
}

/** state-transition.md 2: the id of a transaction of this chain whose sender has signed it. */
export function transactionId (chain, bytes) {
  const [tag, chainId, sender, nonce, feeUgtx, payload, signature] = decode(bytes)
  insist(tag === TAG.transaction && chainId.equals(chain.chainId), 'not a transaction of this chain')
  const message = transactionMessage(chain, sender, nonce, feeUgtx, payload)
  insist(signed(sender, message, signature), 'bad signature of a transaction')
  return sha256('gtx.tx', bytes)
}

/** What the sender of a transaction signs. */
export function transactionMessage (chain, sender, nonce, feeUgtx, payload) {
  return Buffer.concat([
    Buffer.from('GTXv1-transaction'), encode([chain.chainId, sender, nonce, feeUgtx]), encode(payload)
  ])
}
