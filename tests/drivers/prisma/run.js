// Prisma's client over its adapter for `pg`: no engine of its own. See schema.prisma and tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, collect, run,
} = require('../node');
const { PrismaPg } = load('@prisma/adapter-pg');
const { PrismaClient, Prisma } = require(`${process.env.NODE_MODULES}/prisma-client`);
const { Pool } = load('pg');

const TABLES = [
  "create type prisma_mood as enum ('sad', 'happy')",
  `create table prisma_author (id serial primary key, name text not null unique, mood prisma_mood, key uuid, wealth numeric(14, 4),
    large bigint, "real" double precision, flag boolean not null default false, born timestamptz(3), tags text[], facts jsonb,
    photo bytea, "text" text)`,
  'create table prisma_book (id serial primary key, title text not null, author_id int not null references prisma_author (id))',
  'create table prisma_row (id int primary key, v text not null)',
];

// The SQLSTATE of a raw query that failed.
const sqlstate = (error) => error.meta?.driverAdapterError?.cause?.originalCode ?? error.meta?.code;

function open(more = {}) {
  const pool = new Pool({ ...address, ssl, max: 4, ...more });
  const clients = [];
  // Where a connection says that it was ended; without a listener `pg` ends the program.
  pool.on('error', () => {}).on('connect', (client) => clients.push(client.on('error', () => {})));
  return { pool, clients, prisma: new PrismaClient({ adapter: new PrismaPg(pool), transactionOptions: { maxWait: 20000, timeout: 90000 } }) };
}

run(async () => {
  const { prisma, pool } = open();
  assert.deepEqual(await prisma.$queryRaw`select 40 + 2 as n`, [{ n: 42 }]);
  ok('verify-full');
  await assert.rejects(open({ ssl: false }).prisma.$queryRaw`select 1`, /tls|ssl|encrypt/i);
  ok('plain-refused');

  for (const statement of TABLES) await prisma.$executeRawUnsafe(statement);
  const given = {
    name: "Ünal \\ 'quoted' $1", mood: 'happy', key: '6f1f9b2e-4f0b-4a35-9a55-0d3a4f9e2c11', wealth: new Prisma.Decimal('1234567890.0001'),
    large: 2n ** 62n, real: 1.5, flag: true, born: new Date('1969-07-20T20:17:40.123Z'), tags: ['a', 'b,}', 'ü"'],
    facts: { deep: [1, { x: null }] }, photo: new Uint8Array([0, 255, 10]), text: null,
  };
  const { id } = await prisma.author.create({ data: { ...given, books: { create: [{ title: 'one' }, { title: 'two' }] } } });
  const got = await prisma.author.findFirst({
    where: { tags: { has: 'ü"' }, facts: { path: ['deep', '0'], equals: 1 }, mood: 'happy' }, include: { books: { orderBy: { title: 'asc' } } },
  });
  for (const [name, value] of Object.entries(given)) {
    if (name === 'photo') assert.deepEqual([...got.photo], [...value]);
    else assert.deepEqual(got[name], value, name);
  }
  assert.deepEqual(got.books.map(({ title, authorId }) => [title, authorId]), [['one', id], ['two', id]]);
  ok('types');

  for (let i = 0; i < 50; i++) assert.deepEqual(await prisma.$queryRaw`select ${i}::int * 2 as n`, [{ n: i * 2 }]);
  ok('prepared');

  const rows = rowsOf(3000);
  assert.equal((await prisma.row.createMany({ data: rows })).count, rows.length);
  assert.equal((await prisma.$queryRawUnsafe(serverChecksum('prisma_row')))[0].sum, checksum(rows));
  assert.deepEqual(await prisma.row.findMany({ orderBy: { id: 'asc' } }), rows);
  // All or nothing.
  await rejects(prisma.$transaction([
    prisma.book.deleteMany(), prisma.book.create({ data: { title: 'orphan', authorId: -1 } }),
  ]), 'P2003');
  assert.equal(await prisma.book.count(), 2);
  ok('batch');

  await rejects(prisma.$transaction(async (tx) => {
    assert.deepEqual(await tx.$queryRaw`show transaction_isolation`, [{ transaction_isolation: 'serializable' }]);
    await tx.book.deleteMany();
    assert.equal(await tx.book.count(), 0);
    assert.equal(await prisma.book.count(), 2);
    throw Object.assign(new Error('changed my mind'), { code: 'mine' });
  }, { isolationLevel: 'Serializable' }), 'mine');
  assert.equal(await prisma.book.count(), 2);
  const { text } = await prisma.author.upsert({ where: { name: given.name }, update: { text: 'merged' }, create: { name: given.name } });
  assert.equal(text, 'merged');
  ok('transaction');

  await rejects(prisma.$queryRaw`select * from nowhere`, '42P01', sqlstate);
  await rejects(prisma.$queryRaw`selekt`, '42601', sqlstate);
  await rejects(prisma.author.create({ data: { name: given.name } }), 'P2002');
  await rejects(prisma.book.update({ where: { id: -1 }, data: { title: 'x' } }), 'P2025');
  assert.deepEqual(await prisma.$queryRaw`select 1 as n`, [{ n: 1 }]);
  ok('errors');

  const single = open({ max: 1 });
  await single.prisma.$queryRaw`select 1`;
  assert.equal(single.clients.length, 1);
  // Prisma has no way to cancel; somebody else does it.
  await cancelled(single.prisma.$queryRaw`select pg_sleep(60)::text`, () => cancelOf(single.clients[0]), sqlstate);
  assert.deepEqual(await single.prisma.$queryRaw`select 5 as n`, [{ n: 5 }]);
  await single.prisma.$disconnect();
  ok('cancel');

  await prisma.author.update({ where: { id }, data: { text: BIG } });
  assert.equal((await prisma.$queryRaw`select encode(sha256(text::bytea), 'hex') as sum from prisma_author where id = ${id}`)[0].sum, BIG_SHA256);
  assert.equal((await prisma.author.findUnique({ where: { id } })).text === BIG, true);
  await prisma.author.update({ where: { id }, data: { text: null } });
  ok('big-value');

  const listener = await pool.connect();
  const heard = await collect(5, async (push) => {
    listener.on('notification', ({ payload }) => push(payload));
    await listener.query('listen prisma_c');
    for (let i = 0; i < 5; i++) await prisma.$executeRaw`select pg_notify('prisma_c', ${`hello ${i}`})`;
  });
  assert.deepEqual(heard, [0, 1, 2, 3, 4].map((i) => `hello ${i}`));
  await listener.query('unlisten *');
  listener.release();
  ok('notify');

  await assert.rejects(prisma.$transaction(async (tx) => {
    await tx.$executeRawUnsafe(END_MYSELF[0]);
    await tx.$executeRawUnsafe(END_MYSELF[1]);
  }));
  assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => prisma.book.count())), Array(20).fill(2));
  ok('reconnect');

  await rejects(open({ password: 'wrong' }).prisma.$queryRaw`select 1`, '28P01', (error) => sqlstate(error) ?? error.cause?.originalCode);
  ok('wrong-password');

  await prisma.$executeRawUnsafe('drop table prisma_book, prisma_author, prisma_row');
  await prisma.$executeRawUnsafe('drop type prisma_mood');
  await prisma.$disconnect();
  await pool.end();
  console.log('all Prisma', version('@prisma/client'), 'with adapter-pg', version('@prisma/adapter-pg'));
});
