// Drizzle over node-postgres and over postgres.js: typed queries, prepared statements, migrations.
// See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, run,
} = require('../node');
const { sql, eq, arrayContains } = load('drizzle-orm');
const t = load('drizzle-orm/pg-core');
const { Pool } = load('pg');
const postgres = load('postgres');

const mood = t.pgEnum('drizzle_mood', ['sad', 'happy']);
const authors = t.pgTable('drizzle_authors', {
  id: t.serial().primaryKey(),
  name: t.varchar({ length: 80 }).notNull().unique(),
  mood: mood(),
  wealth: t.numeric({ precision: 14, scale: 4 }),
  large: t.bigint({ mode: 'bigint' }),
  real: t.doublePrecision(),
  flag: t.boolean(),
  born: t.timestamp({ withTimezone: true, precision: 3 }),
  tags: t.text().array(),
  facts: t.jsonb(),
  text: t.text(),
});
const books = t.pgTable('drizzle_books', {
  id: t.serial().primaryKey(),
  title: t.text().notNull(),
  author: t.integer().notNull().references(() => authors.id),
});
const rowsTable = t.pgTable('drizzle_rows', { id: t.integer().primaryKey(), v: t.text() });
const schema = { authors, books };

const MIGRATION = `create type drizzle_mood as enum ('sad', 'happy');
--> statement-breakpoint
create table drizzle_authors (id serial primary key, name varchar(80) not null unique, mood drizzle_mood, wealth numeric(14, 4),
  large bigint, "real" double precision, flag boolean, born timestamptz(3), tags text[], facts jsonb, "text" text);
--> statement-breakpoint
create table drizzle_books (id serial primary key, title text not null, author integer not null references drizzle_authors (id));
--> statement-breakpoint
create table drizzle_rows (id integer primary key, v text);`;

// What drizzle-kit would have written.
function migrationsFolder() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'drizzle-'));
  fs.mkdirSync(path.join(folder, 'meta'));
  fs.writeFileSync(path.join(folder, '0000_first.sql'), MIGRATION);
  fs.writeFileSync(path.join(folder, 'meta/_journal.json'), JSON.stringify({
    version: '7', dialect: 'postgresql', entries: [{ idx: 0, version: '7', when: 1700000000000, tag: '0000_first', breakpoints: true }],
  }));
  return folder;
}

const sqlstate = (error) => error.cause?.code ?? error.code;
const given = {
  name: "Ünal \\ 'quoted' $1", mood: 'happy', wealth: '1234567890.0001', large: 2n ** 62n, real: 1.5, flag: true,
  born: new Date('1969-07-20T20:17:40.123Z'), tags: ['a', 'b,}', 'ü"'], facts: { deep: [1, { x: null }] }, text: null,
};

// `rowsOfAnswer`: the two libraries give raw answers in their own ways.
async function drive(name, db, migrate, rowsOfAnswer) {
  const raw = async (query) => rowsOfAnswer(await db.execute(query));
  assert.equal((await raw(sql`select 40 + 2 as n`))[0].n, 42);
  ok(`${name} verify-full`);

  const folder = migrationsFolder();
  await migrate(db, { migrationsFolder: folder });
  await migrate(db, { migrationsFolder: folder });
  fs.rmSync(folder, { recursive: true });
  assert.equal((await raw(sql`select count(*)::int as n from drizzle.__drizzle_migrations`))[0].n, 1);
  ok(`${name} migrate`);

  const [{ id }] = await db.insert(authors).values(given).returning({ id: authors.id });
  await db.insert(books).values([{ title: 'one', author: id }, { title: 'two', author: id }]);
  const [got] = await db.select().from(authors).where(arrayContains(authors.tags, ['ü"']));
  assert.deepEqual(got, { id, ...given });
  const joined = await db.select({ title: books.title, name: authors.name }).from(books).innerJoin(authors, eq(books.author, authors.id)).orderBy(books.id);
  assert.deepEqual(joined, [{ title: 'one', name: given.name }, { title: 'two', name: given.name }]);
  ok(`${name} types`);

  const byId = db.select({ title: books.title }).from(books).where(eq(books.author, sql.placeholder('author'))).prepare('drizzle_by_author');
  for (let i = 0; i < 60; i++) assert.equal((await byId.execute({ author: i % 2 ? id : -1 })).length, i % 2 ? 2 : 0);
  ok(`${name} prepared`);

  const rows = rowsOf(3000);
  await db.insert(rowsTable).values(rows);
  assert.equal((await raw(sql.raw(serverChecksum('drizzle_rows'))))[0].sum, checksum(rows));
  assert.deepEqual(await db.select().from(rowsTable).orderBy(rowsTable.id), rows);
  ok(`${name} batch`);

  await rejects(db.transaction(async (tx) => {
    await tx.delete(books);
    await rejects(tx.transaction((nested) => nested.insert(books).values({ title: 'orphan', author: -1 })), '23503', sqlstate);
    assert.equal(await tx.$count(books), 0);
    assert.equal(await db.$count(books), 2);
    throw Object.assign(new Error('changed my mind'), { code: 'mine' });
  }, { isolationLevel: 'serializable' }), 'mine');
  assert.equal(await db.$count(books), 2);
  await db.insert(authors).values({ name: given.name, text: 'merged' }).onConflictDoUpdate({ target: authors.name, set: { text: 'merged' } });
  assert.equal((await db.select().from(authors))[0].text, 'merged');
  ok(`${name} transaction`);

  await rejects(db.execute(sql`select * from nowhere`), '42P01', sqlstate);
  await rejects(db.execute(sql`selekt`), '42601', sqlstate);
  await rejects(db.insert(authors).values({ name: given.name }), '23505', sqlstate);
  assert.equal((await raw(sql`select 1 as n`))[0].n, 1);
  ok(`${name} errors`);

  await db.update(authors).set({ text: BIG }).where(eq(authors.id, id));
  const [big] = await db.select({ sum: sql`encode(sha256(${authors.text}::bytea), 'hex')`, text: authors.text }).from(authors);
  assert.equal(big.sum, BIG_SHA256);
  assert.equal(big.text === BIG, true);
  ok(`${name} big-value`);

  if (name === 'node-postgres') {
    await assert.rejects(db.transaction(async (tx) => {
      for (const statement of END_MYSELF) await tx.execute(sql.raw(statement));
    }));
    assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => db.$count(books))), Array(20).fill(2));
    ok(`${name} reconnect`);
  }

  await db.execute(sql.raw('drop table drizzle_books, drizzle_authors, drizzle_rows'));
  await db.execute(sql.raw('drop type drizzle_mood'));
  await db.execute(sql.raw('drop schema drizzle cascade'));
}

run(async () => {
  const { drizzle: overPg } = load('drizzle-orm/node-postgres');
  const { migrate: migratePg } = load('drizzle-orm/node-postgres/migrator');
  const pool = new Pool({ ...address, ssl, max: 4 });
  // Where a connection says that it was ended; without a listener `pg` ends the program.
  pool.on('error', () => {}).on('connect', (connection) => connection.on('error', () => {}));
  await drive('node-postgres', overPg({ client: pool, schema }), migratePg, (answer) => answer.rows);
  const client = await pool.connect();
  const one = overPg({ client });
  await cancelled(one.execute(sql`select pg_sleep(60)`), () => cancelOf(client), sqlstate);
  assert.equal((await one.execute(sql`select 5 as n`)).rows[0].n, 5);
  client.release();
  ok('node-postgres cancel');
  await pool.end();

  const { drizzle: overPostgresJs } = load('drizzle-orm/postgres-js');
  const { migrate: migrateJs } = load('drizzle-orm/postgres-js/migrator');
  const options = process.env.PGOPTIONS;
  const plain = postgres({ ...address, ssl, max: 4, onnotice() {}, connection: options ? { options } : {} });
  await drive('postgres.js', overPostgresJs({ client: plain, schema }), migrateJs, (answer) => answer);
  await plain.end();

  const wrong = overPg({ client: new Pool({ ...address, ssl, password: 'wrong' }) });
  await rejects(wrong.execute(sql`select 1`), '28P01', sqlstate);
  ok('wrong-password');
  console.log('all Drizzle', version('drizzle-orm'), 'over node-postgres and postgres.js');
});
