// ioredis and node-redis against a running ActaDB: clients.mjs PORT, with a password in PASSWORD.
//
// Prints a line per thing checked; the first that is wrong ends it with an error.

import assert from 'node:assert/strict';
import Redis from 'ioredis';
import { createClient } from 'redis';
import { asMap, checkFollowing } from './following.mjs';

const port = Number(process.argv[2]);
const password = process.env.PASSWORD || undefined;

async function check(name, call, pipeline) {
  const stream = (suffix) => `${name}-${suffix}`.replaceAll(' ', '-');
  const made = asMap(await call('EAPPEND', stream('events'), 'Made', 'PAYLOAD', 'häh\r\n'));
  assert.equal(made.stream_version, 0);
  const event = asMap(await call('EGET', made.event_id));
  assert.equal(event.payload, 'häh\r\n');
  assert.equal(event.partition_sequence, made.partition_sequence);
  const page = asMap(await call('ESCAN', stream('events'), '-', '+', 'COUNT', '10'));
  assert.equal(Boolean(page.has_more), false);
  assert.deepEqual(page.events.map(asMap), [event]);
  const key = 'b5caaf75-d5ce-5289-a5cb-29de88f7c202';
  const many = asMap(await call('EMAPPEND', key, stream('a'), 'E', stream('b'), 'E'));
  assert.deepEqual(many.events.map(asMap).map((e) => e.stream_id), [stream('a'), stream('b')]);
  const back = asMap(await call('EPSCAN', key, String(many.first_partition_sequence), '+'));
  assert.equal(asMap(back.events[0]).event_id, asMap(many.events[0]).event_id);
  assert.equal(await call('ESVER', stream('events')), 0);
  assert.equal(await call('ESVER', stream('none')), null);
  assert.equal(await call('EPSEQ', key), many.last_partition_sequence);
  assert.equal(await call('EGET', key), null);

  const numbers = [...Array(1000).keys()];
  const answers = await pipeline(numbers.map((n) =>
    ['EAPPEND', stream('pipeline'), 'E', 'PAYLOAD', String(n)]));
  assert.deepEqual(answers.map((a) => asMap(a).stream_version), numbers);
  const all = asMap(await call('ESCAN', stream('pipeline'), '-', '+', 'COUNT', '5000'));
  assert.deepEqual(all.events.map((e) => asMap(e).payload), numbers.map(String));

  const wrong = new RegExp('^WRONGVER current stream version is (0) but expected (7) ' +
    `for partition key ${made.partition_key} and stream id ${stream('events')}$`);
  const errors = [
    [wrong, ['EAPPEND', stream('events'), 'E', 'EXPECTED_VERSION', '7']],
    [/^ERR unknown command 'NOSUCH', with args beginning with: 'x'/, ['NOSUCH', 'x']],
    [/^ERR wrong number of arguments for 'eget' command$/, ['EGET']],
    [/^INVALIDARG partition 99 does not exist \(0 to 31\)$/, ['EPSCAN', '99', '-', '+']],
    [/^SYNTAX unexpected argument 'FOO' for ESCAN$/, ['ESCAN', 's', '-', '+', 'FOO']],
    [/^INVALIDARG BLOCK must be a number, got 'x'$/, ['ESCAN', 's', '-', '+', 'BLOCK', 'x']],
    [/^DUPLICATE \S+ is version 0 of stream /,
      ['EAPPEND', stream('events'), 'E', 'EVENT_ID', made.event_id]],
  ];
  for (const [words, command] of errors) {
    await assert.rejects(call(...command), (error) => words.test(error.message));
  }
  assert.match(String(await call('INFO')), /redis_version:7\.4\.0\r\nactadb_version:/);
  assert.equal(await call('CLIENT', 'SETNAME', 'tester'), 'OK');
  assert.equal(await call('CLIENT', 'GETNAME'), 'tester');
  assert.ok(asMap(await call('COMMAND', 'DOCS', 'EGET')).eget);
  console.log(`${name}: events, pipelines, errors, server`);
}

async function refuses(name, connect) {
  await assert.rejects(connect('wrong'), /WRONGPASS|NOAUTH|invalid username-password/);
  await assert.rejects(connect(undefined), /NOAUTH|Authentication required|HELLO must be/);
  console.log(`${name}: passwords`);
}

function ioredis(secret, options) {
  const client = new Redis({ port, password: secret, lazyConnect: true, retryStrategy: null,
    maxRetriesPerRequest: 0, ...options });
  client.on('error', () => {});
  return client;
}

async function viaIoredis(protocol) {
  const name = `ioredis RESP${protocol}`;
  const connect = async () => {
    const client = ioredis(password, { protocol });
    await client.connect();
    const heard = [];
    for (const kind of ['message', 'messageBuffer', 'pmessage', 'smessage']) {
      client.on(kind, (...push) => heard.push(push));
    }
    const call = (...args) => client.call(...args);
    return { client, call, heard, close: () => client.disconnect() };
  };
  const { client, call, close } = await connect();
  await check(name, call, async (commands) => {
    const pipeline = client.pipeline();
    commands.forEach((command) => pipeline.call(...command));
    return (await pipeline.exec()).map(([error, answer]) => {
      assert.equal(error, null);
      return answer;
    });
  });
  close();
  await checkFollowing(name, connect);
  if (!password) return;
  await refuses(name, async (secret) => {
    const client = ioredis(secret, { protocol });
    try {
      await client.call('ESVER', 's');
    } finally {
      client.disconnect();
    }
  });
}

async function viaNodeRedis(RESP) {
  const name = `node-redis RESP${RESP}`;
  const connect = async (secret) => {
    const socket = { port, host: '127.0.0.1', reconnectStrategy: false };
    const client = createClient({ RESP, password: secret, socket });
    client.on('error', () => {});
    await client.connect();
    return client;
  };
  const client = await connect(password);
  const call = (...args) => client.sendCommand(args);
  // Sent in one turn of the loop, they leave as one pipeline.
  await check(name, call, (commands) => Promise.all(commands.map((c) => client.sendCommand(c))));
  assert.match(await client.ping(), /PONG/);
  assert.ok(await client.dbSize() > 0);
  await client.close();
  await checkFollowing(name, async () => {
    const client = await connect(password);
    // It has no way to ask for pushes: those named `message` end in its own pub/sub.
    return { call: (...args) => client.sendCommand(args), heard: [],
      close: () => client.destroy() };
  });
  if (!password) return;
  await refuses(name, async (secret) => {
    const client = await connect(secret);
    try {
      await client.sendCommand(['ESVER', 's']);
    } finally {
      client.destroy();
    }
  });
}

for (const protocol of [2, 3]) {
  await viaIoredis(protocol);
  await viaNodeRedis(protocol);
}
