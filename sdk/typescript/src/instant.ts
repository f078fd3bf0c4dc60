/**
 * A database by name, made and filled when it is not there: `instantDatabase`.
 *
 * Whether the seed ran is a fact in the database itself, not in a process: the seed and a mark (the schema
 * `tenantry_seeded`) are one transaction, under a lock of that database. So of fifty that start together one
 * seeds; a seed that fails leaves neither rows nor mark, and the next call tries it again; and after a lost
 * answer it is safe to ask once more. A branch of a seeded database is seeded.
 */
import { randomBytes } from 'node:crypto';

import { createTenantryClient, type TenantryClient, type TenantryClientOptions } from './client.js';
import { sha256, type Database, type SqlResult } from './databases.js';
import { ConnectionError, OptionError, SeedError, ServerError, TenantryError, WaitError } from './errors.js';
import { until } from './wait.js';

export interface InstantDatabaseOptions extends TenantryClientOptions {
  /** Default: `default`. */
  name?: string | undefined;
  /** SQL that fills a new database: any number of statements that may run in one transaction. */
  seed?: string | undefined;
  /** The same as the content of a file. Not together with `seed`. */
  seedFile?: string | undefined;
  /**
   * What to do when there is no mark and the database has tables already, so somebody else filled it:
   * `refuse` (default) throws `database_not_empty`, `keep` takes it as it is, `seed` runs the seed all the same.
   */
  whenNotEmpty?: 'refuse' | 'keep' | 'seed' | undefined;
  /** Password of a new database, 12 to 128 characters; also goes into `connectionString` of one that was there. */
  adminPassword?: string | undefined;
  /** Milliseconds until the database is there and filled, whoever does it. Default: 120,000. */
  seedTimeoutMs?: number | undefined;
  /** When a new database is deleted by itself: a time from now like `2h`, or a moment. Default: never. */
  expires?: string | undefined;
  /** Used instead of a client made from the other options. */
  client?: TenantryClient | undefined;
}

export interface InstantDatabaseResult {
  databaseId: string;
  /** With the password where that is known: made by this call or on this machine, or given. */
  connectionString: string;
  adminUser: string;
  /** Null where it is not known; `client.databases.resetPassword` makes a new one. */
  adminPassword: string | null;
  state: string;
  createdAt: string;
  /** What became of the seed: run by this call, run by another one, kept away from a filled database, or none given. */
  seed: 'ran' | 'ran-before' | 'kept-away' | 'none';
}

/** The server ends SQL over HTTP after 30 s; this is for a few attempts of others, too. */
const SEED_MS = 120_000;
const NAME_DEFAULT = 'default';
/** Key of the lock in the database: "tenantry" in eight letters of ASCII, as a number. */
const LOCK = '8387231245791425145';

/**
 * Returns the database of that name; makes it, and fills it with the seed, when it is not there. Any number of
 * processes may ask at once.
 *
 * @throws {SeedError} with the id of the database, when it has not the seed in it.
 */
export async function instantDatabase(options: InstantDatabaseOptions = {}): Promise<InstantDatabaseResult> {
  if (options.seed !== undefined && options.seedFile !== undefined) {
    throw new OptionError('seed and seedFile cannot be given together', { code: 'invalid_option' });
  }
  const client = options.client ?? createTenantryClient(options);
  const timeoutMs = options.seedTimeoutMs ?? SEED_MS;
  const database = await present(client, options, timeoutMs);
  const seed = options.seed ?? options.seedFile;
  const became = seed === undefined || seed.trim() === '' ? 'none'
    : await new Seeding(client, database, seed, options.whenNotEmpty ?? 'refuse').run(timeoutMs);
  return resultOf(database, options.adminPassword, became);
}

/** The database, ACTIVE, and with its password where somebody here knows it. */
async function present(client: TenantryClient, options: InstantDatabaseOptions, timeoutMs: number): Promise<Database> {
  const name = options.name ?? NAME_DEFAULT;
  const database = await client.databases.ensure(name, { admin_password: options.adminPassword, expires: options.expires });
  if (database.state === 'ACTIVE') return database;
  if (database.state !== 'CREATING' && database.state !== 'CLONING') {
    throw new WaitError(`database ${name} is ${database.state}`, { code: 'wait_hopeless',
      hint: 'client.databases.resume takes up what is suspended or could not be made' });
  }
  const { connection_string, admin_password } = database;
  return { ...(await client.databases.waitFor(database.id, 'ACTIVE', { timeoutMs })), connection_string, admin_password };
}

class Seeding {
  /** By which what we raise is told from what the seed raises. */
  private readonly nonce = randomBytes(12).toString('hex');
  private readonly script: string;

  constructor(
    private readonly client: TenantryClient,
    private readonly database: Database,
    seed: string,
    private readonly whenNotEmpty: 'refuse' | 'keep' | 'seed',
  ) {
    this.script = scriptOf(seed, this.nonce, whenNotEmpty === 'seed');
  }

  run(timeoutMs: number): Promise<'ran' | 'ran-before' | 'kept-away'> {
    let seen = 'nothing';
    const look = async (): Promise<'ran' | 'ran-before' | 'kept-away' | undefined> => {
      try {
        return this.judge(await this.client.databases.sqlFile(this.database.id, this.script));
      } catch (error) {
        // Whether it happened or not, asking again finds out; the mark says.
        if (error instanceof SeedError || !isPassing(error)) throw error;
        seen = error.message;
        return undefined;
      }
    };
    return until(`the seed of ${this.database.name}`, look, { timeoutMs, seen: () => seen }).catch((error: unknown) => {
      if (!(error instanceof WaitError)) throw error;
      throw new SeedError(error.message, { code: 'seed_timeout', cause: error }, this.database.id);
    });
  }

  /** What PostgreSQL said; undefined when another one is at it. */
  private judge(result: SqlResult): 'ran' | 'ran-before' | 'kept-away' | undefined {
    const { error } = result;
    if (error === undefined || error === null) {
      if (result.command === 'COMMIT') return 'ran';
      throw this.error(`the seed did not end with a commit but with ${result.command}`, 'seed_failed', undefined);
    }
    const [nonce, word, by] = error.message.split(':');
    if (nonce === this.nonce) {
      if (word === 'seeded') return by === this.nonce ? 'ran' : 'ran-before';
      if (word === 'busy') return undefined;
      if (this.whenNotEmpty === 'keep') return 'kept-away';
      throw this.error(`database ${this.database.name} has no mark of a seed and is not empty`, 'database_not_empty', {
        hint: 'whenNotEmpty says what to do: `keep` takes it as it is, `seed` runs the seed all the same' });
    }
    const isMixed = /^(25001|0A000|2D000)$/.test(error.code) && /transaction|from a function/.test(error.message);
    throw this.error(`the seed failed and left nothing behind: ${error.message}`,
      isMixed ? 'seed_not_transactional' : 'seed_failed', {
        sqlstate: error.code,
        hint: isMixed
          ? 'a seed is one transaction: leave out BEGIN and COMMIT, and run what cannot be in one (CREATE INDEX ' +
            'CONCURRENTLY, VACUUM, …) afterwards with client.databases.sql'
          : (error.hint ?? ''),
      });
  }

  private error(message: string, code: string, facts: { sqlstate?: string; hint?: string } | undefined): SeedError {
    return new SeedError(message, { code, ...facts }, this.database.id);
  }
}

/** Errors after which the next attempt may go well. */
function isPassing(error: unknown): error is TenantryError {
  return (error instanceof ConnectionError && error.code !== 'untrusted') ||
    (error instanceof ServerError && error.code !== 'internal') ||
    (error instanceof TenantryError && error.status === 429);
}

/**
 * The seed as one transaction. It runs inside a DO block, where PostgreSQL itself refuses whatever would end the
 * transaction; a lock that is taken is not waited for, because waiting would hold a connection.
 */
function scriptOf(seed: string, nonce: string, anyway: boolean): string {
  const check = `
DECLARE mark text;
BEGIN
  IF NOT pg_catalog.pg_try_advisory_xact_lock(${LOCK}) THEN
    RAISE EXCEPTION '${nonce}:busy';
  END IF;
  SELECT coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '') INTO mark
    FROM pg_catalog.pg_namespace n WHERE n.nspname = 'tenantry_seeded';
  IF FOUND THEN
    RAISE EXCEPTION '%', '${nonce}:seeded:' || pg_catalog.split_part(mark, ' ', 1);
  END IF;
  ${anyway ? '' : `PERFORM FROM pg_catalog.pg_class c
    WHERE c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace
        WHERE nspname IN ('pg_catalog', 'information_schema') OR nspname ~ '^pg_(toast|temp)')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
    LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION '${nonce}:not-empty';
  END IF;`}
END`;
  return [
    'BEGIN ISOLATION LEVEL READ COMMITTED;',
    `DO $c${nonce}$${check}$c${nonce}$;`,
    `DO $d${nonce}$BEGIN EXECUTE $s${nonce}$${seed}$s${nonce}$; END$d${nonce}$;`,
    'CREATE SCHEMA tenantry_seeded;',
    `COMMENT ON SCHEMA tenantry_seeded IS '${nonce} sha256:${sha256(seed)}';`,
    'COMMIT',
  ].join('\n');
}

function resultOf(database: Database, given: string | undefined, seed: InstantDatabaseResult['seed']): InstantDatabaseResult {
  const address = new URL(database.connection_string);
  if (address.password === '' && given !== undefined) address.password = encodeURIComponent(given);
  return {
    databaseId: database.id,
    connectionString: address.password === '' ? database.connection_string : address.href,
    adminUser: database.admin_user,
    adminPassword: address.password === '' ? null : decodeURIComponent(address.password),
    state: database.state,
    createdAt: database.created_at,
    seed,
  };
}
