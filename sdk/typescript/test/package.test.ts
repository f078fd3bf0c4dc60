/** What `npm pack` would publish, installed and used as a stranger would. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { scratch } from './server.js';

const run = promisify(execFile);
const root = join(dirname(fileURLToPath(import.meta.url)), '..');

let dir: string;
let files: string[];

before(async () => {
  dir = scratch();
  // What is built already is packed; building again is `prepack`'s and was just done.
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', dir], { cwd: root });
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  files = packed.files.map(({ path }) => path);
  const there = join(dir, 'node_modules', 'tenantry');
  mkdirSync(there, { recursive: true });
  await run('tar', ['xzf', join(dir, packed.filename), '--strip-components=1', '-C', there]);
  mkdirSync(join(dir, 'node_modules', '@types'));
  symlinkSync(join(root, 'node_modules', '@types', 'node'), join(dir, 'node_modules', '@types', 'node'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

test('the package holds what is built, its types and its documentation, and nothing else', () => {
  const other = files.filter((path) => !/^(package\.json|README\.md|dist\/(esm|cjs)\/([\w-]+\/)*([\w-]+\.(js|d\.ts)|package\.json))$/.test(path));
  assert.deepEqual(other, []);
  for (const path of ['dist/esm/index.js', 'dist/esm/index.d.ts', 'dist/cjs/index.js', 'dist/cjs/index.d.ts', 'README.md']) {
    assert.ok(files.includes(path), path);
  }
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<string, unknown>;
  assert.equal(manifest['dependencies'], undefined);
});

test('it is imported and required, and both are the same package', async () => {
  const say = 'console.log(typeof instantDatabase, typeof createTenantryClient, createDb9Client === createTenantryClient)';
  writeFileSync(join(dir, 'a.mjs'), `import { instantDatabase, createTenantryClient, createDb9Client } from 'tenantry'; ${say}`);
  writeFileSync(join(dir, 'b.cjs'), `const { instantDatabase, createTenantryClient, createDb9Client } = require('tenantry'); ${say}`);
  for (const file of ['a.mjs', 'b.cjs']) {
    const { stdout } = await run(process.execPath, [join(dir, file)]);
    assert.equal(stdout.trim(), 'function function true', file);
  }
});

test('its types are found by programs that import and by programs that require', async () => {
  const text = `import { instantDatabase, createTenantryClient, type Database } from 'tenantry';
    import { fromHeader } from 'tenantry/tenants';
    void fromHeader('x-tenant');
    export async function one(): Promise<string> {
      const { databaseId } = await instantDatabase({ name: 'x', seed: 'SELECT 1' });
      const found: Database = await createTenantryClient().databases.get(databaseId);
      // @ts-expect-error there is no such field
      void found.nothing;
      return found.connection_string;
    }`;
  writeFileSync(join(dir, 'a.mts'), text);
  writeFileSync(join(dir, 'b.cts'), text);
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  for (const kind of ['nodenext', 'node10', 'bundler']) {
    const options = kind === 'nodenext' ? ['--module', 'nodenext'] : ['--module', kind === 'node10' ? 'commonjs' : 'esnext', '--moduleResolution', kind];
    const sources = kind === 'nodenext' ? ['a.mts', 'b.cts'] : kind === 'node10' ? ['b.cts'] : ['a.mts'];
    await run(process.execPath, [tsc, '--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2023', '--types', 'node', ...options, ...sources], { cwd: dir })
      .catch((error: { stdout: string }) => assert.fail(`${kind}: ${error.stdout}`));
  }
});
