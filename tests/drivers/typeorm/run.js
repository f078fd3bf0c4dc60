// TypeORM: entities, migrations, query runners, streams. See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, collect, run,
} = require('../node');
load('reflect-metadata');
const { DataSource, EntitySchema, QueryFailedError, ArrayContains } = load('typeorm');

const Author = new EntitySchema({
  name: 'Author',
  tableName: 'typeorm_author',
  columns: {
    id: { type: 'int', primary: true, generated: true },
    name: { type: 'varchar', length: 80, unique: true },
    mood: { type: 'enum', enum: ['sad', 'happy'], nullable: true },
    wealth: { type: 'numeric', precision: 14, scale: 4, nullable: true },
    large: { type: 'bigint', nullable: true },
    real: { type: 'double precision', nullable: true },
    flag: { type: 'boolean', default: false },
    born: { type: 'timestamptz', nullable: true },
    tags: { type: 'text', array: true, default: '{}' },
    facts: { type: 'jsonb', nullable: true },
    photo: { type: 'bytea', nullable: true },
    text: { type: 'text', nullable: true },
    version: { type: 'int', version: true },
  },
  relations: { books: { type: 'one-to-many', target: 'Book', inverseSide: 'author', cascade: true } },
});
const Book = new EntitySchema({
  name: 'Book',
  tableName: 'typeorm_book',
  columns: { id: { type: 'int', primary: true, generated: true }, title: { type: 'text' } },
  relations: { author: { type: 'many-to-one', target: 'Author', inverseSide: 'books', nullable: false } },
});
const Row = new EntitySchema({
  name: 'Row', tableName: 'typeorm_row', columns: { id: { type: 'int', primary: true }, v: { type: 'text' } },
});
class Counted1700000000000 {
  async up(runner) { await runner.query('create view typeorm_counted as select count(*)::int as n from typeorm_book'); }
  async down(runner) { await runner.query('drop view typeorm_counted'); }
}

const connect = (more = {}) => new DataSource({
  type: 'postgres', ...address, username: address.user, ssl, poolSize: 4, entities: [Author, Book, Row],
  migrations: [Counted1700000000000], ...more,
}).initialize();

run(async () => {
  const source = await connect();
  assert.deepEqual(await source.query('select 40 + 2 as n'), [{ n: 42 }]);
  ok('verify-full');
  await assert.rejects(connect({ ssl: false }), /tls|ssl|encrypt/i);
  ok('plain-refused');

  await source.synchronize();
  assert.equal((await source.runMigrations({ transaction: 'all' })).length, 1);
  assert.equal((await source.runMigrations()).length, 0);
  // Reads the whole catalog of the schema, and finds nothing to do.
  assert.deepEqual((await source.driver.createSchemaBuilder().log()).upQueries, []);
  ok('migrate');

  const authors = source.getRepository(Author);
  const books = source.getRepository(Book);
  const given = {
    name: "Ünal \\ 'quoted' $1 :x", mood: 'happy', wealth: '1234567890.0001', large: '4611686018427387904', real: 1.5, flag: true,
    born: new Date('1969-07-20T20:17:40.123Z'), tags: ['a', 'b,}', 'ü"'], facts: { deep: [1, { x: null }] },
    photo: Buffer.from([0, 255, 10]), text: null,
  };
  const { id } = await authors.save({ ...given, books: [{ title: 'one' }, { title: 'two' }] });
  const got = await authors.findOne({ where: { tags: ArrayContains(['ü"']) }, relations: { books: true }, order: { books: { id: 'ASC' } } });
  for (const [name, value] of Object.entries(given)) assert.deepEqual(got[name], value, name);
  assert.deepEqual(got.books.map((book) => book.title), ['one', 'two']);
  ok('types');

  for (let i = 0; i < 50; i++) assert.deepEqual(await source.query('select $1::int * 2 as n', [i]), [{ n: i * 2 }]);
  ok('prepared');

  const rows = rowsOf(3000);
  await source.getRepository(Row).save(rows, { chunk: 500 });
  assert.equal((await source.query(serverChecksum('typeorm_row')))[0].sum, checksum(rows));
  const streamed = [];
  const stream = await source.getRepository(Row).createQueryBuilder('r').select(['r.id as id', 'r.v as v']).orderBy('r.id').stream();
  for await (const row of stream) streamed.push({ ...row });
  assert.deepEqual(streamed, rows);
  ok('batch');

  await rejects(source.transaction('SERIALIZABLE', async (manager) => {
    assert.equal((await manager.query('show transaction_isolation'))[0].transaction_isolation, 'serializable');
    await manager.delete(Book, { title: 'one' });
    // A savepoint.
    await rejects(manager.transaction((nested) => nested.insert(Book, { title: 'orphan', author: { id: -1 } })), '23503');
    assert.equal(await manager.count(Book), 1);
    assert.equal(await books.count(), 2);
    throw Object.assign(new Error('changed my mind'), { code: 'mine' });
  }), 'mine');
  assert.equal(await books.count(), 2);
  await source.transaction(async (manager) => {
    const locked = await manager.findOne(Author, { where: { id }, lock: { mode: 'pessimistic_write' } });
    locked.name = 'changed';
    await manager.save(Author, locked);
  });
  assert.deepEqual((({ name, version }) => ({ name, version }))(await authors.findOneBy({ id })), { name: 'changed', version: 2 });
  await authors.upsert({ name: 'changed', text: 'merged' }, ['name']);
  assert.equal((await authors.findOneBy({ id })).text, 'merged');
  ok('transaction');

  assert.ok(await rejects(source.query('select * from nowhere'), '42P01') instanceof QueryFailedError);
  await rejects(source.query('selekt'), '42601');
  await rejects(authors.insert({ name: 'changed' }), '23505');
  await rejects(books.insert({ title: null, author: { id } }), '23502');
  assert.deepEqual(await source.query('select 1 as n'), [{ n: 1 }]);
  ok('errors');

  const runner = source.createQueryRunner();
  const client = await runner.connect();
  await cancelled(runner.query('select pg_sleep(60)'), () => cancelOf(client));
  assert.deepEqual(await runner.query('select 5 as n'), [{ n: 5 }]);
  ok('cancel');

  const heard = await collect(5, async (push) => {
    client.on('notification', ({ payload }) => push(payload));
    await runner.query('listen typeorm_c');
    for (let i = 0; i < 5; i++) await source.query("select pg_notify('typeorm_c', $1)", [`hello ${i}`]);
  });
  assert.deepEqual(heard, [0, 1, 2, 3, 4].map((i) => `hello ${i}`));
  await runner.query('unlisten *');
  await runner.release();
  ok('notify');

  await authors.update({ id }, { text: BIG });
  assert.equal((await source.query(`select encode(sha256(text::bytea), 'hex') as sum from typeorm_author where id = $1`, [id]))[0].sum, BIG_SHA256);
  assert.equal((await authors.findOneBy({ id })).text === BIG, true);
  ok('big-value');

  await assert.rejects(source.transaction(async (manager) => {
    for (const statement of END_MYSELF) await manager.query(statement);
  }));
  assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => books.count())), Array(20).fill(2));
  ok('reconnect');

  await rejects(connect({ password: 'wrong' }), '28P01');
  ok('wrong-password');

  await source.undoLastMigration();
  await source.dropDatabase();
  assert.equal(await source.createQueryRunner().hasTable('typeorm_author'), false);
  await source.destroy();
  console.log('all TypeORM', version('typeorm'));
});
