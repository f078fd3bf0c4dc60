// Runs the compiled tests against one server: node test/run.mjs [FILE…]
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const build = join(here, '..', 'test-build');
const { startServer } = await import(join(build, 'server.js'));

const named = process.argv.slice(2).map((name) => basename(name).replace(/\.ts$/, ''));
const files = readdirSync(build).filter((name) => name.endsWith('.test.js'))
  .filter((name) => named.length === 0 || named.includes(name.replace(/\.js$/, '')) || named.includes(name.replace(/\.test\.js$/, '')))
  .map((name) => join(build, name));

const server = await startServer();
let code = 1;
try {
  const env = { ...process.env, TEST_API_URL: server.apiUrl, TEST_CA_FILE: server.caFile, TEST_OPERATOR_KEY: server.operatorKey };
  for (const name of Object.keys(env)) if (/^TENANTRY_(?!BIN|TEST|PG)/.test(name)) delete env[name];
  const child = spawn(process.execPath, ['--test', '--test-reporter', join(here, 'reporter.mjs'), ...files],
    { stdio: ['ignore', 'inherit', 'inherit'], env });
  code = await new Promise((resolve) => child.on('exit', (status) => resolve(status ?? 1)));
} finally {
  await server.stop();
}
process.exit(code);
