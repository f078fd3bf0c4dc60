/** The samples in the documentation, run as they stand there. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import ts from 'typescript';

import { scratch, shared } from './server.js';

const run = promisify(execFile);
const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** The blocks of a document in this language. */
function blocks(file: string, language: string): string[] {
  return [...readFileSync(file, 'utf8').matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, block]) => block ?? '');
}

const samples = blocks(join(root, 'README.md'), 'ts');
assert.ok(samples.length >= 2);

for (const [at, sample] of samples.entries()) {
  test(`sample ${at + 1} of the package's README has its types and runs`, async () => {
    // Below the package, so that its name leads to it.
    const file = join(root, `sample-${at}.mts`);
    const home = scratch();
    try {
      writeFileSync(file, sample);
      const tsc = join(root, 'node_modules/typescript/bin/tsc');
      await run(process.execPath, [tsc, '--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext', '--esModuleInterop', '--types', 'node', file], { cwd: root })
        .catch((error: { stdout: string }) => assert.fail(error.stdout));
      const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
      writeFileSync(file.replace('.mts', '.mjs'), ts.transpileModule(sample, { compilerOptions: options }).outputText);
      await run(process.execPath, [file.replace('.mts', '.mjs')], {
        env: { ...process.env, TENANTRY_HOME: home, TENANTRY_API_URL: shared().apiUrl,
          TENANTRY_PG_CA_TEXT: readFileSync(shared().caFile, 'utf8') } });
    } finally {
      for (const one of [file, file.replace('.mts', '.mjs'), home]) rmSync(one, { recursive: true, force: true });
    }
  });
}
