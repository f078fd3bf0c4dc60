/** `instantDatabase`: one database and one seed, however many ask and whatever breaks off. */
import assert from 'node:assert/strict';
import { fork, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';

import { createTenantryClient, FileCredentialStore, instantDatabase, MemoryCredentialStore, SeedError,
  type InstantDatabaseResult } from 'tenantry';

import { between, scratch, shared } from './server.js';

const SEED = 'CREATE TABLE memories (id serial PRIMARY KEY, note text); INSERT INTO memories (note) VALUES ($$first$$)';

async function options() {
  const credentialStore = new MemoryCredentialStore();
  return { baseUrl: shared().apiUrl, credentialStore };
}

test('a database is made and seeded once, and returned ever after', async () => {
  const common = await options();
  const first = await instantDatabase({ ...common, name: 'user-7', seed: SEED });
  assert.match(first.databaseId, /^[a-z0-9]{12}$/);
  assert.equal(first.seed, 'ran');
  assert.equal(first.state, 'ACTIVE');
  assert.equal(new URL(first.connectionString).password, first.adminPassword);

  const again = await instantDatabase({ ...common, name: 'user-7', seed: SEED });
  assert.deepEqual(again, { ...first, seed: 'ran-before' });

  const client = createTenantryClient(common);
  const { rows } = await client.databases.query<{ n: number }>('user-7', 'SELECT count(*)::int AS n FROM memories');
  assert.deepEqual(rows, [{ n: 1 }]);
});

test('fifty processes at once get one database with one seed, and the same address', async () => {
  const home = scratch();
  // Slow enough that all others come while it runs.
  const seed = `${SEED}; SELECT pg_sleep(1)`;
  const processes = Array.from({ length: 50 }, () =>
    fork(fileURLToPath(new URL('seeder.js', import.meta.url)), ['crowd', seed], {
      env: { ...process.env, TENANTRY_HOME: home, TENANTRY_API_URL: shared().apiUrl }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }));
  try {
    await Promise.all(processes.map((one) => message(one)));
    const answers = processes.map((one) => message<{ result: InstantDatabaseResult; error?: string }>(one));
    for (const one of processes) one.send('go');
    const results = (await Promise.all(answers)).map(({ result, error }) => result ?? assert.fail(error));

    assert.deepEqual(new Set(results.map(({ databaseId }) => databaseId)).size, 1);
    assert.equal(results.filter(({ seed: became }) => became === 'ran').length, 1);
    assert.equal(results.filter(({ seed: became }) => became === 'ran-before').length, 49);
    assert.equal(new Set(results.map(({ connectionString }) => connectionString)).size, 1);
    assert.notEqual(results[0]?.adminPassword, null);

    const client = createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: new FileCredentialStore(home) });
    assert.equal((await client.databases.list()).length, 1);
    const { rows } = await client.databases.query<{ n: number }>('crowd', 'SELECT count(*)::int AS n FROM memories');
    assert.deepEqual(rows, [{ n: 1 }]);
  } finally {
    for (const one of processes) one.kill();
    rmSync(home, { recursive: true, force: true });
  }
});

test('a seed that fails leaves nothing, is not taken for done, and may be mended', async () => {
  const common = { ...(await options()), name: 'broken' };
  const error = await instantDatabase({ ...common, seed: `${SEED}; SELECT 1/0` }).then(() => assert.fail(), (e: unknown) => e);
  assert.ok(error instanceof SeedError);
  assert.deepEqual([error.code, error.sqlstate], ['seed_failed', '22012']);

  const mended = await instantDatabase({ ...common, seed: SEED });
  assert.equal(mended.seed, 'ran');
  assert.equal(mended.databaseId, error.databaseId);
});

test('a seed that breaks a deferred rule fails at its end, and leaves nothing', async () => {
  const common = { ...(await options()), name: 'deferred' };
  const seed = `CREATE TABLE a (id int PRIMARY KEY, b int REFERENCES a DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1, 2)`;
  await assert.rejects(instantDatabase({ ...common, seed }), { code: 'seed_failed', sqlstate: '23503' });
  assert.equal((await instantDatabase({ ...common, seed: SEED })).seed, 'ran');
});

for (const [what, statement] of Object.entries({
  'ends its transaction': 'COMMIT',
  'rolls back': 'ROLLBACK; CREATE TABLE x (id int)',
  'makes an index concurrently': 'CREATE INDEX CONCURRENTLY ON memories (note)',
  vacuums: 'VACUUM memories',
})) {
  test(`a seed that ${what} is refused, and leaves nothing`, async () => {
    const common = { ...(await options()), name: 'untransactional' };
    await assert.rejects(instantDatabase({ ...common, seed: `${SEED}; ${statement}` }), { code: 'seed_not_transactional' });
    const { rows } = await createTenantryClient(common).databases.query('untransactional',
      `SELECT to_regclass('memories') AS left, to_regnamespace('tenantry_seeded') AS mark`);
    assert.deepEqual(rows, [{ left: null, mark: null }]);
  });
}

test('a seed may change the path, use every kind of quote, functions and comments', async () => {
  const common = { ...(await options()), name: 'quotes' };
  const seed = `-- a comment with 'a quote and $$
    SELECT pg_catalog.set_config('search_path', '', false);
    CREATE FUNCTION public.f() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN $$it's$$; END $f$;
    CREATE TABLE public."odd ""name""" (v text); INSERT INTO public."odd ""name""" VALUES (E'\\\\ \\' %'), (public.f());
    DO $x$ BEGIN PERFORM 1; END $x$; -- no line end`;
  assert.equal((await instantDatabase({ ...common, seedFile: seed })).seed, 'ran');
  const { rows } = await createTenantryClient(common).databases.query('quotes', 'SELECT v FROM "odd ""name""" ORDER BY v COLLATE "C"');
  assert.deepEqual(rows, [{ v: "\\ ' %" }, { v: "it's" }]);
  assert.equal((await instantDatabase({ ...common, name: 'nothing', seed: '-- nothing' })).seed, 'ran');
});

test('a database that somebody else filled is not seeded unless one says so', async () => {
  const common = { ...(await options()), name: 'filled' };
  const client = createTenantryClient(common);
  await client.databases.create({ name: 'filled' });
  await client.databases.query('filled', 'CREATE TABLE theirs (id int)');
  await assert.rejects(instantDatabase({ ...common, seed: SEED }), { code: 'database_not_empty' });
  assert.equal((await instantDatabase({ ...common, seed: SEED, whenNotEmpty: 'keep' })).seed, 'kept-away');
  assert.equal((await instantDatabase({ ...common, seed: SEED, whenNotEmpty: 'seed' })).seed, 'ran');
  assert.equal((await instantDatabase({ ...common, seed: SEED })).seed, 'ran-before');
});

test('when the answer about the seed is lost, it has run once all the same', async () => {
  let lost = 0;
  const net = await between(shared().apiUrl, (_, path) => (path.endsWith('/sql') && lost++ === 0 ? 'lose-answer' : 'pass'));
  try {
    const common = { baseUrl: net.url, credentialStore: new MemoryCredentialStore(), name: 'lost' };
    const result = await instantDatabase({ ...common, seed: SEED });
    assert.equal(result.seed, 'ran');
    assert.ok(lost > 1);
    const { rows } = await createTenantryClient(common).databases.query('lost', 'SELECT count(*)::int AS n FROM memories');
    assert.deepEqual(rows, [{ n: 1 }]);
  } finally {
    await net.stop();
  }
});

test('a password that is given is that of the new database', async () => {
  const common = { ...(await options()), name: 'given', adminPassword: 'correct horse & battery' };
  const made = await instantDatabase(common);
  assert.equal(made.adminPassword, common.adminPassword);
  // From a machine that has kept nothing but the project.
  const elsewhere = new MemoryCredentialStore();
  const { anonymous } = await common.credentialStore.read(common.baseUrl);
  await elsewhere.exclusively(common.baseUrl, (one) => one.write({ anonymous, connection_strings: {} }));
  const there = await instantDatabase({ ...common, credentialStore: elsewhere });
  assert.equal(decodeURIComponent(new URL(there.connectionString).password), common.adminPassword);
  const without = await instantDatabase({ ...common, adminPassword: undefined, credentialStore: elsewhere });
  assert.equal(without.adminPassword, null);
});

test('what makes no sense is refused before anything is sent', async () => {
  await assert.rejects(instantDatabase({ baseUrl: 'http://127.0.0.1:1', seed: 'a', seedFile: 'b' }), { code: 'invalid_option' });
  await assert.rejects(instantDatabase({ baseUrl: 'ftp://example.com' }), { code: 'invalid_option' });
});

function message<T = unknown>(child: ChildProcess): Promise<T> {
  return new Promise((resolve, reject) => {
    child.once('message', (value) => resolve(value as T));
    child.once('exit', (code) => reject(new Error(`ended with ${code} without a word`)));
  });
}
