// What a stranger needs to believe a block, from protocols/{networking,consensus,state-transition}.md
// alone: the chain's identity from its genesis, signatures of messages and certificates, and what a
// header commits to. Tags and fields are those of wire/*.cddl, never listed here. Execution is not repeated: that needs the state.
import { createHash, createPublicKey, verify as verifySignature } from 'node:crypto'
import { decode, encode } from './cbor.mjs'
import { fieldsOf, toValue } from './schema.mjs'

const NO_HASH = Buffer.alloc(32)
const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // DER before a raw Ed25519 public key

export class Invalid extends Error {}

const insist = (holds, why) => { if (!holds) throw new Invalid(why) }

export function sha256 (...parts) {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return hash.digest()
}

/** protocols/state-transition.md 7: the Merkle root of RFC 6962. */
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

/** protocols/state-transition.md 3: identity and first validators of one chain of a genesis. */
export function chainOf (schema, genesis, name) {
  const region = genesis.chains.find(each => each.name === name)
  const alone = encode(toValue(schema, 'genesis', { ...genesis, chains: [region] }))
  const members = toValue(schema, 'region-chain', region)
    .find(field => Array.isArray(field) && field[0]?.[0] === schema.get('genesis-validator').tag)
    .map(([, , publicKey, weight]) => ({ publicKey, weight }))
    .sort((a, b) => Buffer.compare(a.publicKey, b.publicKey))
  return {
    name,
    schema,
    phases: schema.get('phase').values,
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

/** protocols/consensus.md 2.2: what a member signs. */
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

const isVoted = ({ phases }, phase) => phase === phases.prepare || phase === phases.commit

/** protocols/consensus.md 2.2: check a certificate; returns {phase, height, view, blockHash}. */
export function verifyCertificate (chain, value) {
  const { phase, height, view, block_hash: blockHash, signatures } = fieldsOf(chain.schema, 'quorum-certificate', value)
  insist(isVoted(chain, phase), `no certificate of phase ${phase}`)
  const message = statement(chain, phase, height, view, blockHash)
  let previous = -1
  let weight = 0
  for (const each of signatures) {
    const { index, signature } = fieldsOf(chain.schema, 'indexed-signature', each)
    insist(index > previous, 'indexes must strictly increase')
    weight += memberAt(chain, index).weight
    previous = index
    insist(signed(chain.members[index].publicKey, message, signature), `bad signature of member ${index}`)
  }
  const total = chain.members.reduce((sum, each) => sum + each.weight, 0)
  insist(3 * weight > 2 * total, `weight ${weight} of ${total} is no quorum`)
  return { phase, height, view, blockHash }
}

/** protocols/consensus.md 2.2: check a message of `votes`; returns {kind, height, view, ...}. */
export function verifyMessage (chain, data) {
  const value = decode(data)
  const is = name => value[0] === chain.schema.get(name).tag
  if (is('consensus/vote')) {
    const { phase, height, view, block_hash: blockHash, index, signature } = fieldsOf(chain.schema, 'consensus/vote', value)
    insist(isVoted(chain, phase), `no vote of phase ${phase}`)
    const good = signed(memberAt(chain, index).publicKey, statement(chain, phase, height, view, blockHash), signature)
    insist(good, `bad signature of member ${index}`)
    return { kind: phase === chain.phases.prepare ? 'prepare' : 'commit', height, view, index, blockHash }
  }
  if (is('consensus/proposal')) {
    const { height, view, block_hash: blockHash, timeouts, certificate, signature } = fieldsOf(chain.schema, 'consensus/proposal', value)
    const digest = each => each === null ? NO_HASH : sha256(encode(each))
    const why = view === 0 ? NO_HASH : sha256('gtx.just', digest(timeouts), digest(certificate))
    const message = statement(chain, chain.phases.propose, height, view, Buffer.concat([blockHash, why]))
    const index = chain.members.findIndex(each => signed(each.publicKey, message, signature))
    insist(index >= 0, 'no member signed the proposal')
    return { kind: 'proposal', height, view, index, blockHash }
  }
  if (is('quorum-certificate')) return { kind: 'certificate', ...verifyCertificate(chain, value) }
  const other = ['timeout', 'timeout-certificate'].find(is)
  insist(other !== undefined, `tag ${value[0]} is none of this topic`)
  const { height, view } = fieldsOf(chain.schema, other, value)
  return { kind: other, height, view }
}

/** protocols/state-transition.md 5: {hash, ...fields} of a header of this chain and its first set. */
export function readHeader (chain, value) {
  const header = fieldsOf(chain.schema, 'header', value)
  insist(header.chain_id.equals(chain.chainId), 'a header of another chain')
  insist(header.set_hash.equals(chain.setHash), 'another validator set than the one known')
  insist(header.proposer_index < chain.members.length, 'nobody proposed it')
  return { hash: sha256('gtx.hdr', encode(value)), ...header }
}

function verifyContents (chain, header, ids, { last_commit: lastCommit, evidence, inbox }) {
  insist(merkleRoot(ids).equals(header.transactions_root), 'other transactions than the header says')
  insist(sha256('gtx.commit', lastCommit).equals(header.last_commit_hash), 'another last commit')
  insist(merkleRoot(evidence.map(encode)).equals(header.evidence_root), 'other evidence')
  insist(merkleRoot(inbox.map(encode)).equals(header.inbox_root), 'other messages of the national chain')
  if (header.height === 1) {
    insist(lastCommit.length === 0 && header.parent_hash.equals(chain.chainId), 'block 1 has no parent')
    return
  }
  const parent = verifyCertificate(chain, decode(lastCommit))
  const extended = parent.phase === chain.phases.commit && parent.height === header.height - 1
  insist(extended && parent.blockHash.equals(header.parent_hash), 'the last commit is not the parent\'s')
}

/** A compact block as gossiped: everything but what its transactions do. Returns {header, ids}. */
export function verifyCompactBlock (chain, data) {
  const body = fieldsOf(chain.schema, 'compact-block', decode(data))
  const header = readHeader(chain, body.header)
  verifyContents(chain, header, body.transaction_ids, body)
  return { header, ids: body.transaction_ids }
}

/** protocols/networking.md 3.2: a decided block and the certificate that decides it. */
export function verifyDecidedBlock (chain, blockBytes, certificateBytes) {
  const body = fieldsOf(chain.schema, 'block', decode(blockBytes))
  const header = readHeader(chain, body.header)
  const decided = verifyCertificate(chain, decode(certificateBytes))
  insist(decided.phase === chain.phases.commit && decided.height === header.height, 'not the commit of its height')
  insist(decided.blockHash.equals(header.hash), 'the certificate is for another block')
  const ids = body.transactions.map(each => transactionId(chain, each))
  verifyContents(chain, header, ids, body)
  return { header, ids }
}

/** protocols/state-transition.md 2: the id of a transaction of this chain, signed by its sender. */
export function transactionId (chain, bytes) {
  const { chain_id: chainId, sender, nonce, fee_ugtx: feeUgtx, payload, signature } = fieldsOf(chain.schema, 'transaction', decode(bytes))
  insist(chainId.equals(chain.chainId), 'not a transaction of this chain')
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
