// Makes dist/: the package once as ES modules and once as CommonJS, with types beside each.
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = join(dirname(fileURLToPath(import.meta.url)), '..');
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
// Beside the sources in the repository; named by the tests, which build elsewhere.
const document = process.env.TENANTRY_API_DOCUMENT ?? join(here, '../../docs/openapi.json');

function run(...argv) {
  const { status } = spawnSync(process.execPath, argv, { cwd: here, stdio: ['ignore', 'inherit', 'inherit'] });
  if (status !== 0) process.exit(status ?? 1);
}

rmSync(join(here, 'dist'), { recursive: true, force: true });
run('scripts/generate.mjs', document, 'src/generated/api.ts');
for (const [name, type, kind] of [
  ['esm', 'module', ['--module', 'nodenext', '--moduleResolution', 'nodenext']],
  ['cjs', 'commonjs', ['--module', 'commonjs', '--moduleResolution', 'node10']],
]) {
  run(tsc, '--project', 'tsconfig.json', '--outDir', `dist/${name}`, ...kind);
  mkdirSync(join(here, 'dist', name), { recursive: true });
  writeFileSync(join(here, 'dist', name, 'package.json'), `${JSON.stringify({ type })}\n`);
}
