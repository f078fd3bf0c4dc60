// Sequelize: models, managed transactions, functions of its own in pg_temp (findOrCreate).
// See tests/drivers/README.md.
'use strict';
const assert = require('node:assert/strict');
const {
  load, version, address, ssl, BIG, BIG_SHA256, END_MYSELF, rowsOf, checksum, serverChecksum, ok, rejects, cancelOf, cancelled, collect, run,
} = require('../node');
const { Sequelize, DataTypes, Op, Transaction, UniqueConstraintError, ForeignKeyConstraintError, AccessDeniedError } = load('sequelize');

const connect = (more = {}) => new Sequelize({
  dialect: 'postgres', ...address, username: address.user, logging: false, pool: { max: 4 }, dialectOptions: { ssl }, ...more,
});
const sqlstate = (error) => error.parent?.code;

run(async () => {
  const sequelize = connect();
  await sequelize.authenticate();
  const select = async (text, more) => (await sequelize.query(text, { type: 'SELECT', ...more }))[0];
  assert.deepEqual(await select('select 40 + 2 as n'), { n: 42 });
  ok('verify-full');
  const plain = connect({ dialectOptions: {} });
  await assert.rejects(plain.authenticate(), /tls|ssl|encrypt/i);
  ok('plain-refused');

  const Author = sequelize.define('author', {
    name: { type: DataTypes.STRING(80), unique: true, allowNull: false },
    mood: DataTypes.ENUM('sad', 'happy'),
    key: { type: DataTypes.UUID, defaultValue: DataTypes.UUIDV4 },
    wealth: DataTypes.DECIMAL(14, 4),
    large: DataTypes.BIGINT,
    real: DataTypes.DOUBLE,
    flag: DataTypes.BOOLEAN,
    born: DataTypes.DATE,
    day: DataTypes.DATEONLY,
    tags: DataTypes.ARRAY(DataTypes.TEXT),
    facts: DataTypes.JSONB,
    photo: DataTypes.BLOB,
    stay: DataTypes.RANGE(DataTypes.INTEGER),
    text: DataTypes.TEXT,
  });
  const Book = sequelize.define('book', { title: DataTypes.TEXT });
  Author.hasMany(Book, { foreignKey: { allowNull: false }, onDelete: 'RESTRICT' });
  Book.belongsTo(Author);
  await sequelize.sync();
  const given = {
    name: "Ünal \\ 'quoted' $1 ?", mood: 'happy', wealth: '1234567890.0001', large: '4611686018427387904', real: 1.5, flag: true,
    born: new Date('1969-07-20T20:17:40.123Z'), day: '2024-02-29', tags: ['a', 'b,}', 'ü"'], facts: { deep: [1, { x: null }] },
    photo: Buffer.from([0, 255, 10]), text: '',
  };
  const author = await Author.create({ ...given, stay: [3, 8], books: [{ title: 'one' }, { title: 'two' }] }, { include: Book });
  const got = await Author.findOne({
    where: { tags: { [Op.contains]: ['ü"'] }, facts: { deep: { [Op.ne]: null } }, born: { [Op.lt]: new Date() } },
    include: Book,
  });
  for (const [name, value] of Object.entries(given)) assert.deepEqual(got[name], value, name);
  assert.deepEqual(got.stay.map(({ value, inclusive }) => [value, inclusive]), [[3, true], [8, false]]);
  assert.deepEqual(got.books.map((book) => book.title).sort(), ['one', 'two']);
  ok('types');

  for (let i = 0; i < 50; i++) {
    assert.deepEqual(await select('select $1::int * 2 as n', { bind: [i] }), { n: i * 2 });
  }
  ok('prepared');

  const Row = sequelize.define('row', { id: { type: DataTypes.INTEGER, primaryKey: true }, v: DataTypes.TEXT },
    { timestamps: false, tableName: 'sequelize_rows' });
  await Row.sync();
  const rows = rowsOf(3000);
  await Row.bulkCreate(rows);
  assert.equal((await select(serverChecksum('sequelize_rows'))).sum, checksum(rows));
  await Row.bulkCreate([{ id: 0, v: 'upserted' }], { updateOnDuplicate: ['v'] });
  assert.equal((await Row.findByPk(0)).v, 'upserted');
  ok('batch');

  await rejects(sequelize.transaction(async (transaction) => {
    await Book.destroy({ where: {}, transaction });
    assert.equal(await Book.count({ transaction }), 0);
    // Beside it, on another connection, they are still there.
    assert.equal(await Book.count(), 2);
    const nested = await sequelize.transaction({ transaction });
    await Author.update({ name: 'nested' }, { where: {}, transaction: nested });
    await nested.rollback();
    assert.equal((await Author.findOne({ transaction })).name, given.name);
    throw Object.assign(new Error('changed my mind'), { parent: { code: 'mine' } });
  }), 'mine', sqlstate);
  assert.equal(await Book.count(), 2);
  await sequelize.transaction({ isolationLevel: Transaction.ISOLATION_LEVELS.SERIALIZABLE }, async (transaction) => {
    assert.equal((await select('show transaction_isolation', { transaction })).transaction_isolation, 'serializable');
    await Author.findByPk(author.id, { transaction, lock: transaction.LOCK.UPDATE });
  });
  // A function in pg_temp catches the violation: it must be on the connection of the transaction.
  const made = await Promise.all(Array.from({ length: 12 }, () => Author.findOrCreate({
    where: { name: 'only once' }, defaults: { flag: false },
  })));
  assert.equal(made.filter(([, isNew]) => isNew).length, 1);
  assert.equal(new Set(made.map(([one]) => one.id)).size, 1);
  ok('transaction');

  await rejects(sequelize.query('select * from nowhere'), '42P01', sqlstate);
  await rejects(sequelize.query('selekt'), '42601', sqlstate);
  assert.ok(await rejects(Author.create({ name: given.name }), '23505', sqlstate) instanceof UniqueConstraintError);
  assert.ok(await rejects(Book.create({ title: 'x', authorId: -1 }), '23503', sqlstate) instanceof ForeignKeyConstraintError);
  await rejects(Author.create({}), undefined, sqlstate);
  assert.deepEqual(await select('select 1 as n'), { n: 1 });
  ok('errors');

  await sequelize.transaction(async (transaction) => {
    const client = transaction.connection;
    await cancelled(sequelize.query('select pg_sleep(60)', { transaction }), () => cancelOf(client), sqlstate);
    throw Object.assign(new Error('rolled back'), { expected: true });
  }).catch((error) => assert.ok(error.expected, error));
  assert.deepEqual(await select('select 5 as n'), { n: 5 });
  ok('cancel');

  await Author.update({ text: BIG }, { where: { id: author.id } });
  assert.equal((await select(`select encode(sha256(text::bytea), 'hex') as sum from authors where id = ${author.id}`)).sum, BIG_SHA256);
  assert.equal((await Author.findByPk(author.id)).text === BIG, true);
  ok('big-value');

  const listener = await sequelize.connectionManager.getConnection({ type: 'read' });
  const heard = await collect(5, async (push) => {
    listener.on('notification', ({ payload }) => push(payload));
    await listener.query('listen sequelize_c');
    for (let i = 0; i < 5; i++) await sequelize.query("select pg_notify('sequelize_c', $1)", { bind: [`hello ${i}`] });
  });
  assert.deepEqual(heard, [0, 1, 2, 3, 4].map((i) => `hello ${i}`));
  await listener.query('unlisten *');
  sequelize.connectionManager.releaseConnection(listener);
  ok('notify');

  await assert.rejects(sequelize.transaction(async (transaction) => {
    for (const statement of END_MYSELF) await sequelize.query(statement, { transaction });
  }));
  assert.equal(await Book.count(), 2);
  assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => Book.count())), Array(20).fill(2));
  ok('reconnect');

  const wrong = connect({ password: 'wrong' });
  const refused = await rejects(wrong.authenticate(), '28P01', sqlstate);
  assert.ok(refused instanceof Sequelize.ConnectionError || refused instanceof AccessDeniedError, refused);
  ok('wrong-password');

  await sequelize.drop({});
  await sequelize.close();
  console.log('all Sequelize', version('sequelize'));
});
