//! ioredis and node-redis, as npm has them.

use std::path::Path;
use std::process::Command;

use crate::programs;
use crate::server_process::ServerProcess;

/// The packages, and the versions that are tested.
const PACKAGES: [(&str, &str); 2] = [("ioredis", "6.0.0"), ("redis", "6.3.1")];

/// What both libraries must be able to do. Lies here, not in a file of its own, because it must
/// be run where the packages are installed.
const SCRIPT: &str = r"
import assert from 'node:assert/strict';
import Redis from 'ioredis';
import { createClient } from 'redis';

const port = Number(process.argv[2]);
const password = process.env.PASSWORD || undefined;

// A map of RESP3 is an object, one of RESP2 a flat array.
const asMap = (value) => Array.isArray(value)
  ? Object.fromEntries(value.flatMap((v, i) => (i % 2 ? [] : [[v, value[i + 1]]])))
  : { ...value };

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

async function viaIoredis() {
  const client = ioredis(password);
  await client.connect();
  await check('ioredis', (...args) => client.call(...args), async (commands) => {
    const pipeline = client.pipeline();
    commands.forEach((command) => pipeline.call(...command));
    return (await pipeline.exec()).map(([error, answer]) => {
      assert.equal(error, null);
      return answer;
    });
  });
  client.disconnect();
  if (!password) return;
  await refuses('ioredis', async (secret) => {
    const client = ioredis(secret);
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

await viaIoredis();
await viaNodeRedis(2);
await viaNodeRedis(3);
";

/// Installs the packages, unless they are there in the versions wanted.
pub(super) fn install(dir: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", dir.display());
    let versions: serde_json::Map<_, _> =
        PACKAGES.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect();
    let package = serde_json::json!({"private": true, "dependencies": versions}).to_string();
    std::fs::create_dir_all(dir).map_err(wrong)?;
    std::fs::write(dir.join("check.mjs"), SCRIPT).map_err(wrong)?;
    let manifest = dir.join("package.json");
    let installed = PACKAGES.iter().all(|(name, _)| dir.join("node_modules").join(name).is_dir());
    if installed && std::fs::read_to_string(&manifest).is_ok_and(|found| found == package) {
        return Ok(());
    }
    std::fs::write(&manifest, &package).map_err(wrong)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]);
    programs::output(npm.current_dir(dir)).map(drop).map_err(|error| {
        let _ = std::fs::remove_file(&manifest);
        let names = PACKAGES.map(|(name, version)| format!("{name}@{version}"));
        format!("npm packages {}: {error}", names.join(" and "))
    })
}

/// Both libraries against a server.
pub(super) fn check(
    dir: &Path,
    server: &ServerProcess,
    password: Option<&str>,
) -> Result<(), String> {
    let mut node = Command::new("node");
    node.arg("check.mjs").arg(server.address().port().to_string()).current_dir(dir);
    node.env("PASSWORD", password.unwrap_or_default());
    programs::run(&mut node)
}
