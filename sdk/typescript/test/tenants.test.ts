/** Requests and jobs never see the tenant of another, with both frameworks and while pools come and go. */
import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { before, test } from 'node:test';
import { setImmediate as nextTurn, setTimeout as later } from 'node:timers/promises';

import express from 'express';
import fastify from 'fastify';
import pg from 'pg';
import { createTenantryClient, MemoryCredentialStore, NotFoundError, until, type TenantryClient } from 'tenantry';
import { connectTokens, createTenants, fromHeader, fromJwt, fromSubdomain, type PoolsOptions, type Tenants } from 'tenantry/tenants';

import { shared } from './server.js';

const ca = readFileSync(shared().caFile, 'utf8');
/** An anonymous project may have five. */
const PROJECTS = 2;
const clients = new Map<string, TenantryClient>();
const logins = new Map<string, string>();
const names = () => [...logins.keys()];
const some = (at: number): string => names()[at % logins.size] ?? assert.fail();

before(async () => {
  for (let project = 0; project < PROJECTS; project++) {
    const client = createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: new MemoryCredentialStore() });
    for (let at = 0; at < 5; at++) {
      const name = `tenant-${project}-${at}`;
      const made = await client.databases.create({ name });
      await client.databases.sqlFile(name, `CREATE TABLE me (name text); INSERT INTO me VALUES ('${name}'); CREATE TABLE seen (id serial, name text)`);
      clients.set(name, client);
      logins.set(name, made.connection_string);
    }
  }
});

function tenantsWith(more: Partial<PoolsOptions<pg.Pool>> = {}): Tenants<pg.Pool> {
  return createTenants<pg.Pool>({
    Pool: pg.Pool,
    connect: async (tenant) => logins.get(tenant) ?? assert.fail(`asked for ${tenant}`),
    ssl: { ca },
    pool: { max: 2 },
    ...more,
  });
}

const marks = new AsyncLocalStorage<object>();

/** What handlers do: everything that could lose or mix up whose request it is. Gives every name that it saw. */
async function work(tenants: Tenants<pg.Pool>): Promise<string[]> {
  const saw = [tenants.current()];
  const ask = async (): Promise<void> => void saw.push((await tenants.query('SELECT name FROM me')).rows[0].name as string);
  await ask();
  await later(Math.random() * 20);
  await Promise.all([ask(), ask(), nextTurn().then(ask)]);
  await tenants.transaction(async (client) => {
    await client.query('INSERT INTO seen (name) VALUES ($1)', [tenants.current()]);
    await nextTurn();
    saw.push((await client.query('SELECT name FROM me')).rows[0].name as string);
  });
  const mine = {};
  await marks.run(mine, () => new Promise<void>((resolve, reject) => {
    // By a callback, which the pool calls when another request gives a connection back.
    tenants.pool().query('SELECT name FROM me', (error: Error | undefined, result: pg.QueryResult<{ name: string }>) => {
      if (error) return reject(error);
      assert.equal(marks.getStore(), mine, 'a callback runs in the context of its caller');
      saw.push(tenants.current(), result.rows[0]?.name ?? '');
      setTimeout(() => { saw.push(tenants.current()); resolve(); }, Math.random() * 5);
    });
  }));
  await ask();
  return saw;
}

const secret = 'of the test';
const sign = (text: string): string => createHmac('sha256', secret).update(text).digest('base64url');
function token(claims: Record<string, unknown>): string {
  const body = Buffer.from(JSON.stringify(claims)).toString('base64url');
  return `${body}.${sign(body)}`;
}
async function verify(given: string): Promise<Record<string, unknown>> {
  const [body = '', signature] = given.split('.');
  await nextTurn();
  if (sign(body) !== signature) throw new Error('signature');
  return JSON.parse(Buffer.from(body, 'base64url').toString()) as Record<string, unknown>;
}

const ways = {
  '/header': { from: fromHeader('X-Tenant'), headers: (tenant: string) => ({ 'x-tenant': tenant }) },
  '/subdomain': { from: fromSubdomain({ of: 'App.Example.com' }), headers: (tenant: string) => ({ host: `${tenant}.app.example.com:8080` }) },
  '/jwt': { from: fromJwt({ verify, claim: 'org' }), headers: (tenant: string) => ({ authorization: `Bearer ${token({ org: tenant })}` }) },
} as const;

/** Two hundred at once over few connections, so that they wait for each other and connections change hands. */
async function storm(port: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 50 });
  const paths = Object.entries(ways);
  const answers = await Promise.all(Array.from({ length: 200 }, async (_, at) => {
    const tenant = some(at * 7);
    const [path, { headers }] = paths[at % paths.length] ?? assert.fail();
    return { tenant, ...(await post(port, path, headers(tenant), { padding: 'x'.repeat(Math.random() * 50_000) }, agent)) };
  }));
  agent.destroy();
  for (const { tenant, status, body } of answers) {
    assert.equal(status, 200, JSON.stringify(body));
    assert.deepEqual(new Set(body.saw), new Set([tenant]));
    assert.equal(body.saw?.length, 10);
  }
  for (const name of names()) {
    const { rows } = await (clients.get(name) ?? assert.fail()).databases.query(name, 'SELECT DISTINCT name FROM seen');
    assert.deepEqual(rows, [{ name }]);
  }
}

interface Said { saw?: string[]; code?: string }
function post(port: number, path: string, headers: Record<string, string>, content: unknown, agent?: Agent): Promise<{ status: number; body: Said }> {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(content);
    const sent = httpRequest({ port, path, method: 'POST', host: '127.0.0.1', ...(agent ? { agent } : {}),
      headers: { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)), ...headers } }, (answer) => {
      let body = '';
      answer.on('data', (piece) => (body += piece));
      answer.on('end', () => resolve({ status: answer.statusCode ?? 0, body: JSON.parse(body) as Said }));
    });
    sent.on('error', reject);
    sent.end(text);
  });
}

async function withExpress(tenants: Tenants<pg.Pool>, then: (port: number) => Promise<void>): Promise<void> {
  const app = express();
  for (const [path, { from }] of Object.entries(ways)) app.use(path, tenants.express({ from }));
  app.use(express.json());
  app.post(/.*/, async (_, response) => void response.json({ saw: await work(tenants) }));
  app.use((error: { status?: number; code?: string }, _request: express.Request, response: express.Response, next: express.NextFunction) => {
    void next;
    response.status(error.status ?? 500).json({ code: error.code });
  });
  const server = app.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    await then((server.address() as AddressInfo).port);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

async function withFastify(tenants: Tenants<pg.Pool>, then: (port: number) => Promise<void>): Promise<void> {
  const app = fastify({ forceCloseConnections: true });
  for (const [path, { from }] of Object.entries(ways)) {
    await app.register(async (part) => {
      await part.register(tenants.fastify({ from }));
      part.post(path, async () => ({ saw: await work(tenants) }));
    });
  }
  app.post('/none', async () => ({ saw: await work(tenants) }));
  app.setErrorHandler((error: Error & { statusCode?: number; code?: string }, _, reply) =>
    reply.status(error.statusCode ?? 500).send({ code: error.code }));
  await app.listen({ port: 0, host: '127.0.0.1' });
  try {
    await then((app.server.address() as AddressInfo).port);
  } finally {
    await app.close();
  }
}

for (const [name, serve] of Object.entries({ Express: withExpress, Fastify: withFastify })) {
  test(`two hundred requests at once through ${name} never see another's tenant`, async () => {
    // Pools are closed and made again all the while.
    const tenants = tenantsWith({ idleMs: 20 });
    try {
      await serve(tenants, storm);
      await until('idle pools to be closed', async () => (tenants.tenants().length === 0 ? true : undefined), { timeoutMs: 10_000 });
    } finally {
      await tenants.close();
    }
  });

  test(`requests that name no tenant, or a wrong one, are refused by ${name} before a handler runs`, async () => {
    const tenants = tenantsWith({ connect: async (tenant) => {
      throw new NotFoundError(`no ${tenant}`, { code: 'database_not_found', status: 404 });
    } });
    try {
      await serve(tenants, async (port) => {
        for (const [path, headers, status, code] of [
          ['/header', {}, 400, 'tenant_required'],
          ['/header', { 'x-tenant': '../other' }, 400, 'invalid_tenant'],
          ['/header', { 'x-tenant': 'a, b' }, 400, 'invalid_tenant'],
          ['/header', { 'x-tenant': 'nobody' }, 404, 'unknown_tenant'],
          ['/subdomain', { host: 'app.example.com' }, 400, 'tenant_required'],
          ['/subdomain', { host: 'a.app.example.com.evil.org' }, 400, 'tenant_required'],
          ['/subdomain', { host: 'evilapp.example.com' }, 400, 'tenant_required'],
          ['/subdomain', { host: 'a.b.app.example.com' }, 400, 'invalid_tenant'],
          ['/jwt', {}, 401, 'invalid_token'],
          ['/jwt', { authorization: `Bearer ${token({ org: 'a' }).slice(0, -2)}` }, 401, 'invalid_token'],
          ['/jwt', { authorization: `Bearer ${token({ tenant: 'a' })}` }, 401, 'invalid_token'],
          ['/jwt', { authorization: `Bearer ${token({ org: ['a'] })}` }, 401, 'invalid_token'],
          ['/none', {}, 500, 'tenant_not_bound'],
        ] as const) {
          const answer = await post(port, path, { ...headers }, {});
          assert.deepEqual([answer.status, answer.body.code], [status, code], `${path} ${JSON.stringify(headers)}`);
        }
      });
    } finally {
      await tenants.close();
    }
  });
}

test('without a tenant everything throws; a job runs as one, inside another, and back', async () => {
  const tenants = tenantsWith();
  try {
    for (const what of [() => tenants.current(), () => tenants.pool(), () => tenants.query('SELECT 1')]) {
      assert.throws(what, { code: 'tenant_not_bound' });
    }
    await assert.rejects(tenants.transaction(async () => {}), { code: 'tenant_not_bound' });
    await assert.rejects(tenants.runAsTenant('', () => {}), { code: 'invalid_tenant' });
    assert.equal(tenants.isBound(), false);
    await tenants.runAsTenant(some(0), async () => {
      assert.deepEqual(new Set(await work(tenants)), new Set([some(0)]));
      await tenants.runAsTenant(some(1), async () => assert.deepEqual(new Set(await work(tenants)), new Set([some(1)])));
      assert.deepEqual(new Set(await work(tenants)), new Set([some(0)]));
    });
    assert.equal(tenants.isBound(), false);
  } finally {
    await tenants.close();
  }
  await assert.rejects(tenants.runAsTenant(some(0), () => tenants.query('SELECT 1')), { code: 'closed' });
});

test('a login that the server refuses is asked for again once, also by many at once', async () => {
  const name = some(3);
  const client = clients.get(name) ?? assert.fail();
  let asked = 0;
  const tenants = tenantsWith({ connect: async () => (asked++, logins.get(name) ?? assert.fail()), pool: { max: 4, idleTimeoutMillis: 1 } });
  const ask = () => tenants.runAsTenant(name, async () => (await tenants.query('SELECT name FROM me')).rows[0].name as string);
  try {
    assert.equal(await ask(), name);
    assert.equal(asked, 1);
    // The old password is refused from now on, and sessions with it have ended.
    logins.set(name, (await client.databases.resetPassword(name)).connection_string);
    await until('the old session to be gone', async () => {
      const { rows } = await client.databases.query<{ n: number }>(name, "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'");
      return rows[0]?.n === 0 ? true : undefined;
    }, { timeoutMs: 10_000 });
    assert.deepEqual(new Set(await Promise.all(Array.from({ length: 20 }, ask))), new Set([name]));
    assert.equal(asked, 2);

    const right = logins.get(name) ?? assert.fail();
    logins.set(name, right.replace(/:[^:@]+@/, ':wrong@'));
    const wrong = tenantsWith({ connect: async () => (asked++, logins.get(name) ?? assert.fail()) });
    await assert.rejects(wrong.runAsTenant(name, () => wrong.query('SELECT 1')), { code: '28P01' });
    assert.equal(asked, 4);
    logins.set(name, right);
    assert.equal((await wrong.runAsTenant(name, () => wrong.query('SELECT name FROM me'))).rows[0].name, name);
    await wrong.close();
  } finally {
    await tenants.close();
  }
});

test('a login is asked for again shortly before it expires', async () => {
  const name = some(4);
  const url = new URL(logins.get(name) ?? assert.fail());
  const login = { host: url.hostname, port: Number(url.port), database: 'postgres', user: url.username, password: url.password };
  let asked = 0;
  const tenants = tenantsWith({ pool: { max: 1, maxUses: 1 }, connect: async () =>
    ({ ...login, expiresAt: new Date(Date.now() + (asked++ === 0 ? 10_000 : 600_000)) }) });
  try {
    for (let at = 0; at < 4; at++) await tenants.runAsTenant(name, () => tenants.query('SELECT 1'));
    assert.equal(asked, 2);
  } finally {
    await tenants.close();
  }
});

test('connect tokens log in, one for many connections, and a revoked one is replaced', async () => {
  const name = some(2);
  const client = clients.get(name) ?? assert.fail();
  const tenants = tenantsWith({ connect: connectTokens(client), pool: { max: 4, idleTimeoutMillis: 1 } });
  const ask = () => tenants.runAsTenant(name, async () => (await tenants.query('SELECT name FROM me')).rows[0].name as string);
  const tokens = async () => (await client.databases.access.list(name)).filter(({ kind }) => kind === 'connect');
  try {
    assert.deepEqual(new Set(await Promise.all(Array.from({ length: 20 }, ask))), new Set([name]));
    const [first, ...more] = await tokens();
    assert.deepEqual([first?.role, more], ['write', []]);
    await client.databases.access.revoke(name, first?.id ?? '');
    // Refused within a second on every proxy; its open session stays, so a new connection has to be made each time.
    await until('another token', async () => (await ask(), (await tokens())[0]), { timeoutMs: 20_000 });
    assert.equal(await ask(), name);
    await assert.rejects(tenants.runAsTenant('nobody', () => tenants.query('SELECT 1')), { code: 'unknown_tenant', status: 404 });
  } finally {
    await tenants.close();
  }
});

test('pools are bounded: the one unused for longest goes, and none that is in use', async () => {
  const tenants = tenantsWith({ poolsMax: 2 });
  const use = (at: number) => tenants.runAsTenant(some(at), () => tenants.query('SELECT 1'));
  try {
    for (const at of [0, 1, 0, 2]) await use(at);
    assert.deepEqual(tenants.tenants(), [some(0), some(2)]);
    await tenants.runAsTenant(some(0), async () => {
      const pool = tenants.pool();
      await tenants.runAsTenant(some(2), async () => {
        tenants.pool();
        await assert.rejects(use(3), { code: 'too_many_tenants', status: 503 });
      });
      await use(3);
      assert.deepEqual(tenants.tenants(), [some(0), some(3)]);
      await pool.query('SELECT 1');
    });
  } finally {
    await tenants.close();
  }
});

test('certificates are verified unless one says otherwise', async () => {
  const tenants = tenantsWith({ ssl: undefined });
  await assert.rejects(tenants.runAsTenant(some(0), () => tenants.query('SELECT 1')), /self.signed|unable to verify/i);
  await tenants.close();
});

test('a transaction that fails is rolled back, and its connection is good for another', async () => {
  const tenants = tenantsWith({ pool: { max: 1 } });
  try {
    await tenants.runAsTenant(some(5), async () => {
      await assert.rejects(tenants.transaction(async (client) => {
        await client.query("INSERT INTO me VALUES ('lost')");
        throw new Error('no');
      }), { message: 'no' });
      assert.equal((await tenants.query('SELECT count(*)::int AS n FROM me')).rows[0].n, 1);
    });
  } finally {
    await tenants.close();
  }
});

