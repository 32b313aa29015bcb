// A signed transaction and the batch that carries it, by protocols/state-transition.md 2
// and protocols/networking.md 4.
import { createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { encode } from './cbor.mjs'
import { toValue, valueOf } from './schema.mjs'
import { sha256, transactionMessage } from './verify.mjs'

const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex') // DER before an Ed25519 seed

/** Sign a command given as its JSON document; returns {id, bytes}. */
export function signTransaction (schema, chain, seed, nonce, document) {
  const key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' })
  const sender = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-32)
  const payload = toValue(schema, document.kind.replaceAll('_', '-'), document)
  const signature = sign(null, transactionMessage(chain, sender, nonce, 0, payload), key)
  const bytes = encode(valueOf(schema, 'transaction', { chain_id: chain.chainId, sender, nonce, fee_ugtx: 0, payload, signature }))
  return { id: sha256('gtx.tx', bytes), bytes }
}

/** What is published on the topic `orders`. */
export const batchOf = (schema, ...transactions) => encode(valueOf(schema, 'transaction-batch', { transactions }))
