/** The client against the real program: each group of methods, scopes, and answers that are lost on the way. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { test } from 'node:test';

import pg from 'pg';
import { ApiError, AuthenticationError, ConflictError, ConnectionError, createDb9Client, createTenantryClient, InvalidRequestError,
  MemoryCredentialStore, NotFoundError, PermissionError, ServerError, SqlError, TenantryError, until, WaitError } from 'tenantry';

import { between, ownClient, shared } from './server.js';

test('a database is made, listed, found, limited, suspended, deleted and taken back', async () => {
  const { databases } = await ownClient();
  const made = await databases.create({ name: 'shop' });
  assert.ok(made.admin_password);
  assert.equal(await databases.keptConnectionString(made), made.connection_string);
  assert.deepEqual((await databases.list({ prefix: 'sh' })).map(({ id }) => id), [made.id]);
  assert.deepEqual(await databases.list({ prefix: 'other' }), []);
  assert.deepEqual(await databases.list({ createdBefore: new Date(Date.now() - 3_600_000) }), []);
  assert.equal((await databases.get('shop')).id, made.id);
  assert.equal((await databases.get(made.id)).name, 'shop');
  assert.equal(await databases.find('nowhere'), undefined);

  assert.equal((await databases.limits.update('shop', { statement_ms_max: 5000 })).effective.statement_ms_max, 5000);
  assert.equal((await databases.limits.replace('shop', { statement_ms_max: 4000 })).owner.statement_ms_max, 4000);
  assert.equal((await databases.limits.get('shop')).effective.statement_ms_max, 4000);

  assert.equal((await databases.suspend('shop')).state, 'SUSPENDED');
  const hopeless = await databases.waitFor('shop').then(() => assert.fail(), (e: unknown) => e);
  assert.ok(hopeless instanceof WaitError && hopeless.code === 'wait_hopeless');
  assert.equal((await databases.resume('shop')).state, 'ACTIVE');
  assert.equal((await databases.waitFor('shop')).id, made.id);

  const reset = await databases.resetPassword('shop');
  assert.notEqual(reset.admin_password, made.admin_password);
  assert.equal(await databases.keptConnectionString(made), reset.connection_string);

  await databases.delete('shop');
  await databases.waitFor(made.id, 'DISABLED');
  await assert.rejects(databases.get('shop'), NotFoundError);
  assert.equal((await databases.undelete(made.id)).id, made.id);
  assert.equal((await databases.waitFor('shop')).state, 'ACTIVE');
});

test('what a database does and has is seen', async () => {
  const { databases } = await ownClient();
  const { id } = await databases.create({ name: 'seen' });
  await databases.query('seen', 'CREATE TABLE looked_at (id int PRIMARY KEY)');
  await databases.query('seen', 'SELECT id FROM looked_at WHERE id = 4711');
  const seen = await databases.observability('seen', { order: 'recent', samples: 200 });
  assert.equal(seen.database_id, id);
  assert.ok(seen.samples.some(({ query }) => /FROM looked_at WHERE/.test(query)), JSON.stringify(seen.samples));
  assert.ok(!JSON.stringify(seen.samples).includes('4711'));
  assert.deepEqual((await databases.observability('seen', { samples: 0 })).samples, []);

  const tables = await databases.inspect('seen', 'tables');
  assert.equal(tables.length, 1);
  assert.ok(Object.values(tables[0] ?? {}).includes('looked_at'), JSON.stringify(tables));
  assert.ok(Array.isArray(await databases.inspect('seen', 'connections')));
  await assert.rejects(databases.observability('nowhere'), NotFoundError);
});

test('what failed in a database is in its log, without constants, and is counted', async () => {
  const { databases } = await ownClient();
  const { id } = await databases.create({ name: 'logged' });
  for (let n = 1; n <= 3; n += 1) await databases.sql('logged', `SELECT 4711 FROM missing_${n}`);
  const first = await until('lines of the log', async () => {
    const page = await databases.logs('logged', { type: 'error', since: '1h', limit: 2 });
    return page.has_more ? page : undefined;
  }, { timeoutMs: 60_000 });
  assert.equal(first.database_id, id);
  const { logs } = await databases.logs('logged', { type: 'error', limit: 2, cursor: first.next_cursor ?? '' });
  const lines = [...first.logs, ...logs];
  assert.deepEqual([1, 2, 3].map((n) => lines.filter((line) => JSON.stringify(line).includes(`missing_${n}`)).length), [1, 1, 1]);
  assert.ok(!JSON.stringify(lines).includes('4711'));
  assert.deepEqual((await databases.logs('logged', { type: 'slow' })).logs, []);
  assert.equal((await databases.logStats('logged', { since: '1h' })).error_count, 3);
  assert.equal((await databases.metrics('logged')).database_id, id);
  await assert.rejects(databases.logs('nowhere'), NotFoundError);
});

test('migrations that were recorded in a database are listed, and none of one that has had none', async () => {
  const { databases } = await ownClient();
  await databases.create({ name: 'migrated' });
  assert.deepEqual(await databases.listMigrations('migrated'), []);
  // As `tenantry migration up` makes them.
  await databases.sql('migrated', `CREATE SCHEMA tenantry_migrations;
    CREATE TABLE tenantry_migrations.applied (name text PRIMARY KEY, checksum text NOT NULL,
      began_at timestamptz NOT NULL DEFAULT clock_timestamp(), applied_at timestamptz);
    INSERT INTO tenantry_migrations.applied VALUES ('20261121093000_b.sql', 'f00d', '2026-11-21T09:30:00Z', NULL),
      ('20261120093000_a.sql', 'beef', '2026-11-20T09:30:00Z', '2026-11-20T09:30:01Z')`);
  const listed = await databases.listMigrations('migrated');
  assert.deepEqual(listed.map(({ name, checksum }) => [name, checksum]), [['20261120093000_a.sql', 'beef'], ['20261121093000_b.sql', 'f00d']]);
  const [first, second] = listed;
  assert.equal(second?.applied_at, null);
  assert.equal(Date.parse(first?.applied_at ?? '') - Date.parse(first?.began_at ?? ''), 1000);
  await assert.rejects(databases.listMigrations('nowhere'), NotFoundError);
});

test('rules of alerts are written and removed; what is open is listed', async () => {
  const { alerts, databases } = await ownClient();
  const { id } = await databases.create({ name: 'watched' });
  const own = async () => (await alerts.rules()).filter((rule) => rule.id !== null && rule.id !== undefined);
  assert.deepEqual(await own(), []);
  const rule = await alerts.setRule({ kind: 'size', database: 'watched', threshold: 1, for_seconds: 0 });
  assert.deepEqual([rule.database_id, rule.threshold, rule.enabled], [id, 1, true]);
  assert.deepEqual((await own()).map((one) => one.id), [rule.id]);
  await alerts.removeRule(rule.id ?? '');
  assert.deepEqual(await own(), []);
  await assert.rejects(alerts.removeRule(rule.id ?? ''), NotFoundError);
  assert.deepEqual(await alerts.list({ state: 'open', limit: 10 }), []);

  assert.equal((await alerts.target()).url ?? null, null);
  // Owners' webhooks are public addresses, and what is not set cannot be tried.
  await assert.rejects(alerts.setTarget({ url: 'https://127.0.0.1/hook' }), PermissionError);
  await assert.rejects(alerts.test(), ApiError);
});

test('a database is backed up, changed, and becomes what it was; or a new one', async () => {
  const { databases, backups } = await ownClient();
  const { id } = await databases.create({ name: 'kept' });
  await databases.query('kept', 'CREATE TABLE note AS SELECT 1 AS v');
  const made = await backups.waitFor((await backups.create('kept')).id);
  assert.deepEqual([made.database_id, made.kind, made.state, made.rows], [id, 'manual', 'ready', 1]);
  assert.equal((await backups.verify(made.id)).verify_error, null);

  await databases.query('kept', 'UPDATE note SET v = 2');
  const restore = await backups.waitForRestore((await backups.restore(made.id)).id);
  assert.equal(restore.mode, 'in_place');
  assert.deepEqual((await databases.query('kept', 'SELECT v FROM note')).rows, [{ v: 1 }]);
  const beside = await backups.restore(made.id, { name: 'beside' });
  assert.ok(beside.database?.admin_password);
  await backups.waitForRestore(beside.id);
  assert.deepEqual((await databases.query('beside', 'SELECT v FROM note')).rows, [{ v: 1 }]);

  // What was replaced is a backup, too.
  assert.deepEqual((await backups.list('kept')).map(({ kind }) => kind).sort(), ['manual', 'safety']);
  assert.equal((await backups.list()).length, 2);
  assert.equal((await backups.delete(made.id)).state, 'deleting');
  await assert.rejects(backups.get('bkp_aaaaaaaaaaaa'), NotFoundError);

  const set = await backups.setSchedule('kept', { every: '6h', keep: 3 });
  assert.deepEqual([set.every, set.keep, set.own.keep_for ?? null], ['6h', 3, null]);
  assert.deepEqual(await backups.setSchedule('kept', {}).then(({ every }) => every), 'never');
});

test('SQL gives typed rows; a refusal is in the result of sql, and thrown by query', async () => {
  const { databases } = await ownClient();
  await databases.create({ name: 'sql' });
  await databases.query('sql', 'CREATE TABLE t (id int, v jsonb)');
  const { rows, rowCount } = await databases.query<{ id: number; v: unknown }>('sql',
    'INSERT INTO t VALUES ($1, $2) RETURNING *', [7, { a: [1] }]);
  assert.deepEqual([rows, rowCount], [[{ id: 7, v: { a: [1] } }], 1]);

  assert.equal((await databases.sql('sql', 'SELECT * FROM nowhere')).error?.code, '42P01');
  const error = await databases.query('sql', 'SELECT * FROM nowhere').then(() => assert.fail(), (e: unknown) => e);
  assert.ok(error instanceof SqlError);
  assert.deepEqual([error.code, error.sqlstate, error.position], ['sql_error', '42P01', 15]);
  assert.equal((await databases.sqlFile('sql', 'SELECT 1; SELECT 2')).rows[0]?.[0], 2);
});

test('errors have a class, a code, a status, a hint and the id of the request', async () => {
  const { databases } = await ownClient();
  // An anonymous project may have five.
  for (const name of ['taken', 'b', 'c', 'd', 'e']) await databases.create({ name });
  for (const [what, Kind, code, status] of [
    [() => databases.create({ name: 'taken' }), ConflictError, 'name_taken', 409],
    [() => databases.get('nowhere'), NotFoundError, 'database_not_found', 404],
    [() => databases.create({ name: 'Not A Name' }), InvalidRequestError, 'invalid_name', 400],
    [() => databases.create({ name: 'sixth' }), PermissionError, 'quota_exceeded', 403],
    [() => createTenantryClient({ baseUrl: shared().apiUrl, token: 'wrong' }).auth.me(), AuthenticationError, 'invalid_token', 401],
  ] as const) {
    const error = await what().then(() => assert.fail(code), (e: unknown) => e);
    assert.ok(error instanceof Kind && error instanceof TenantryError, `${code}: ${String(error)}`);
    assert.deepEqual([error.code, error.status, error.statusCode], [code, status, status]);
    assert.ok(error.hint !== '' && error.requestId !== undefined, code);
  }
  assert.throws(() => createTenantryClient({ baseUrl: 'http://name:secret@example.com' }), { code: 'invalid_option' });
  for (const name of ['', '.', '..']) await assert.rejects(databases.delete(name), { code: 'invalid_option' });
  await assert.rejects(databases.get('a/../b'), NotFoundError);
});

test('a create whose answer is lost is done once: the repetition carries the same key', async () => {
  const net = await between(shared().apiUrl, (method, path, count) =>
    method === 'POST' && path.startsWith('/customer/databases') && count <= 3 ? (count === 2 ? 'lose-answer' : 'lose-request') : 'pass');
  try {
    const store = new MemoryCredentialStore();
    await createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: store }).auth.me();
    const kept = await store.read(shared().apiUrl);
    const client = createTenantryClient({ baseUrl: net.url, token: kept.anonymous?.token, retryDelay: 5,
      credentialStore: new MemoryCredentialStore() });
    const made = await client.databases.create({ name: 'once' });
    assert.ok(made.admin_password, 'the answer of the first is given again, with its password');
    assert.equal(new Set(net.keys).size, 1);
    assert.equal(net.seen.length, 4);
    assert.equal((await client.databases.list()).length, 1);
  } finally {
    await net.stop();
  }
});

test('SQL is sent once when its answer is lost, and again when it did not begin', async () => {
  const busy = JSON.stringify({ code: 'too_many_requests', message: 'too many', hint: 'later' });
  let mode: 'busy' | 'lose' = 'busy';
  let count = 0;
  const net = await between(shared().apiUrl, (_, path) => {
    if (!path.endsWith('/sql')) return 'pass';
    count++;
    if (mode === 'lose') return 'lose-answer';
    return count < 3 ? { status: 429, body: busy, headers: { 'retry-after': '0' } } : 'pass';
  });
  try {
    const client = await ownClient(net.url);
    await client.databases.create({ name: 'once' });
    await client.databases.query('once', 'CREATE TABLE t (id int)');
    assert.equal(count, 3);
    mode = 'lose';
    const error = await client.databases.query('once', 'INSERT INTO t VALUES (1)').then(() => assert.fail(), (e: unknown) => e);
    assert.ok(error instanceof ConnectionError);
    assert.equal(error.code, 'connection_lost');
    assert.equal(count, 4);
    mode = 'busy';
    assert.deepEqual((await client.databases.query('once', 'SELECT * FROM t')).rows, [{ id: 1 }]);
  } finally {
    await net.stop();
  }
});

test('trying again ends, and the last error is the one that is thrown', async () => {
  const body = JSON.stringify({ code: 'draining', message: 'this server is stopping', hint: 'again' });
  const net = await between(shared().apiUrl, () => ({ status: 503, body }));
  try {
    const client = createTenantryClient({ baseUrl: net.url, token: 'x', maxRetries: 2, retryDelay: 1 });
    await assert.rejects(client.auth.me(), (error) => error instanceof ServerError && error.code === 'draining');
    assert.equal(net.seen.length, 3);
  } finally {
    await net.stop();
  }
});

test('a body that is not ours is an error with its status, and a redirect is not followed', async () => {
  const html = await between(shared().apiUrl, () => ({ status: 413, body: '<html>too large</html>' }));
  const away = await between(shared().apiUrl, () => ({ status: 302, body: '', headers: { location: shared().apiUrl } }));
  const good = await between(shared().apiUrl, () => ({ status: 200, body: 'hello' }));
  try {
    const ask = (baseUrl: string) => createTenantryClient({ baseUrl, token: 'x', maxRetries: 0 }).auth.me();
    await assert.rejects(ask(html.url), { name: 'ConnectionError', code: 'unreadable_response', status: 413 });
    await assert.rejects(ask(good.url), { name: 'ConnectionError', code: 'unreadable_response', status: 200 });
    await assert.rejects(ask(away.url), { name: 'ConnectionError' });
  } finally {
    await Promise.all([html.stop(), away.stop(), good.stop()]);
  }
});

test('nobody there, no answer in time, and a caller that goes away are told apart', async () => {
  const silent = createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const address = silent.address();
  const url = typeof address === 'object' ? `http://127.0.0.1:${address?.port}` : '';
  const ask = (baseUrl: string, signal?: AbortSignal) =>
    createTenantryClient({ baseUrl, token: 'x', maxRetries: 0, timeout: 50 }).auth.me({ signal });
  try {
    await assert.rejects(ask(url), { code: 'timeout' });
    const stop = new AbortController();
    const asked = createTenantryClient({ baseUrl: url, token: 'x' }).auth.me({ signal: stop.signal });
    stop.abort(new Error('gone'));
    await assert.rejects(asked, { message: 'gone' });
  } finally {
    silent.closeAllConnections();
    await new Promise((resolve) => silent.close(resolve));
  }
  await assert.rejects(ask(url), { code: 'unreachable' });
});

test('a sweep takes what has the prefix and the age, and says before what it would take', async () => {
  const { databases } = await ownClient();
  for (const name of ['ci-1', 'ci-2', 'keep']) await databases.create({ name });
  const names = (found: { name: string }[]): string[] => found.map(({ name }) => name).sort();
  assert.deepEqual(names((await databases.sweep({ prefix: 'ci-', dryRun: true })).databases), ['ci-1', 'ci-2']);
  assert.deepEqual(names((await databases.sweep({ prefix: 'ci-', olderThan: '1h' })).databases), []);
  assert.equal((await databases.list()).length, 3);
  const swept = await databases.sweep({ prefix: 'ci-' });
  assert.deepEqual([names(swept.databases), swept.more], [['ci-1', 'ci-2'], false]);
  assert.deepEqual(names(await databases.list()), ['keep']);
  for (const all of [{}, { prefix: '' }, { prefix: '', olderThan: '1d' }]) {
    await assert.rejects(databases.sweep(all), { code: 'invalid_option' });
  }
});

test('a database is renamed, and expires when it was told to', async () => {
  const { databases } = await ownClient();
  const made = await databases.create({ name: 'before', expires: '2h' });
  assert.ok(Math.abs(new Date(made.expires_at ?? 0).getTime() - Date.now() - 7_200_000) < 600_000);
  const renamed = await databases.rename('before', 'behind');
  assert.deepEqual([renamed.id, renamed.name, renamed.expires_at], [made.id, 'behind', made.expires_at]);
  const moment = new Date(Date.now() + 86_400_000);
  assert.equal(new Date((await databases.expires('behind', moment)).expires_at ?? 0).getTime(), moment.getTime());
  assert.equal((await databases.expires('behind', null)).expires_at ?? null, null);
  await databases.expires(made.id, new Date(Date.now() + 1000));
  await databases.waitFor(made.id, 'DISABLED', { timeoutMs: 60_000 });
});

test('a token does what its scope allows, is listed without its text, and is refused when it is revoked', async () => {
  const { databases, tokens, baseUrl } = await ownClient();
  const [seen, hidden] = [await databases.create({ name: 'seen' }), await databases.create({ name: 'hidden' })];
  const made = await tokens.create({ name: 'ci-deploy', expires_in_days: 90, databases: [{ id: seen.id, access: 'ro' }] });
  assert.ok(made.token);
  const scoped = createTenantryClient({ baseUrl, token: made.token, credentialStore: new MemoryCredentialStore() });
  assert.equal((await scoped.databases.query('seen', 'SELECT 1 AS one')).rows[0]?.['one'], 1);
  await assert.rejects(scoped.databases.query('seen', 'CREATE TABLE t (id int)'), { name: 'SqlError' });
  await assert.rejects(scoped.databases.get(hidden.id), { code: 'not_in_scope', status: 403 });
  await assert.rejects(scoped.databases.delete('seen'), { status: 403 });

  const listed = (await tokens.list()).find(({ id }) => id === made.id);
  assert.deepEqual([listed?.name, listed?.scope, listed?.token], ['ci-deploy', `${seen.id}:ro`, undefined]);
  await tokens.revoke(made.id);
  await assert.rejects(scoped.auth.me(), AuthenticationError);
});

test('a connect token and a share log in as their roles, and are listed and revoked', async () => {
  const { databases } = await ownClient();
  const { id } = await databases.create({ name: 'open' });
  await databases.query('open', 'CREATE TABLE t (id int)');
  const token = await databases.connectToken('open', { ttl_seconds: 60 });
  assert.deepEqual([token.user, token.database, token.expires_in_seconds], [`${id}.admin`, 'postgres', 60]);
  const share = await databases.share('open', { name: 'for a colleague' });
  for (const [address, may] of [[token.connection_string, true], [share.connection_string, false]] as const) {
    const { hostname: host, port, username: user, password } = new URL(address);
    const session = new pg.Client({ host, port: Number(port), user, password: decodeURIComponent(password), database: 'postgres',
      ssl: { ca: readFileSync(shared().caFile, 'utf8') } });
    await session.connect();
    try {
      const insert = session.query('INSERT INTO t VALUES (1)');
      if (may) await insert;
      else await assert.rejects(insert, { code: '42501' });
    } finally {
      await session.end();
    }
  }
  const kinds = async () => (await databases.access.list('open')).map(({ kind }) => kind);
  assert.deepEqual((await kinds()).filter((kind) => kind !== 'password').sort(), ['connect', 'key']);
  for (const { id: one, kind } of await databases.access.list('open')) {
    if (kind !== 'password') await databases.access.revoke('open', one);
  }
  assert.deepEqual((await kinds()).filter((kind) => kind !== 'password'), []);
});

test('a user of a database logs in as its role, within its limit, and is deleted', async () => {
  const { databases } = await ownClient();
  const { id } = await databases.create({ name: 'peopled' });
  await databases.query('peopled', 'CREATE TABLE t (id int)');
  const made = await databases.users.create('peopled', { username: 'ann', role: 'ro', client_connections_max: 1 });
  assert.equal(made.user, `${id}.ann`);
  const { hostname: host, port } = new URL(made.connection_string);
  const open = async (password: string): Promise<pg.Client> => {
    const session = new pg.Client({ host, port: Number(port), user: made.user, password, database: 'postgres',
      ssl: { ca: readFileSync(shared().caFile, 'utf8') } });
    session.on('error', () => undefined);
    await session.connect();
    return session;
  };
  const session = await open(made.password);
  await session.query('SELECT * FROM t');
  await assert.rejects(session.query('INSERT INTO t VALUES (1)'), { code: '42501' });
  await assert.rejects(open(made.password), { code: '53300' });
  await session.end();
  await assert.rejects(databases.users.create('peopled', { username: 'ann' }), { code: 'user_exists' });
  assert.equal((await databases.users.setConnections('peopled', 'ann', 0)).client_connections_max ?? null, null);
  const renewed = await databases.users.resetPassword('peopled', 'ann');
  await (await open(renewed.password)).end();
  assert.deepEqual((await databases.users.list('peopled')).map(({ username, role }) => [username, role]), [['ann', 'read']]);
  await databases.users.delete('peopled', 'ann');
  assert.deepEqual(await databases.users.list('peopled'), []);
  await assert.rejects(databases.users.delete('peopled', 'ann'), NotFoundError);
});

test("an anonymous project's databases are adopted, with their data and addresses", async () => {
  const [from, to] = [await ownClient(), await ownClient()];
  const { id, connection_string } = await from.databases.create({ name: 'moving' });
  const { anonymous_id: project = '' } = await from.auth.me();
  const secret = { anonymous_customer_id: project ?? '', anonymous_secret: (await from.auth.getAnonymousSecret()) ?? '' };
  assert.equal((await to.auth.adoptPreflight(secret)).eligible, true);
  for (const moved of [1, 0]) {
    assert.equal((await to.auth.adopt({ ...secret, database_ids: [id] })).adopted, moved);
  }
  assert.equal((await to.databases.get('moving')).id, id);
  assert.ok(connection_string.includes(id));
  await assert.rejects(from.databases.get(id), NotFoundError);
  await assert.rejects(to.auth.claim({ code: 'no-such-code' }), { name: /Error$/ });
});

test('a branch is a copy with an address of its own; it differs, and is set back', async () => {
  const { databases } = await ownClient();
  const parent = await databases.create({ name: 'production' });
  await databases.batch('production', ['CREATE TABLE users (id int)', 'INSERT INTO users VALUES (1), (2)']);
  const made = await databases.branch('production', { name: 'preview-42', expires: '2h' });
  assert.ok(made.admin_password && made.id !== parent.id);
  assert.equal(made.parent_database_id, parent.id);
  assert.equal(await databases.keptConnectionString(made), made.connection_string);
  await databases.waitFor(made.id, 'ACTIVE', { timeoutMs: 300_000 });
  assert.deepEqual((await databases.branches('production')).map(({ id }) => id), [made.id]);

  await databases.batch('preview-42', ['ALTER TABLE users ADD COLUMN plan text', 'INSERT INTO users VALUES (3)']);
  await databases.query('production', 'DELETE FROM users WHERE id = 1');
  const count = async (name: string) => (await databases.query(name, 'SELECT count(*)::int AS n FROM users')).rows[0]?.['n'];
  assert.deepEqual([await count('production'), await count('preview-42')], [1, 3]);
  const diff = await databases.diff('preview-42');
  assert.equal(diff.same_schema, false);
  assert.deepEqual(diff.rows.map(({ parent: here, branch }) => [here, branch]), [[1, 3]]);

  await databases.reset('preview-42');
  await databases.waitFor(made.id, 'ACTIVE', { timeoutMs: 300_000 });
  assert.equal(await count('preview-42'), 1);
  assert.equal((await databases.diff('preview-42')).same_schema, true);
  await databases.delete('preview-42');
  assert.equal((await databases.get('production')).id, parent.id);
});

test('a batch is one transaction: all of it is done, or nothing', async () => {
  const { databases } = await ownClient();
  await databases.create({ name: 'batch' });
  const done = await databases.batch('batch', [
    'CREATE TABLE t (id int CONSTRAINT positive CHECK (id > 0))',
    ['INSERT INTO t VALUES ($1), ($2)', [1, 2]],
    'SELECT sum(id)::int AS sum FROM t',
  ], { isolation: 'serializable' });
  assert.deepEqual(done.map(({ command, rowCount }) => [command, rowCount]), [['CREATE TABLE', 0], ['INSERT', 2], ['SELECT', 1]]);
  assert.deepEqual(done[2]?.rows, [{ sum: 3 }]);
  const error = await databases.batch('batch', ['INSERT INTO t VALUES (3)', ['INSERT INTO t VALUES ($1)', [-1]]]).then(() => assert.fail(), (e: unknown) => e);
  assert.ok(error instanceof SqlError);
  assert.deepEqual([error.sqlstate, error.statement, error.constraint, error.table], ['23514', 1, 'positive', 't']);
  assert.deepEqual((await databases.query('batch', 'SELECT count(*)::int AS n FROM t')).rows, [{ n: 2 }]);
  await assert.rejects(databases.batch('batch', ['DELETE FROM t'], { readOnly: true }), { sqlstate: '25006' });
});

test('a project is registered once by many first calls, and a token that was refused is renewed', async () => {
  const credentialStore = new MemoryCredentialStore();
  const client = createDb9Client({ baseUrl: shared().apiUrl, credentialStore });
  const ids = await Promise.all(Array.from({ length: 20 }, async () => (await client.auth.me()).id));
  assert.equal(new Set(ids).size, 1);

  await credentialStore.exclusively(client.baseUrl, async (store) => {
    const kept = await store.read();
    await store.write({ ...kept, anonymous: { ...kept.anonymous!, token: 'tnt_expired' } });
  });
  const again = await Promise.all(Array.from({ length: 20 }, async () => (await client.auth.me()).id));
  assert.deepEqual(new Set(again), new Set(ids));

  const { anonymous } = await credentialStore.read(client.baseUrl);
  const refreshed = await client.auth.anonymousRefresh(anonymous!);
  assert.equal(await client.auth.token(), refreshed.token);
  assert.equal(await client.auth.getAnonymousSecret(), anonymous?.anonymous_secret);
  await assert.rejects(client.auth.anonymousRefresh({ ...anonymous!, anonymous_secret: 'sk_anon_wrong' }), AuthenticationError);
});
