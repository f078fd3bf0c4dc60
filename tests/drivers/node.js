// What the drivers written in JavaScript share: where to connect, what is asked of each, how a step
// is told. See tests/drivers/README.md. The pool mode comes with PGOPTIONS, which `pg` reads itself.
'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');

// The libraries lie where `./dev test` fetched them.
const load = (name) => require(require.resolve(name, { paths: [process.env.NODE_MODULES] }));
// Some packages do not let theirs be loaded.
const version = (name) => JSON.parse(fs.readFileSync(`${process.env.NODE_MODULES}/node_modules/${name}/package.json`)).version;

const address = {
  host: process.env.PGHOST_,
  port: Number(process.env.PGPORT_),
  user: process.env.PGUSER_,
  password: process.env.PGPASSWORD_,
  database: 'postgres',
};
// Verifies chain and name.
const ssl = { ca: fs.readFileSync(process.env.ROOT_CERT, 'utf8') };

// 64 MiB; the server is asked for its hash, so that a value which comes back as it was sent was also stored so.
const BIG = '0123456789abcdef'.repeat(4 << 20);
const BIG_SHA256 = crypto.createHash('sha256').update(BIG).digest('hex');

// Ends the connection it runs on, from inside. As oneself: a session's rights are those of a group,
// and the group may not end the login's connections.
const END_MYSELF = ['set local role none', 'select pg_terminate_backend(pg_backend_pid())'];

// Rows with quotes, backslashes and non-ASCII text.
const rowsOf = (count) => Array.from({ length: count }, (_, id) => ({ id, v: `row ${id} ü \\ " ' ${(id * 7919) % 1000}` }));

const checksum = (rows) => crypto.createHash('md5').update(rows.map(({ id, v }) => `${id}:${v}\n`).join('')).digest('hex');

// The same sum, made by the server over (id, v).
const serverChecksum = (table) => `select md5(coalesce(string_agg(id || ':' || v || E'\\n', '' order by id), '')) as sum from ${table}`;

const ok = (step) => console.log('ok', step);

// Exactly this SQLSTATE comes.
async function rejects(promise, code, read = (error) => error.code) {
  let error;
  try {
    await promise;
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, `no error came, not even ${code}`);
  assert.equal(read(error), code, error);
  return error;
}

// A CancelRequest for a client of `pg`, as somebody else would send it: without TLS, which PostgreSQL
// allows because it carries no data. Resolves when the server has closed the socket.
function cancelOf(client) {
  const packet = Buffer.alloc(16);
  packet.writeInt32BE(16, 0);
  packet.writeInt32BE(80877102, 4);
  packet.writeInt32BE(client.processID, 8);
  packet.writeInt32BE(client.secretKey, 12);
  return new Promise((resolve, reject) => {
    const socket = net.connect(address.port, address.host, () => socket.write(packet));
    socket.on('close', resolve).on('error', reject).resume();
  });
}

// Cancels again and again until the statement ends: the first may come before the statement does, and
// must then do nothing. The last one has ended when this returns, so it can hit nothing that follows.
async function cancelled(statement, cancel, read) {
  let over = false;
  const failed = rejects(statement, '57014', read).finally(() => { over = true; });
  const cancelling = (async () => {
    while (!over) {
      await new Promise((resolve) => { setTimeout(resolve, 100); });
      if (!over) await cancel();
    }
  })();
  await Promise.all([failed, cancelling]);
}

// Ends with 20 s of nothing, or with `count` things collected by `start(push)`.
function collect(count, start) {
  return new Promise((resolve, reject) => {
    const got = [];
    const limit = setTimeout(() => reject(new Error(`only ${got.length} of ${count} came`)), 20000);
    const push = (thing) => {
      got.push(thing);
      if (got.length === count) {
        clearTimeout(limit);
        resolve(got);
      }
    };
    Promise.resolve(start(push)).catch(reject);
  });
}

function run(main) {
  main().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, collect, run,
};
