// postgres.js: its own protocol code; pipelines by itself, prepares everything, asks for types at the start.
// See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelled, collect, run,
} = require('../node');
const postgres = load('postgres');

const options = process.env.PGOPTIONS;
const connect = (more = {}) => postgres({
  ...address, ssl, connect_timeout: 20, onnotice() {}, ...more, connection: { ...(options ? { options } : {}), ...more.connection },
});

run(async () => {
  for (const [name, more] of Object.entries({ require: { ssl: 'require' }, 'verify-full': {} })) {
    const sql = connect({ ...more, max: 1 });
    assert.deepEqual([...await sql`select 40 + 2 as n`], [{ n: 42 }]);
    await sql.end();
    ok(name);
  }
  const plain = connect({ ssl: false, max: 1 });
  await assert.rejects(plain`select 1`, /tls|ssl|encrypt/i);
  await plain.end();
  ok('plain-refused');

  const sql = connect({ max: 4 });
  await sql`create type pjs_mood as enum ('sad', 'ok')`;
  for (const [type, given] of [
    ['int4', 7], ['int8', '4611686018427387904'], ['float8', 1.5], ['text', 'naïve € 🐘 \\ \' "'], ['bool', true], ['text', null],
    ['jsonb', { a: [1, 'ü', null] }], ['bytea', Buffer.from([0, 255, 10])], ['numeric', '1234567890.000001'],
    ['timestamptz', new Date('2024-02-29T12:00:00.001Z')], ['pjs_mood', 'ok'], ['uuid', '6f1f9b2e-4f0b-4a35-9a55-0d3a4f9e2c11'],
  ]) {
    const [{ value }] = await sql`select ${given}::${sql.unsafe(type)} as value`;
    assert.deepEqual(value, given, type);
  }
  const [arrays] = await sql`select ${sql.array([1, 2, 3])}::int[] as numbers, ${sql.array(['a', 'b,}', 'ü'])}::text[] as texts`;
  assert.deepEqual({ ...arrays }, { numbers: [1, 2, 3], texts: ['a', 'b,}', 'ü'] });
  // An array of a type that it must look up in the catalog.
  const typed = connect({ max: 1, fetch_types: true });
  const [{ moods }] = await typed`select array['ok', 'sad']::pjs_mood[] as moods`;
  assert.deepEqual(moods, ['ok', 'sad']);
  await typed.end();
  ok('types');

  const doubled = (n) => sql`select ${n}::int * 2 as n`;
  for (let i = 0; i < 100; i++) assert.equal((await doubled(i))[0].n, i * 2);
  const described = await sql`select ${1}::int as a, ${'x'}::text as b`.describe();
  assert.deepEqual(described.types, [23, 25]);
  ok('prepared');

  // One connection, 300 statements without waiting, and a wrong one in the middle: it alone fails.
  const single = connect({ max: 1 });
  const many = await Promise.allSettled(Array.from({ length: 300 }, (_, i) => single`select ${1000}::int / ${i - 150}::int as n`));
  many.forEach((answer, i) => {
    if (i === 150) assert.equal(answer.reason.code, '22012');
    else assert.equal(answer.value[0].n, Math.trunc(1000 / (i - 150)));
  });
  // With other texts: each is prepared in the same flight.
  const texts = await Promise.all(Array.from({ length: 150 }, (_, i) => single.unsafe(`select ${i} as n, $1::int as m`, [i])));
  texts.forEach(([row], i) => assert.deepEqual({ ...row }, { n: i, m: i }));
  await single.end();
  ok('pipeline');

  await sql`create table pjs_t (id int primary key, v text)`;
  const rows = rowsOf(3000);
  await sql`insert into pjs_t ${sql(rows)}`;
  assert.equal((await sql.unsafe(serverChecksum('pjs_t')))[0].sum, checksum(rows));
  await rejects(sql.begin(async (tx) => {
    await tx`delete from pjs_t`;
    await rejects(tx.savepoint((point) => point`insert into pjs_t values (1, 'a'), (1, 'b')`), '23505');
    assert.equal((await tx`select count(*)::int as n from pjs_t`)[0].n, 0);
    throw Object.assign(new Error('changed my mind'), { code: 'mine' });
  }), 'mine');
  assert.equal((await sql`select count(*)::int as n from pjs_t`)[0].n, rows.length);
  const both = await sql.begin('isolation level serializable', (tx) => [tx`select 1 as n`, tx`show transaction_isolation`]);
  assert.equal(both[1][0].transaction_isolation, 'serializable');
  ok('transaction');

  const seen = [];
  await sql`select * from pjs_t order by id`.cursor(700, (part) => { seen.push(...part); });
  assert.deepEqual(seen.map((row) => ({ ...row })), rows);
  // Left in the middle.
  for await (const part of sql`select * from pjs_t order by id`.cursor(10)) {
    assert.equal(part.length, 10);
    break;
  }
  ok('cursors');

  const reserved = await sql.reserve();
  await reserved`set search_path = pg_catalog`;
  await reserved`create temp table pjs_temp as select 7 as n`;
  for (let i = 0; i < 5; i++) {
    const [row] = await reserved`select current_setting('search_path') as path, n from pg_temp.pjs_temp`;
    assert.deepEqual({ ...row }, { path: 'pg_catalog', n: 7 });
  }
  await reserved`drop table pg_temp.pjs_temp`;
  await reserved`reset search_path`;
  reserved.release();
  ok('settings');

  await rejects(sql`select * from nowhere`, '42P01');
  await rejects(sql`insert into pjs_t values (1, 'twice')`, '23505');
  await rejects(sql`selekt`, '42601');
  await rejects(sql`select ${'x'}::text::int`, '22P02');
  const simple = await sql.unsafe('select 1 as a; select 2 as b').simple();
  assert.deepEqual(simple.map(([row]) => ({ ...row })), [{ a: 1 }, { b: 2 }]);
  await rejects(sql.unsafe("insert into pjs_t values (-1, 'lost'); select 1/0").simple(), '22012');
  assert.equal((await sql`select count(*)::int as n from pjs_t where id = -1`)[0].n, 0);
  ok('errors');

  const sleeping = sql`select pg_sleep(60)`;
  sleeping.execute();
  await cancelled(sleeping, async () => sleeping.cancel());
  assert.equal((await sql`select 5 as n`)[0].n, 5);
  ok('cancel');

  await sql`create table pjs_copy (id int, v text)`;
  const lines = rowsOf(100000).map(({ id, v }) => `${id}\t${v.replaceAll('\\', '\\\\')}\n`);
  await pipeline(Readable.from(lines), await sql`copy pjs_copy from stdin`.writable());
  assert.equal((await sql.unsafe(serverChecksum('pjs_copy')))[0].sum, checksum(rowsOf(100000)));
  const back = [];
  for await (const chunk of await sql`copy (select * from pjs_copy order by id) to stdout`.readable()) back.push(chunk);
  assert.equal(Buffer.concat(back).toString(), lines.join(''));
  ok('copy');

  const [big] = await sql`select encode(sha256(v::bytea), 'hex') as sum, v from (select ${BIG}::text) x(v)`;
  assert.equal(big.sum, BIG_SHA256);
  assert.equal(big.v === BIG, true);
  ok('big-value');

  let listening;
  const heard = await collect(20, async (push) => {
    listening = await sql.listen('pjs_c', push);
    for (let i = 0; i < 20; i++) await sql.notify('pjs_c', `hello ${i}`);
  });
  assert.deepEqual(heard, Array.from({ length: 20 }, (_, i) => `hello ${i}`));
  await listening.unlisten();
  ok('notify');

  let closed;
  const isClosed = new Promise((resolve) => { closed = resolve; });
  const ending = connect({ max: 1, onclose: closed });
  await rejects(ending.unsafe(END_MYSELF.join('; ').replace('local ', '')).simple(), 'CONNECTION_CLOSED');
  await isClosed;
  // This version hands what the ended connection said last (an error without ReadyForQuery, half an answer) to
  // the first statement of the next connection, whatever it talks to.
  await ending`select 1`.catch(({ code }) => assert.equal(code, '57P01'));
  await ending`select 1`.catch(({ code }) => assert.equal(code, '57P01'));
  for (let i = 0; i < 20; i++) assert.equal((await ending`select ${i}::int as n`)[0].n, i);
  await ending.end();
  ok('reconnect');

  const wrong = connect({ password: 'wrong', max: 1 });
  await rejects(wrong`select 1`, '28P01');
  await wrong.end();
  ok('wrong-password');

  await sql`drop table pjs_t, pjs_copy`;
  await sql`drop type pjs_mood`;
  await sql.end();
  console.log('all postgres.js', version('postgres'));
});
