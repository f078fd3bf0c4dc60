// Knex: query builder, schema builder, migrations, streams, its own pool (tarn).
// See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, collect, run,
} = require('../node');
const Knex = load('knex');

const connect = (more = {}, pool = { min: 0, max: 4 }) => Knex({ client: 'pg', connection: { ...address, ssl, ...more }, pool });

// Migrations as an object, instead of files.
const migrations = {
  async getMigrations() { return ['1_authors', '2_books']; },
  getMigrationName: (name) => name,
  getMigration: (name) => ({
    '1_authors': {
      up: (knex) => knex.schema.createTable('knex_authors', (table) => {
        table.increments();
        table.string('name', 80).notNullable().unique();
        table.enu('mood', ['sad', 'happy'], { useNative: true, enumName: 'knex_mood' });
        table.uuid('key').defaultTo(knex.fn.uuid());
        table.decimal('wealth', 14, 4);
        table.bigInteger('large');
        table.double('real');
        table.boolean('flag');
        table.timestamp('born');
        table.specificType('tags', 'text[]');
        table.jsonb('facts');
        table.binary('photo');
        table.text('text');
      }),
      down: (knex) => knex.schema.dropTable('knex_authors').raw('drop type knex_mood'),
    },
    '2_books': {
      up: (knex) => knex.schema.createTable('knex_books', (table) => {
        table.increments();
        table.text('title');
        table.integer('author').notNullable().references('knex_authors.id');
      }),
      down: (knex) => knex.schema.dropTable('knex_books'),
    },
  })[name],
};

run(async () => {
  const knex = connect();
  assert.equal((await knex.raw('select 40 + 2 as n')).rows[0].n, 42);
  ok('verify-full');
  const plain = connect({ ssl: false });
  await assert.rejects(plain.raw('select 1'), /tls|ssl|encrypt/i);
  await plain.destroy();
  ok('plain-refused');

  // Its tables first: of two that make them at once, each puts a row into that of locks, and neither gets a lock then.
  assert.equal((await knex.migrate.list({ migrationSource: migrations }))[1].length, 2);
  // Both at once: a table of locks lets one of them do it.
  const other = connect();
  const both = await Promise.allSettled([knex, other].map((one) => one.migrate.latest({ migrationSource: migrations })));
  assert.ok(both.some(({ status }) => status === 'fulfilled'), both[0].reason);
  await other.destroy();
  assert.deepEqual((await knex.migrate.list({ migrationSource: migrations }))[1], []);
  assert.equal(await knex.schema.hasTable('knex_books'), true);
  ok('migrate');

  const given = {
    name: "Ünal \\ 'quoted' ?", mood: 'happy', wealth: '1234567890.0001', large: '4611686018427387904', real: 1.5, flag: true,
    born: new Date('1969-07-20T20:17:40.123Z'), tags: ['a', 'b,}', 'ü"'], facts: { deep: [1, { x: null }] },
    photo: Buffer.from([0, 255, 10]), text: null,
  };
  const [{ id }] = await knex('knex_authors').insert(given).returning('id');
  const got = await knex('knex_authors').where({ id }).whereRaw("facts->'deep'->>0 = ?", ['1']).whereIn('mood', ['happy']).first();
  for (const [name, value] of Object.entries(given)) assert.deepEqual(got[name], value, name);
  ok('types');

  for (let i = 0; i < 50; i++) assert.equal((await knex.raw('select ?::int * 2 as n', [i])).rows[0].n, i * 2);
  ok('prepared');

  await knex.schema.createTable('knex_rows', (table) => { table.integer('id').primary(); table.text('v'); });
  const rows = rowsOf(3000);
  await knex.batchInsert('knex_rows', rows, 500);
  assert.equal((await knex.raw(serverChecksum('knex_rows'))).rows[0].sum, checksum(rows));
  const streamed = [];
  for await (const row of knex('knex_rows').orderBy('id').stream({ batchSize: 100 })) streamed.push({ ...row });
  assert.deepEqual(streamed, rows);
  // Left in the middle: the connection goes back to the pool.
  for await (const row of knex('knex_rows').orderBy('id').stream({ batchSize: 100 })) {
    assert.equal(row.id, 0);
    break;
  }
  ok('batch');

  await rejects(knex.transaction(async (trx) => {
    await trx('knex_authors').update({ name: 'changed' });
    await rejects(trx.transaction((nested) => nested('knex_books').insert({ title: 'orphan', author: -1 })), '23503');
    assert.equal((await trx('knex_authors').first('name')).name, 'changed');
    assert.equal((await knex('knex_authors').first('name')).name, given.name);
    throw Object.assign(new Error('changed my mind'), { code: 'mine' });
  }), 'mine');
  assert.equal((await knex('knex_authors').first('name')).name, given.name);
  const trx = await knex.transaction({ isolationLevel: 'serializable', readOnly: true });
  assert.equal((await trx.raw('show transaction_isolation')).rows[0].transaction_isolation, 'serializable');
  await rejects(trx('knex_books').insert({ title: 'x', author: id }), '25006');
  await trx.rollback();
  await knex('knex_authors').insert({ name: given.name, text: 'merged' }).onConflict('name').merge(['text']);
  assert.deepEqual((await knex('knex_authors').select('text')).map((row) => row.text), ['merged']);
  ok('transaction');

  await rejects(knex('nowhere'), '42P01');
  await rejects(knex.raw('selekt'), '42601');
  await rejects(knex('knex_authors').insert({ name: given.name }), '23505');
  await rejects(knex('knex_authors').insert({ name: null }), '23502');
  await rejects(knex.raw('select ?::int', ['x']), '22P02');
  assert.equal((await knex.raw('select 1 as n')).rows[0].n, 1);
  ok('errors');

  const client = await knex.client.acquireConnection();
  await cancelled(knex.raw('select pg_sleep(60)').connection(client), () => cancelOf(client));
  await knex.client.releaseConnection(client);
  assert.equal((await knex.raw('select 5 as n')).rows[0].n, 5);
  ok('cancel');

  await knex('knex_authors').where({ id }).update({ text: BIG });
  assert.equal((await knex('knex_authors').where({ id }).first(knex.raw("encode(sha256(text::bytea), 'hex') as sum"))).sum, BIG_SHA256);
  assert.equal((await knex('knex_authors').where({ id }).first('text')).text === BIG, true);
  ok('big-value');

  const listener = await knex.client.acquireConnection();
  const heard = await collect(5, async (push) => {
    listener.on('notification', ({ payload }) => push(payload));
    await listener.query('listen knex_c');
    for (let i = 0; i < 5; i++) await knex.raw("select pg_notify('knex_c', ?)", [`hello ${i}`]);
  });
  assert.deepEqual(heard, [0, 1, 2, 3, 4].map((i) => `hello ${i}`));
  await listener.query('unlisten *');
  await knex.client.releaseConnection(listener);
  ok('notify');

  await assert.rejects(knex.transaction(async (inside) => {
    for (const statement of END_MYSELF) await inside.raw(statement);
  }), (error) => error.code === '57P01' || /terminated|closed/i.test(error.message) || assert.fail(error));
  const counted = await Promise.all(Array.from({ length: 20 }, () => knex('knex_rows').count()));
  assert.deepEqual(counted.map(([row]) => row.count), Array(20).fill('3000'));
  ok('reconnect');

  const wrong = connect({ password: 'wrong' });
  await rejects(wrong.raw('select 1'), '28P01');
  await wrong.destroy();
  ok('wrong-password');

  await knex.schema.dropTable('knex_rows');
  await knex.migrate.rollback({ migrationSource: migrations }, true);
  assert.equal(await knex.schema.hasTable('knex_authors'), false);
  await knex.destroy();
  console.log('all Knex', version('knex'));
});
