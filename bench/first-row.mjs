// Databases, or branches of one, by the client for TypeScript, until the first row; one JSON object. Started by
// bench/branch below the package, so that its name leads to it.
//
// usage: first-row.mjs CERTIFICATE COUNT QUERY [PARENT]; TENANTRY_API_URL and TENANTRY_API_KEY say where and as whom
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';

import pg from 'pg';
import { createTenantryClient } from 'tenantry';

const [certificate, count, query, parent] = process.argv.slice(2);
const ssl = { ca: readFileSync(certificate, 'utf8') };
const { databases, auth } = createTenantryClient();
// What is measured is a program that runs, not one that starts.
await auth.me();

const created = [];
for (let at = 0; at < Number(count); at++) {
  const began = performance.now();
  const request = { name: `bench-${randomUUID()}` };
  const made = parent === undefined ? await databases.create(request)
    : await databases.branch(parent, request, { waitSeconds: 60 });
  if (made.state !== 'ACTIVE') throw new Error(`${made.state} ${made.state_reason ?? ''}`);
  const answered = performance.now();
  const { hostname: host, port, username: user, password, pathname } = new URL(made.connection_string);
  const session = new pg.Client({ host, port: Number(port), user, password, database: pathname.slice(1), ssl });
  await session.connect();
  const { rows } = await session.query(query);
  const read = performance.now();
  if (rows.length !== 1) throw new Error(`${rows.length} rows`);
  await session.end();
  created.push({ api: answered - began, total: read - began, branch: made.branch });
}
console.log(JSON.stringify({ created }));
