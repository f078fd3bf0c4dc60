/** The file of credentials, shared with the command line in both directions. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { createTenantryClient, FileCredentialStore } from 'tenantry';

import { bin, scratch, shared } from './server.js';

const run = promisify(execFile);

async function inHome(work: (home: string, cli: (...argv: string[]) => Promise<string>) => Promise<void>): Promise<void> {
  const home = join(scratch(), 'home');
  const env = { ...process.env, TENANTRY_HOME: home, TENANTRY_API_URL: shared().apiUrl };
  try {
    await work(home, async (...argv) => (await run(bin(), argv, { env })).stdout.trim());
  } finally {
    rmSync(join(home, '..'), { recursive: true, force: true });
  }
}

test('what the command line keeps the client uses, and the other way round', () =>
  inHome(async (home, cli) => {
    const made = JSON.parse(await cli('create', 'by-cli', '--json', '--show-connection-string')) as { id: string; connection_string: string };
    await cli('use', 'by-cli');
    const client = createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: new FileCredentialStore(home) });
    const found = await client.databases.get('by-cli');
    assert.equal(found.id, made.id);
    assert.equal(await client.databases.keptConnectionString(found), made.connection_string);

    const mine = await client.databases.create({ name: 'by-sdk' });
    assert.equal(await cli('db', 'connect', 'by-sdk', '--quiet'), mine.connection_string);
    assert.equal(await cli('db', 'connect', 'by-cli', '--quiet'), made.connection_string);
    assert.match(await cli('status', '--json'), /"default_database": "by-cli"/);
  }));

test('the file is for its owner only, and one that others can read is refused', () =>
  inHome(async (home) => {
    const store = new FileCredentialStore(home);
    await createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: store }).auth.me();
    assert.equal(statSync(store.file).mode & 0o777, 0o600);
    assert.equal(statSync(home).mode & 0o777, 0o700);
    chmodSync(store.file, 0o640);
    await assert.rejects(store.read(shared().apiUrl), { code: 'credentials_readable_by_others' });
  }));

test('the client and the command line writing at once lose nothing of each other', () =>
  inHome(async (home, cli) => {
    const client = createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: new FileCredentialStore(home) });
    await client.auth.me();
    const key = (await client.auth.token());
    assert.ok(key);
    const names = Array.from({ length: 5 }, (_, at) => `both-${at}`);
    // Five are all that an anonymous project may have; their passwords are changed from both sides.
    for (const name of names) await client.databases.create({ name });
    const resets = await Promise.all(names.map(async (name, at) => at % 2 === 0
      ? (await client.databases.resetPassword(name)).connection_string
      : (JSON.parse(await cli('db', 'reset-password', name, '--json', '--show-secrets')) as { connection_string: string }).connection_string));
    const kept = Object.values((await new FileCredentialStore(home).read(shared().apiUrl)).connection_strings);
    assert.deepEqual(kept.sort(), resets.sort());
  }));

test('a file that is not understood is named by line, without its text', () =>
  inHome(async (home) => {
    const store = new FileCredentialStore(home);
    await store.exclusively('http://x', async (one) => one.write({ connection_strings: { 'a"b\\c\n': "d'e" } }));
    assert.deepEqual((await store.read('http://x')).connection_strings, { 'a"b\\c\n': "d'e" });
    for (const [text, line] of [
      ['[servers]\nsecret = "hunter2\n', 2],
      ['[servers."x"]\na = [\n"hunter2"]', 2],
      ['[[servers]]', 1],
      ['a = "hunter2"\na = "hunter2"', 2],
      ['a = "\\qhunter2"', 1],
      ['[a]\nb = 1\n[a.b]', 3],
    ] as const) {
      writeFileSync(store.file, text);
      await assert.rejects(store.read('http://x'), (error: Error & { code?: string }) => {
        assert.equal(error.code, 'credentials_unreadable', text);
        assert.match(error.message, new RegExp(`line ${line}:`));
        assert.doesNotMatch(error.message, /hunter2/);
        return true;
      });
    }
  }));

test('what a newer version keeps there stays, also comments of people are no mistake', () =>
  inHome(async (home) => {
    const store = new FileCredentialStore(home);
    await store.exclusively('http://x', async (one) => one.write({ connection_strings: {} }));
    writeFileSync(store.file, `# by hand
      [servers."http://x"] # this one
      default_database = 'it''s'
      `.replace("'it''s'", '"it\'s"') + '[servers."http://y".anonymous]\nanonymous_id = "a"\nnew_thing = true\n');
    await store.exclusively('http://x', async (one) => one.write({ connection_strings: { a: 'b' } }));
    const text = readFileSync(store.file, 'utf8');
    assert.match(text, /default_database = "it's"/);
    assert.match(text, /new_thing = true/);
    assert.equal((await store.read('http://y')).anonymous?.anonymous_id, 'a');
    const hidden = ['__proto__', 'constructor'];
    await store.exclusively('http://x', async (one) => one.write({ connection_strings: Object.fromEntries(hidden.map((k) => [k, 'v'])) }));
    assert.deepEqual(Object.keys((await store.read('http://x')).connection_strings).sort(), hidden.sort());
  }));

test('without a place to keep credentials, a password that was made is given all the same', async () => {
  const dir = scratch();
  writeFileSync(join(dir, 'no-directory'), '');
  try {
    const keeping = createTenantryClient({ baseUrl: shared().apiUrl, credentialStore: new FileCredentialStore(join(dir, 'home')) });
    const token = await keeping.auth.token();
    const client = createTenantryClient({ baseUrl: shared().apiUrl, token, credentialStore: new FileCredentialStore(join(dir, 'no-directory')) });
    const warned = new Promise<Error>((resolve) => process.once('warning', resolve));
    assert.ok((await client.databases.create({ name: 'nowhere' })).admin_password);
    assert.match((await warned).message, /nowhere is not kept/);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
