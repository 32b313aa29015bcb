// A js-libp2p peer driven by JSON lines: one command a line in, one event a line out.
// The first argument is its configuration, see `options`. Byte strings are hex on both sides.
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify, identifyPush } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { lpStream } from '@libp2p/utils'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'
import { decode, encode } from './cbor.mjs'
import { batchOf, signTransaction } from './order.mjs'
import { fieldsOf, loadSchema, valueOf } from './schema.mjs'
import { chainOf, verifyCompactBlock, verifyDecidedBlock, verifyMessage } from './verify.mjs'

const MAX_ANSWER_BYTES = (8 << 20) + 1
const DEADLINE_MS = 20_000
const options = {
  seed: '', // 32 bytes of the identity
  listen: [], // multiaddrs
  web: false, // WebSockets only, as in a browser
  dht: true,
  serves: true, // as a server of the DHT, whom others find there by its peer id
  psk: null, // text of a private network's key file
  degree: null, // [D, D_low, D_high]; switches flood publishing off too
  forwards: true, // others' messages
  dials: null, // peer ids that may be dialled; null: any
  ...JSON.parse(process.argv[2])
}

const emit = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
const hex = bytes => Buffer.from(bytes.subarray()).toString('hex')
const bytesOf = text => Buffer.from(text, 'hex')
const soon = () => AbortSignal.timeout(DEADLINE_MS)

// protocols/networking.md 4: from || seqno, where `from` is the peer id's bytes.
function messageId (message) {
  const seqno = Buffer.alloc(8)
  seqno.writeBigUInt64BE(message.sequenceNumber)
  return Buffer.concat([message.from.toMultihash().bytes, seqno])
}

function gossipOptions () {
  const given = { allowPublishToZeroTopicPeers: true, fallbackToFloodsub: false, msgIdFn: messageId }
  if (options.degree === null) return given
  const [D, Dlo, Dhi] = options.degree
  return { ...given, D, Dlo, Dhi, Dscore: 0, Dout: 0, floodPublish: false }
}

const services = { identify: identify(), identifyPush: identifyPush(), ping: ping(), gossip: gossipsub(gossipOptions()) }
if (options.dht) {
  services.dht = kadDHT({ protocol: '/ipfs/kad/1.0.0', clientMode: options.web || !options.serves, peerInfoMapper: passthroughMapper, allowQueryWithZeroPeers: true, initialQuerySelfInterval: 500 })
}
const node = await createLibp2p({
  privateKey: await generateKeyPairFromSeed('Ed25519', bytesOf(options.seed)),
  addresses: { listen: options.listen },
  transports: options.web ? [webSockets()] : [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  ...(options.psk === null ? {} : { connectionProtector: preSharedKey({ psk: Buffer.from(options.psk) }) }),
  connectionGater: {
    denyDialMultiaddr: () => false, // its default forbids loopback
    denyDialPeer: peer => options.dials !== null && !options.dials.includes(String(peer))
  },
  services
})
const gossip = node.services.gossip

// What others send and when: the library's own events do not tell.
const control = { graft: 0, prune: 0, ihave: 0, iwant: 0, idontwant: 0 }
const handleRpc = gossip.handleReceivedRpc.bind(gossip)
gossip.handleReceivedRpc = (from, rpc) => {
  for (const kind of Object.keys(control)) control[kind] += rpc.control?.[kind]?.length ?? 0
  return handleRpc(from, rpc)
}

// A message lost on its way to everybody: the library counts it as published and gossips its id.
let toLose = 0
const selectPeers = gossip.selectPeersToPublish.bind(gossip)
gossip.selectPeersToPublish = (...fields) => {
  if (toLose === 0) return selectPeers(...fields)
  toLose--
  return { tosend: new Set(), tosendCount: { direct: 0, floodsub: 0, mesh: 0, fanout: 0 } }
}

if (!options.forwards) gossip.selectPeersToForward = () => new Set()

let schema, genesis, chain
const seen = []

function read (topic, data) {
  if (chain === undefined) return { digest: createHash('sha256').update(data).digest('hex'), bytes: data.length }
  try {
    if (topic.endsWith('/votes')) return plain(verifyMessage(chain, data))
    if (topic.endsWith('/blocks')) {
      const { header, ids } = verifyCompactBlock(chain, data)
      return { kind: 'compact', height: header.height, blockHash: hex(header.hash), ids: ids.map(hex) }
    }
    return { kind: 'batch', count: fieldsOf(schema, 'transaction-batch', decode(data)).transactions.length }
  } catch (error) {
    return { invalid: String(error) }
  }
}

const plain = value => Object.fromEntries(Object.entries(value).map(([key, each]) => [key, each instanceof Uint8Array ? hex(each) : each]))

gossip.addEventListener('message', ({ detail }) => {
  seen.push({ topic: detail.topic, from: String(detail.from), ...read(detail.topic, detail.data) })
})
node.addEventListener('connection:open', ({ detail }) => emit('connected', { peer: String(detail.remotePeer), address: String(detail.remoteAddr), direction: detail.direction }))

async function request (peer, kind, value) {
  const stream = await node.dialProtocol(peerIdFromString(peer), `/gridtokenx/${genesis.network_id}/${kind}/1`, { signal: soon() })
  const frames = lpStream(stream, { maxDataLength: MAX_ANSWER_BYTES, maxBufferSize: 2 * MAX_ANSWER_BYTES })
  await frames.write(encode(value))
  const [outcome, ...rest] = [(await frames.read({ signal: soon() })).subarray()].flatMap(all => [all[0], all.subarray(1)])
  await stream.close()
  if (outcome !== 0) throw new Error(`refused: ${Buffer.from(rest[0])}`)
  return decode(rest[0])
}

// protocols/networking.md 3.1: a node that follows no chain, so that nobody asks it for blocks.
const status = () => encode(valueOf(schema, 'status', {
  network_name: genesis.network_name,
  genesis_hash: chain.genesisHash,
  node_id: 'js',
  agent: 'js-libp2p',
  time_ms: Date.now(),
  heads: []
}))

async function fetchBlocks (peer, height, count) {
  const asked = valueOf(schema, 'blocks-request', {
    chain: chain.name, chain_id: chain.chainId, from_height: height, count
  })
  const { blocks } = fieldsOf(schema, 'blocks-response', await request(peer, 'blocks', asked))
  return blocks.map(each => fieldsOf(schema, 'decided-block', each))
}

async function serveStatus (stream) {
  const frames = lpStream(stream)
  await frames.read({ signal: soon() })
  await frames.write(Buffer.concat([Buffer.of(0), status()]))
  await stream.close()
}

// protocols/networking.md 2: the provider key of a region of this network.
const RAW = 0x55
const regionKey = async region => CID.createV1(RAW, await sha256.digest(Buffer.from(`/gridtokenx/${genesis.network_id}/${region}`)))

const commands = {
  async network ({ genesis: path, wire, chain: name }) {
    schema = loadSchema(wire)
    genesis = JSON.parse(readFileSync(path, 'utf8'))
    chain = chainOf(schema, genesis, name)
    await node.handle(`/gridtokenx/${genesis.network_id}/status/1`, serveStatus)
    return { chainId: hex(chain.chainId), genesisHash: hex(chain.genesisHash) }
  },
  async dial ({ address }) {
    const connection = await node.dial(multiaddr(address), { signal: soon() })
    return { peer: String(connection.remotePeer) }
  },
  hang_up: ({ peer }) => node.hangUp(peerIdFromString(peer), { signal: soon() }),
  async find ({ peer }) {
    for await (const step of node.services.dht.findPeer(peerIdFromString(peer), { signal: soon() })) {
      if (step.name === 'FINAL_PEER') return { told_by: String(step.from), addresses: step.peer.multiaddrs.map(String) }
    }
    throw new Error('the DHT does not know the peer')
  },
  async provide ({ region }) {
    const told = []
    for await (const step of node.services.dht.provide(await regionKey(region), { signal: soon() })) {
      if (step.name === 'PEER_RESPONSE' && step.messageName === 'ADD_PROVIDER') told.push(String(step.from))
    }
    return { told }
  },
  async providers ({ region }) {
    const found = new Map()
    for await (const each of node.contentRouting.findProviders(await regionKey(region), { signal: soon() })) {
      found.set(String(each.id), each.multiaddrs.map(String))
    }
    return Object.fromEntries(found)
  },
  lose: ({ count }) => { toLose = count },
  subscribe: ({ topic }) => { gossip.subscribe(topic) },
  unsubscribe: ({ topic }) => { gossip.unsubscribe(topic) },
  async publish ({ topic, data, size }) {
    const bytes = data === undefined ? randomBytes(size) : bytesOf(data)
    const { recipients } = await gossip.publish(topic, bytes)
    return { recipients: recipients.map(String), digest: createHash('sha256').update(bytes).digest('hex') }
  },
  async order ({ seed, nonce, document }) {
    const { id, bytes } = signTransaction(schema, chain, bytesOf(seed), nonce, document)
    const { recipients } = await gossip.publish(`/gridtokenx/${genesis.network_id}/${chain.name}/orders`, batchOf(schema, bytes))
    return { id: hex(id), recipients: recipients.map(String) }
  },
  async blocks ({ peer, from, count }) {
    return { blocks: (await fetchBlocks(peer, from, count)).map(({ block, certificate }) => {
      const { header, ids } = verifyDecidedBlock(chain, block, certificate)
      return { height: header.height, hash: hex(header.hash), state_root: hex(header.state_root), ids: ids.map(hex) }
    }) }
  },
  async doubt ({ peer, height }) { // a certified block with any bit turned must not be believed
    const [{ block, certificate }] = await fetchBlocks(peer, height, 1)
    const believed = []
    let tried = 0
    for (const [which, bytes] of [['block', block], ['certificate', certificate]]) {
      for (let at = 0; at < bytes.length; at += 7) {
        const turned = Buffer.from(bytes)
        turned[at] ^= 1 << (at % 8)
        const [one, two] = which === 'block' ? [turned, certificate] : [block, turned]
        tried++
        try { verifyDecidedBlock(chain, one, two) } catch { continue }
        believed.push(`${which} at ${at}`)
      }
    }
    return { tried, believed }
  },
  async status ({ peer }) {
    const answer = fieldsOf(schema, 'status', await request(peer, 'status', decode(status())))
    const heads = answer.heads.map(each => fieldsOf(schema, 'chain-head', each))
    return { genesisHash: hex(answer.genesis_hash), heights: Object.fromEntries(heads.map(each => [each.name, each.height])) }
  },
  state: () => ({
    control,
    mesh: Object.fromEntries([...gossip.mesh].map(([topic, peers]) => [topic, [...peers]])),
    subscribers: Object.fromEntries([...gossip.topics].map(([topic, peers]) => [topic, [...peers]])),
    protocols: Object.fromEntries([...gossip.streamsOutbound].map(([peer, stream]) => [peer, stream.protocol])),
    peers: node.getPeers().map(String)
  }),
  messages: () => ({ messages: seen.splice(0) }),
  async stop () {
    await node.stop()
    setImmediate(() => process.exit(0))
  }
}

emit('started', { peer: String(node.peerId), addresses: node.getMultiaddrs().map(String) })
const lines = createInterface({ input: process.stdin })
lines.on('line', async line => {
  const { id, command, ...fields } = JSON.parse(line)
  try {
    emit('done', { id, result: await commands[command](fields) ?? {} })
  } catch (error) {
    emit('failed', { id, error: `${error.name}: ${error.message}`, cause: String(error.cause ?? '') })
  }
})
lines.on('close', () => process.exit(0))
