// Following with ioredis and node-redis: reads with BLOCK, and what becomes of pushes.

import assert from 'node:assert/strict';

// A map of RESP3 is an object, one of RESP2 a flat array.
export const asMap = (value) => Array.isArray(value)
  ? Object.fromEntries(value.flatMap((v, i) => (i % 2 ? [] : [[v, value[i + 1]]])))
  : { ...value };

// The loop of docs/CLIENTS.md: every event from `start` on, for ever.
async function* follow(call, command, source, start) {
  const field = command === 'ESCAN' ? 'stream_version' : 'partition_sequence';
  for (;;) {
    const page = asMap(await call(command, source, String(start), '+',
      'COUNT', '7', 'BLOCK', '2000'));
    for (const event of page.events.map(asMap)) {
      yield event;
      start = event[field] + 1;
    }
  }
}

// `connect` makes a connection: `call`, `close`, and `heard`, the pushes that came out of it.
export async function checkFollowing(name, connect) {
  const writer = await connect();
  await blocking(name, connect, writer);
  await patience(name, connect, writer);
  await pushes(name, connect, writer);
  writer.close();
}

async function blocking(name, connect, writer) {
  const stream = `${name.replaceAll(' ', '-')}-follow`;
  const append = (n) => writer.call('EAPPEND', stream, 'E', 'PAYLOAD', String(n));
  const { partition_id: partition } = asMap(await append(0));
  await Promise.all([...Array(29).keys()].map((n) => append(n + 1)));
  const rest = (async () => {
    for (let n = 30; n < 90; n++) {
      await append(n);
      await new Promise((resume) => setTimeout(resume, 3));
    }
  })();
  // From the beginning into what is appended; cut off twice; every event once, in order.
  const seen = [];
  for (const until of [10, 45, 90]) {
    const reader = await connect();
    for await (const event of follow(reader.call, 'ESCAN', stream, seen.length)) {
      seen.push([event.stream_version, Number(event.payload)]);
      if (seen.length === until) break;
    }
    reader.close();
  }
  await rest;
  assert.deepEqual(seen, [...Array(90).keys()].map((n) => [n, n]));

  // All of a partition, and a connection that is closed while it waits.
  const last = await writer.call('EPSEQ', String(partition));
  const sequences = [];
  const through = async (reader, end) => {
    for await (const event of follow(reader.call, 'EPSCAN', String(partition), sequences.length)) {
      sequences.push(event.partition_sequence);
      if (event.partition_sequence === end) return;
    }
  };
  const first = await connect();
  await through(first, last);
  const waiting = assert.rejects(through(first, last + 1));
  setTimeout(first.close, 50);
  await waiting;
  await append(90);
  const second = await connect();
  await through(second, last + 1);
  second.close();
  assert.deepEqual(sequences, [...Array(last + 2).keys()]);
  console.log(`${name}: blocking`);
}

async function patience(name, connect, writer) {
  const quiet = `${name.replaceAll(' ', '-')}-quiet`;
  const reader = await connect();
  const begun = performance.now();
  const page = asMap(await reader.call('ESCAN', quiet, '0', '+', 'BLOCK', '150'));
  assert.deepEqual([page.events, Boolean(page.has_more)], [[], false]);
  assert.ok(performance.now() - begun >= 149);
  setTimeout(() => writer.call('EAPPEND', quiet, 'E'), 100);
  const { events } = asMap(await reader.call('ESCAN', quiet, '0', '+', 'BLOCK', '0'));
  assert.equal(events.length, 1);
  reader.close();
  console.log(`${name}: patience`);
}

// Neither library passes pushes of kinds it does not know to a program. What it must not do is to
// take them for answers.
async function pushes(name, connect, writer) {
  const stream = `${name.replaceAll(' ', '-')}-pushes`;
  const append = (n) => writer.call('EAPPEND', stream, 'E', 'PAYLOAD', String(n));
  for (let n = 0; n < 10; n++) await append(n);
  const reader = await connect();
  if (name.endsWith('RESP2')) {
    await assert.rejects(reader.call('ESUB', stream), {
      message: 'ERR ESUB pushes events and needs RESP3: say HELLO 3 first, or follow with ' +
        'ESCAN ... BLOCK',
    });
    reader.close();
    return;
  }
  const subscription = await reader.call('ESUB', stream, 'FROM', '0', 'WINDOW', '15');
  for (let n = 10; n < 20; n++) {
    await append(n);
    assert.equal(await reader.call('ESVER', stream), n);
  }
  assert.equal(await reader.call('EACK', subscription, '14'), 'OK');
  assert.equal(await reader.call('EUNSUB', subscription), 'OK');
  assert.equal(await reader.call('PING'), 'PONG');
  assert.deepEqual(reader.heard, []);
  reader.close();
  console.log(`${name}: pushes are dropped, and disturb nothing`);
}
