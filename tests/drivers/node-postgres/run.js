// node-postgres: the client most JavaScript applications use. See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { pipeline } = require('node:stream/promises');
const { Readable, Writable } = require('node:stream');

const { load, version, collect, run } = require('../node');
const { Client, Pool, Query } = load('pg');
const copy = load('pg-copy-streams');

const address = {
  host: process.env.PGHOST_,
  port: Number(process.env.PGPORT_),
  user: process.env.PGUSER_,
  password: process.env.PGPASSWORD_,
  database: 'postgres',
  connectionTimeoutMillis: 20000,
};
const verify = { ca: fs.readFileSync(process.env.ROOT_CERT, 'utf8') };

async function connect(more = {}) {
  const client = new Client({ ...address, ssl: verify, ...more });
  await client.connect();
  return client;
}

const value = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

async function rejects(promise, code) {
  await assert.rejects(promise, (error) => error.code === code || assert.fail(`${error.code}, not ${code}`));
}

async function main() {
  for (const [name, more] of Object.entries({
    require: { ssl: { rejectUnauthorized: false } },
    'verify-full': {},
    'channel-binding': { enableChannelBinding: true },
    'direct-tls': { sslnegotiation: 'direct' },
  })) {
    const client = await connect(more);
    assert.equal(await value(client, 'select 42'), 42);
    await client.end();
    console.log('ok', name);
  }
  await assert.rejects(connect({ ssl: false }), /tls|ssl|encrypt/i);
  console.log('ok plain-refused');

  const client = await connect();
  for (const [type, given] of [
    ['int4', 7], ['float8', 1.5], ['text', 'naïve € 🐘'], ['bool', true], ['text', null], ['int4[]', [1, null, 3]],
    ['jsonb', { a: [1, 'ü'] }], ['bytea', Buffer.from([0, 255])], ['numeric', '1.000001'],
  ]) {
    assert.deepEqual(await value(client, `select $1::${type}`, [given]), given);
  }
  console.log('ok types');

  for (let i = 0; i < 100; i++) {
    const query = { name: 'twice', text: 'select $1::int * 2', values: [i] };
    assert.equal(await value(client, query), i * 2);
  }
  console.log('ok prepared');

  await client.query('create table node_t (id int primary key, v text)');
  await client.query('begin');
  await client.query("insert into node_t values (1, 'lost')");
  await client.query('rollback');
  assert.equal(await value(client, 'select count(*)::int from node_t'), 0);
  console.log('ok transaction');

  await rejects(client.query('select * from nowhere'), '42P01');
  await client.query("insert into node_t values (1, 'a')");
  await rejects(client.query("insert into node_t values (1, 'b')"), '23505');
  assert.equal(await value(client, 'select 1'), 1);
  console.log('ok errors');

  // The library sends its cancels without TLS, as PostgreSQL allows: they carry no data.
  const sleeping = new Query('select pg_sleep(60)');
  const outcome = new Promise((resolve) => sleeping.on('error', resolve).on('end', resolve));
  client.query(sleeping);
  // Again and again: the first may come before the statement does, and must then do nothing.
  const cancels = setInterval(() => new Client({ ...address, ssl: false }).cancel(client, sleeping), 200);
  assert.equal((await outcome)?.code, '57014');
  clearInterval(cancels);
  assert.equal(await value(client, 'select 5'), 5);
  console.log('ok cancel');

  const rows = Array.from({ length: 100000 }, (_, i) => `${i}\trow ${i}\n`);
  await client.query('create table node_copy (id int, v text)');
  await pipeline(Readable.from(rows), client.query(copy.from('copy node_copy from stdin')));
  const back = [];
  const gather = new Writable({ write(chunk, _, done) { back.push(chunk); done(); } });
  await pipeline(client.query(copy.to('copy (select * from node_copy order by id) to stdout')), gather);
  assert.equal(Buffer.concat(back).toString(), rows.join(''));
  console.log('ok copy');

  const big = '0123456789abcdef'.repeat(4 << 20);
  assert.equal((await value(client, 'select $1::text', [big])) === big, true);
  console.log('ok big-value');

  const pool = new Pool({ ...address, ssl: verify, max: 4 });
  const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => pool.query('select $1::int as n', [i])));
  assert.deepEqual(answers.map((answer) => answer.rows[0].n), Array.from({ length: 100 }, (_, i) => i));
  console.log('ok pool');
  // Where a connection says that it was ended; without a listener the library ends the program.
  pool.on('error', () => {}).on('connect', (one) => one.on('error', () => {}));
  const ending = await pool.connect();
  ending.on('error', () => {});
  await ending.query('set role none');
  await rejects(ending.query('select pg_terminate_backend(pg_backend_pid())'), '57P01');
  ending.release(true);
  const again = await Promise.all(Array.from({ length: 20 }, (_, i) => pool.query('select $1::int as n', [i])));
  assert.deepEqual(again.map((answer) => answer.rows[0].n), Array.from({ length: 20 }, (_, i) => i));
  console.log('ok reconnect');

  const heard = collect(20, async (push) => {
    client.on('notification', ({ channel, payload }) => push(`${channel} ${payload}`));
    await client.query('listen node_c');
    for (let i = 0; i < 20; i++) await pool.query("select pg_notify('node_c', $1)", [`hello ${i}`]);
  });
  assert.deepEqual(await heard, Array.from({ length: 20 }, (_, i) => `node_c hello ${i}`));
  await client.query('unlisten *');
  await pool.end();
  console.log('ok notify');

  await rejects(connect({ password: 'wrong' }), '28P01');
  console.log('ok wrong-password');

  await client.query('drop table node_t; drop table node_copy');
  await client.end();
  console.log('all node-postgres', version('pg'));
}

run(main);
