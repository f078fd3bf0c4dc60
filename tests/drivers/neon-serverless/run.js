// @neondatabase/serverless in its HTTP mode: every query is one request to the API, over TLS.
// See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const { spawnSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');

// `fetch` reads the certificate to verify against when the program starts.
if (!process.env.NODE_EXTRA_CA_CERTS) {
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: process.env.ROOT_CERT };
  const { status } = spawnSync(process.execPath, [__filename], { env, stdio: 'inherit' });
  process.exit(status ?? 1);
}

const { load, version, address, rowsOf, checksum, serverChecksum, ok, rejects, run } = require('../node');
const { neon, neonConfig, NeonDbError, types } = load('@neondatabase/serverless');

// The one thing to say to it: where the API is. By itself it would take the host of the address, and port 443.
const endpoint = `${process.env.API_URL}/sql`;
neonConfig.fetchEndpoint = endpoint;

const [tenant] = address.user.split('.');
const dsn = (more = {}) => {
  const { user, password } = { ...address, ...more };
  const url = new URL(`postgresql://${user}:${encodeURIComponent(password)}@${address.host}:${address.port}/postgres`);
  if (process.env.PGOPTIONS) url.searchParams.set('options', process.env.PGOPTIONS);
  return url.href;
};

async function operator(path) {
  const answer = await fetch(`${process.env.API_URL}/customer/databases/${tenant}${path}`, {
    method: 'POST', headers: { authorization: `Bearer ${process.env.OPERATOR_KEY}` },
  });
  assert.equal(answer.status, 200, await answer.text());
}

// Waits for a condition, asking again for at most 20 s.
async function until(condition) {
  for (const end = Date.now() + 20000; ; await new Promise((resolve) => { setTimeout(resolve, 50); })) {
    if (await condition()) return;
    assert.ok(Date.now() < end, 'it did not come true');
  }
}

run(async () => {
  const sql = neon(dsn());
  assert.match(endpoint, /^https:/);
  assert.deepEqual(await sql`select 40 + 2 as n`, [{ n: 42 }]);
  // The certificate is verified: with one that is not known there is no answer.
  const strange = spawnSync(process.execPath, ['-e', `fetch(${JSON.stringify(endpoint)}).then(() => process.exit(7), () => process.exit(0))`], { env: {} });
  assert.equal(strange.status, 0);
  ok('verify-full');

  await sql`create type mood as enum ('sad', 'ok')`;
  for (const [type, given, back = given] of [
    ['int4', 7], ['int8', '4611686018427387904'], ['float8', 1.5], ['float8', NaN], ['bool', true], ['bool', false], ['text', null],
    ['text', 'naïve € 🐘 \\ \' "\n'], ['text', ''], ['jsonb', { a: [1, 'ü', null] }], ['bytea', Buffer.from([0, 255, 10])],
    ['numeric', '1234567890123456789.000001'], ['timestamptz', new Date('2024-02-29T12:00:00.001Z')],
    ['uuid', '6f1f9b2e-4f0b-4a35-9a55-0d3a4f9e2c11'], ['int4[]', [1, null, 3]], ['int4[]', [[1, 2], [3, 4]]], ['text[]', ['a', 'b,}"\\', 'ü', '']],
    ['mood', 'ok'], ['json', JSON.stringify([1, { b: 2 }]), [1, { b: 2 }]], ['interval', '1 day', { days: 1 }], ['date', '2024-02-29', new Date(2024, 1, 29)],
  ]) {
    const [{ value }] = await sql.query(`select $1::${type} as value`, [given]);
    assert.deepEqual(value, type === 'interval' ? Object.assign(Object.create(Object.getPrototypeOf(value)), back) : back, type);
  }
  // As texts, for whoever brings parsers of their own.
  const raw = { getTypeParser: (oid) => (text) => `${oid}:${text}` };
  assert.deepEqual(await sql.query('select 7::int8 as a, true as b', [], { types: raw }), [{ a: '20:7', b: '16:t' }]);
  assert.equal(types.builtins.INT8, 20);
  ok('types');

  const doubled = (n) => sql`select ${n}::int * 2 as n`;
  const many = await Promise.all(Array.from({ length: 10 }, (_, i) => doubled(i)));
  many.forEach(([row], i) => assert.equal(row.n, i * 2));
  assert.deepEqual(await sql`select ${"x'; drop table t; --"}::text as t, ${null}::int as n`, [{ t: "x'; drop table t; --", n: null }]);
  const table = sql.unsafe('pg_catalog.pg_class');
  assert.equal((await sql`select count(*) > 0 as some from ${table} where relname = ${'pg_class'}`)[0].some, true);
  ok('parameters');

  await sql`create table t (id int primary key, v text)`;
  const rows = rowsOf(2000);
  await sql`insert into t select id, v from json_to_recordset(${JSON.stringify(rows)}::json) as r(id int, v text)`;
  assert.equal((await sql.query(serverChecksum('t')))[0].sum, checksum(rows));
  const back = await sql`select * from t order by id`;
  assert.deepEqual(back, rows);
  ok('rows');

  const [, [counted], [level]] = await sql.transaction([
    sql`insert into t values (-1, 'new')`,
    sql`select count(*)::int as n from t`,
    sql`show transaction_isolation`,
  ], { isolationLevel: 'Serializable' });
  assert.deepEqual([counted.n, level.transaction_isolation], [2001, 'serializable']);
  // All or nothing.
  await rejects(sql.transaction((tx) => [tx`delete from t`, tx`insert into t values (1, 'a'), (1, 'b')`, tx`select 1`]), '23505');
  assert.equal((await sql`select count(*)::int as n from t`)[0].n, 2001);
  await rejects(sql.transaction([sql`delete from t`, sql`commit`, sql`select 1`]), '2D000');
  assert.equal((await sql`select count(*)::int as n from t`)[0].n, 2001);
  const read = { isolationLevel: 'RepeatableRead', readOnly: true, deferrable: true };
  await rejects(sql.transaction([sql`delete from t`], read), '25006');
  const shown = await sql.transaction([sql`show transaction_read_only`, sql`show transaction_deferrable`], read);
  assert.deepEqual(shown, [[{ transaction_read_only: 'on' }], [{ transaction_deferrable: 'on' }]]);
  ok('transaction');

  // Everything is sent at once: 200 statements in one request, with results in their order.
  const batch = await sql.transaction(Array.from({ length: 200 }, (_, i) => sql`select ${i}::int as n, pg_current_xact_id()::text as x`));
  batch.forEach(([row], i) => assert.equal(row.n, i));
  assert.equal(new Set(batch.map(([row]) => row.x)).size, 1);
  assert.deepEqual(await sql.transaction([]), []);
  ok('batch');

  const error = await rejects(sql`insert into t values (1, 'twice')`, '23505');
  assert.ok(error instanceof NeonDbError);
  assert.deepEqual([error.severity, error.table, error.constraint, error.schema], ['ERROR', 't', 't_pkey', 'public']);
  assert.match(error.detail, /\(id\)=\(1\)/);
  assert.equal((await rejects(sql`select nope from t`, '42703')).position, '8');
  await rejects(sql`select * from nowhere`, '42P01');
  await rejects(sql`selekt`, '42601');
  await rejects(sql`select ${'x'}::text::int`, '22P02');
  await rejects(sql.query('select 1; select 2'), '42601');
  await rejects(sql`copy t to stdout`, '0A000');
  const large = await rejects(sql`select generate_series(1, 1000000)`, '54000');
  assert.match(large.message, /rows/);
  ok('errors');

  const lists = neon(dsn(), { arrayMode: true });
  assert.deepEqual(await lists`select 1 as a, 2 as a`, [[1, 2]]);
  assert.deepEqual(await sql.query('select 1 as a', [], { arrayMode: true }), [[1]]);
  assert.deepEqual(await lists.transaction([sql`select 1 as a`]), [[[1]]]);
  ok('array-mode');

  const full = neon(dsn(), { fullResults: true });
  const result = await full`select id, v from t where id < 2 order by id`;
  assert.deepEqual([result.command, result.rowCount, result.rowAsArray, result.rows.length], ['SELECT', 3, false, 3]);
  assert.deepEqual(result.fields.map(({ name, dataTypeID, format }) => [name, dataTypeID, format]), [['id', 23, 'text'], ['v', 25, 'text']]);
  assert.ok(result.fields[0].tableID > 0 && result.fields[1].columnID === 2);
  const changed = await full`update t set v = v where id < 2`;
  assert.deepEqual([changed.command, changed.rowCount, changed.rows], ['UPDATE', 3, []]);
  const made = await full`create table u (a int)`;
  assert.deepEqual([made.command, made.rowCount], ['CREATE', null]);
  ok('full-results');

  // A wrong password, and a database that there is not: the same words, but for the name.
  const wrong = await rejects(neon(dsn({ password: 'wrong' }))`select 1`, '28P01');
  const none = await rejects(neon(dsn({ user: 'zzzzzzzzzzzz.admin' }))`select 1`, '28P01');
  assert.equal(wrong.message.replace(tenant, ''), none.message.replace('zzzzzzzzzzzz', ''));
  await rejects(neon(dsn({ user: 'operator', password: process.env.OPERATOR_KEY }))`show pools`, '28000');
  ok('wrong-password');

  // A token of the issuer instead of a password. Its key appears now, and is looked up when a token names it.
  const { publicKey, privateKey } = crypto.generateKeyPairSync('ed25519');
  const kid = crypto.randomUUID();
  const { keys } = JSON.parse(fs.readFileSync(process.env.ISSUER_KEYS));
  fs.writeFileSync(process.env.ISSUER_KEYS, JSON.stringify({ keys: [...keys, { ...publicKey.export({ format: 'jwk' }), kid }] }));
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const token = (more = {}) => {
    const claims = { iss: 'https://auth.example', aud: 'drivers', exp: Math.floor(Date.now() / 1000) + 60, tenant, scope: 'read', ...more };
    const signed = `${part({ alg: 'EdDSA', kid })}.${part(claims)}`;
    return `${signed}.${crypto.sign(null, Buffer.from(signed), privateKey).toString('base64url')}`;
  };
  const issued = (role, more) => neon(`postgresql://${tenant}.${role}@${address.host}/postgres`, { authToken: () => token(more) });
  assert.equal((await issued('read')`select count(*)::int as n from t`)[0].n, 2001);
  await rejects(issued('read')`delete from t`, '42501');
  await assert.rejects(issued('write')`delete from t`, /status 403.*token_scope/);
  await assert.rejects(issued('read', { tenant: 'zzzzzzzzzzzz' })`select 1`, /status 403.*token_wrong_database/);
  await assert.rejects(issued('read', { exp: 1 })`select 1`, /status 401.*expired_token/);
  assert.deepEqual(await issued('write', { scope: 'write' })`update t set v = v where id = 1 returning id`, [{ id: 1 }]);
  ok('auth-token');

  await operator('/suspend');
  await until(async () => (await sql`select 1`.catch(({ code }) => code)) === '55000');
  const suspended = await rejects(sql`select 1`, '55000');
  assert.match(suspended.message, /suspended/);
  await rejects(neon(dsn({ password: 'wrong' }))`select 1`, '28P01');
  await operator('/resume');
  await until(async () => Array.isArray(await sql`select 1`.catch(() => null)));
  ok('suspended');

  await sql.transaction([sql`drop table t, u`, sql`drop type mood`]);
  console.log('all @neondatabase/serverless', version('@neondatabase/serverless'));
});
