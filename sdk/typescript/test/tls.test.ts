/** The API over TLS: trusted by its certificate, refused without it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, test } from 'node:test';

import { createTenantryClient, instantDatabase, MemoryCredentialStore } from 'tenantry';

import { shared, startServer, type Server } from './server.js';

let server: Server;
before(async () => {
  server = await startServer('--api-tls');
});
after(() => server.stop());

const store = () => new MemoryCredentialStore();

test('an API over TLS is trusted by its certificate, as a file or as its text', async () => {
  assert.match(server.apiUrl, /^https:/);
  const baseUrl = server.apiUrl;
  for (const ca of [server.caFile, readFileSync(server.caFile, 'utf8')]) {
    const result = await instantDatabase({ baseUrl, ca, credentialStore: store(), seed: 'CREATE TABLE t (id int)' });
    assert.equal(result.seed, 'ran');
  }
  const client = createTenantryClient({ baseUrl, ca: server.caFile, credentialStore: store() });
  await assert.rejects(client.databases.get('nowhere'), { code: 'database_not_found', status: 404 });
});

test('without it, or with that of another, it is refused', async () => {
  const ask = async (baseUrl: string, ca?: string) => createTenantryClient({ baseUrl, ca, token: 'x', credentialStore: store() }).auth.me();
  await assert.rejects(ask(server.apiUrl), { code: 'untrusted' });
  await assert.rejects(ask(server.apiUrl, shared().caFile), { code: 'untrusted' });
  await assert.rejects(ask(server.apiUrl, '/nowhere'), { code: 'invalid_option' });
});
