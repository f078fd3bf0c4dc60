/**
 * Flows that people try first, those that name the client, each walked from its first line to its last and with
 * sessions over the wire. The others are in `tests/system/flows.rs`, with a table of all.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { test } from 'node:test';

import pg from 'pg';
import { FileCredentialStore, instantDatabase } from 'tenantry';

import { ownClient, scratch, shared } from './server.js';

const ssl = { ca: readFileSync(shared().caFile, 'utf8') };

/** The parts of a connection string; `pg` would take `sslmode` for its own idea of verifying. */
function login(connectionString: string): pg.PoolConfig {
  const { hostname: host, port, username: user, password, pathname } = new URL(connectionString);
  return { host, port: Number(port), user, password: decodeURIComponent(password), database: pathname.slice(1), ssl };
}

/** The answer of one statement over the wire. */
async function ask(connectionString: string, text: string): Promise<unknown[][]> {
  const session = new pg.Client(login(connectionString));
  await session.connect();
  try {
    return (await session.query<unknown[]>({ text, rowMode: 'array' })).rows;
  } finally {
    await session.end();
  }
}

test('F2: a user signs up, and comes back: the same database, its seed not run again', async () => {
  const home = scratch();
  const signUp = (id: number) => instantDatabase({
    name: `user-${id}`, seed: 'CREATE TABLE notes (note text); CREATE TABLE settings (key text PRIMARY KEY, value jsonb)',
    // As two runs of a program on one machine do.
    baseUrl: shared().apiUrl, credentialStore: new FileCredentialStore(home),
  });
  try {
    const began = Date.now();
    const made = await signUp(17);
    assert.match(made.databaseId, /^[a-z][a-z0-9]{11}$/);
    assert.deepEqual([made.state, made.adminUser, made.seed], ['ACTIVE', `${made.databaseId}.admin`, 'ran']);
    assert.ok(Math.abs(new Date(made.createdAt).getTime() - began) < 600_000, made.createdAt);
    assert.equal(new URL(made.connectionString).password, made.adminPassword);
    await ask(made.connectionString, `INSERT INTO notes VALUES ('mine')`);

    const back = await signUp(17);
    assert.deepEqual(back, { ...made, seed: 'ran-before' });
    assert.deepEqual(await ask(back.connectionString, 'SELECT note, (SELECT count(*)::int FROM settings) FROM notes'), [['mine', 0]]);
    const other = await signUp(18);
    assert.notEqual(other.databaseId, made.databaseId);
    assert.deepEqual(await ask(other.connectionString, 'SELECT count(*)::int FROM notes'), [[0]]);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
});

test('F3: a task has a database while it runs, also when it fails', async () => {
  const client = await ownClient();
  const addresses: string[] = [];
  const task = async (work: (address: string) => Promise<unknown>): Promise<unknown> => {
    const { id, connection_string } = await client.databases.create({ name: `task-${randomUUID()}` });
    addresses.push(connection_string);
    try {
      return await work(connection_string);
    } finally {
      await client.databases.delete(id);
    }
  };
  assert.deepEqual(await task((address) => ask(address, 'CREATE TABLE t AS SELECT 7 AS n; SELECT 7').then(() => ask(address, 'TABLE t'))), [[7]]);
  await assert.rejects(task((address) => ask(address, 'SELECT 1/0')), { code: '22012' });
  assert.deepEqual(await client.databases.list(), []);
  for (const address of addresses) await assert.rejects(ask(address, 'SELECT 1'), (error: { code?: string }) => error.code !== undefined);
});

test('F4: what is old enough is found in the list and deleted, and the rest stays', async () => {
  const { databases } = await ownClient();
  for (const name of ['ci-1', 'ci-2', 'keep']) await databases.create({ name });
  const between = new Date();
  await databases.create({ name: 'ci-3' });
  for (const { id, name, created_at } of await databases.list()) {
    if (name.startsWith('ci-') && new Date(created_at) <= between) await databases.delete(id);
  }
  assert.deepEqual((await databases.list()).map(({ name }) => name).sort(), ['ci-3', 'keep']);
  assert.deepEqual((await databases.list({ prefix: 'ci-', createdBefore: between })), []);
});

test('F7: a pool asks for a fresh connect token when the one it has is refused', async () => {
  const { databases } = await ownClient();
  const { id } = await databases.create({ name: 'app' });
  let token = await databases.connectToken(id, { role: 'admin', ttl_seconds: 60 });
  assert.ok(new Date(token.expires_at ?? 0).getTime() > Date.now());
  const { host, port, database, user } = token;
  const pool = new pg.Pool({ host, port, database, user, password: () => token.token, ssl, max: 2, idleTimeoutMillis: 1 });
  let asked = 0;
  const query = async (text: string): Promise<pg.QueryResult> => {
    try {
      return await pool.query(text);
    } catch (error) {
      if ((error as { code?: string }).code !== '28P01') throw error;
      asked++;
      token = await databases.connectToken(id, { role: 'admin', ttl_seconds: 60 });
      return pool.query(text);
    }
  };
  try {
    assert.deepEqual((await query('SELECT 1 AS one')).rows, [{ one: 1 }]);
    assert.equal(asked, 0);
    await databases.access.revoke(id, token.id);
    // Each proxy knows within a second. Sessions that are open stay; so this opens new ones.
    const until = Date.now() + 30_000;
    while (asked === 0 && Date.now() < until) {
      await query('SELECT 1');
      await new Promise<void>((resolve) => (pool.totalCount === 0 ? resolve() : pool.once('remove', () => resolve())));
    }
    assert.equal(asked, 1);
    assert.deepEqual((await query('SELECT 2 AS two')).rows, [{ two: 2 }]);
    assert.equal(asked, 1);
  } finally {
    await pool.end();
  }
});
