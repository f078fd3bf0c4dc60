/** The samples in the documentation, run as they stand there. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import ts from 'typescript';

import { bin, scratch, shared } from './server.js';

const run = promisify(execFile);
const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const recipes = process.env['TEST_RECIPES'] ?? join(root, '../../docs/recipes');
/** What the recipes assume beside them. */
const SCHEMA = 'CREATE TABLE customers (id serial PRIMARY KEY, name text);\n';
const MIGRATION = 'ALTER TABLE customers ADD COLUMN plan text;\n';

interface Sample { language: string; text: string }

/** The blocks of a document that are programs. Another kind would go untested, and is refused. */
function samplesOf(file: string): Sample[] {
  return [...readFileSync(file, 'utf8').matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language = '', text = '']) => {
    assert.ok(language === 'ts' || language === 'sh', `${file}: a block of ${language || 'no language'}`);
    return { language, text };
  });
}

/** In a home of its own, so with a project of its own, and with the commands on the path. */
async function inPlace(work: (dir: string, env: NodeJS.ProcessEnv) => Promise<void>): Promise<void> {
  const dir = scratch();
  symlinkSync(bin(), join(dir, 'tenantry'));
  writeFileSync(join(dir, 'schema.sql'), SCHEMA);
  writeFileSync(join(dir, 'migration.sql'), MIGRATION);
  const env = { ...process.env, PATH: `${dir}:${process.env['PATH']}`, TENANTRY_HOME: join(dir, 'home'),
    TENANTRY_API_URL: shared().apiUrl, TENANTRY_PG_CA_TEXT: readFileSync(shared().caFile, 'utf8'), CI_RUN_ID: '4711', PULL_REQUEST: '42' };
  try {
    await work(dir, env);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const documents = [join(root, 'README.md'), ...readdirSync(recipes).sort().map((name) => join(recipes, name))];
assert.ok(documents.length >= 5);
const samples = documents.flatMap((file) => samplesOf(file).map((sample, at) =>
  ({ ...sample, title: `${basename(file)}, sample ${at + 1}`, file: join(root, `sample-${basename(file, '.md')}-${at + 1}`) })));
const programs = samples.filter(({ language }) => language === 'ts');

// Below the package, so that its name leads to it.
before(() => {
  for (const { file, text } of programs) {
    writeFileSync(`${file}.mts`, text);
    const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
    writeFileSync(`${file}.mjs`, ts.transpileModule(text, { compilerOptions }).outputText);
  }
});
after(() => {
  for (const { file } of programs) for (const ending of ['mts', 'mjs']) rmSync(`${file}.${ending}`, { force: true });
});

test('the samples have the types that the compiler wants, strictly', async () => {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [tsc, '--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext',
    '--esModuleInterop', '--types', 'node', ...programs.map(({ file }) => `${file}.mts`)], { cwd: root })
    .catch((error: { stdout: string }) => assert.fail(error.stdout));
});

for (const { title, file, language, text } of samples) {
  test(`${title}, runs as it stands there`, () => inPlace(async (dir, env) => {
    if (language === 'ts') await run(process.execPath, [`${file}.mjs`], { env });
    else await run('bash', ['-euo', 'pipefail', '-c', text], { cwd: dir, env });
  }));
}
