/**
 * Databases: what can be done with them over the API, named as `get-db9` names it, and more.
 *
 * A database is named by its id or its name. Fields are those of the API (snake case).
 */
import { createHash } from 'node:crypto';

import type { WritableStore } from './credentials.js';
import { CredentialsError, NotFoundError, OptionError, SqlError, WaitError } from './errors.js';
import type { Schemas } from './generated/api.js';
import type { RequestOptions, Session } from './session.js';
import { DatabaseAccess } from './tokens.js';
import { until, type WaitOptions } from './wait.js';

export type Database = Schemas['DatabaseResponse'];
export type SqlResult = Schemas['SqlResult'];
export type Limits = Schemas['LimitsResponse'];
export type LimitValues = Schemas['LimitValues'];
export type DatabaseUser = Schemas['UserResponse'];
/** Rows as objects by column name. */
export interface QueryResult<Row> {
  rows: Row[];
  /** Rows returned or changed. */
  rowCount: number;
  command: string;
  columns: SqlResult['columns'];
}

/** Which databases `list` gives. */
export interface ListFilter {
  /** Names that begin with this. */
  prefix?: string;
  createdBefore?: Date | string;
  /** One state or more. Left out: all but DISABLING, DISABLED and CREATE_FAILED. */
  state?: string | readonly string[];
  /** Every state; for the operator also every project. */
  all?: boolean;
  /** Another project than the token's own; operator only. */
  projectId?: string;
  signal?: AbortSignal;
}

/** Which databases `sweep` deletes: by the beginning of their names, by their age, or by both. */
export interface Sweep {
  prefix?: string;
  /** Made at least so long ago: `90m`, `2h`, `1d`. */
  olderThan?: string;
  /** Deletes nothing and tells what would be, a hundred at most. */
  dryRun?: boolean;
  signal?: AbortSignal;
}

/** One statement of a batch: its text, or with values for `$1`, `$2`, … */
export type BatchStatement = string | readonly [text: string, params: readonly unknown[]];

/** How a batch runs. */
export interface BatchOptions extends RequestOptions {
  isolation?: 'read_uncommitted' | 'read_committed' | 'repeatable_read' | 'serializable';
  readOnly?: boolean;
  /** Milliseconds for each statement; no more than the server's own limit. */
  timeoutMs?: number;
}

/** Which statements `observability` gives. */
export interface Observing {
  /** What they are ordered by, most first: their time all together, when left out. */
  order?: 'time' | 'count' | 'p99' | 'max' | 'errors' | 'recent' | 'slow';
  /** How many at most, up to 200; 20 when left out. */
  samples?: number;
}

/** Which lines of the statement log `logs` gives. */
export interface LogFilter {
  /** Those that failed, or that were slow; all when left out. */
  type?: 'error' | 'slow';
  /** How far back, such as `15m` or `7d`; `24h` when left out. */
  since?: string;
  /** 1 to 1,000; 100 when left out. */
  limit?: number;
  /** `next_cursor` of an earlier answer: what comes behind it. */
  cursor?: string;
}

/** What `inspect` shows. */
export type Inspected = 'schemas' | 'tables' | 'indexes' | 'locks' | 'connections';

/** A migration that `tenantry migration up` recorded in a database. */
export interface Migration {
  /** Of its file. */
  name: string;
  /** SHA-256 of the file, in hex. */
  checksum: string;
  began_at: string;
  /** Null: it began outside of a transaction, and did not end, or is under way. */
  applied_at: string | null;
}

/** From these a database does not become ACTIVE by itself. */
const NOT_ON_ITS_WAY = new Set(['SUSPENDED', 'DISABLING', 'DISABLED', 'CREATE_FAILED']);
/** A branch may take 300 s by the server's own default, and is worth a longer wait; this is for everything else. */
const WAIT_MS = 60_000;
/** Pages of a list, a thousand each: ten million databases. */
const PAGES_MAX = 10_000;
/** Requests of one sweep, a hundred databases each. */
const SWEEP_REQUESTS_MAX = 10_000;

/** `client.databases`. */
export class Databases {
  readonly limits: DatabaseLimits;
  readonly access: DatabaseAccess;
  readonly users: DatabaseUsers;

  constructor(private readonly session: Session) {
    this.limits = new DatabaseLimits(session);
    this.users = new DatabaseUsers(session);
    this.access = new DatabaseAccess(session);
  }

  /**
   * Creates a database, and keeps its connection string with the credentials. The password is in this answer only.
   *
   * @throws {ConflictError} `name_taken`, unless `if_not_exists`: then the existing one is returned, without password.
   */
  async create(request: Schemas['CreateRequest'] = {}, options: RequestOptions & { waitSeconds?: number } = {}): Promise<Database> {
    const { waitSeconds, ...rest } = options;
    const made = await this.session.call('POST /customer/databases', { body: request, query: { wait: waitSeconds }, ...rest });
    await this.keep(made);
    return made;
  }

  /**
   * The database of that name; made when it is not there. Whoever asks on the machine where it was made gets it with
   * its password in `connection_string`, also when many ask at once.
   */
  async ensure(name: string, request: Omit<Schemas['CreateRequest'], 'name' | 'if_not_exists'> = {},
    options: RequestOptions = {}): Promise<Database> {
    const found = await this.find(name, options);
    // A name may look like the id of another database.
    if (found?.name === name) {
      const kept = await this.keptConnectionString(found);
      if (kept !== undefined) return { ...found, connection_string: kept };
    }
    const token = await this.session.token();
    const body = { ...request, name, if_not_exists: true };
    const make = async (store?: WritableStore): Promise<Database> => {
      const { body: made } = await this.session.transport.send('POST /customer/databases', { body, query: {}, ...options }, token);
      if (store === undefined) return made;
      if (made.admin_password) {
        await write(store, made).catch((error: unknown) => notKept(made, error));
        return made;
      }
      const kept = (await store.read()).connection_strings[made.admin_user];
      return kept === undefined ? made : { ...made, connection_string: kept };
    };
    try {
      // Made and written down in one: others that find it find its password, too.
      return await this.session.store.exclusively(this.session.transport.url, make);
    } catch (error) {
      // There is no place to keep it, and the database is wanted all the same.
      if (!(error instanceof CredentialsError) || error.code !== 'credentials_not_lockable') throw error;
      const made = await make();
      if (made.admin_password) notKept(made, error);
      return made;
    }
  }

  /** All that match, oldest first, however many pages that takes. */
  async list(filter: ListFilter = {}): Promise<Database[]> {
    const all: Database[] = [];
    for await (const database of this.iterate(filter)) all.push(database);
    return all;
  }

  /** As `list`, a page of a thousand at a time. */
  async *iterate(filter: ListFilter = {}): AsyncGenerator<Database, void, undefined> {
    const { createdBefore, state, projectId, prefix, all, signal } = filter;
    const query = {
      prefix, all,
      project_id: projectId,
      state: typeof state === 'string' ? state : state?.join(','),
      created_before: createdBefore instanceof Date ? createdBefore.toISOString() : createdBefore,
    };
    let after: string | undefined;
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer = await this.session.answer('GET /customer/databases', { query: { ...query, after }, signal });
      yield* answer.body;
      after = answer.nextAfter;
      if (after === undefined) return;
    }
    throw new WaitError('the list does not end', { code: 'list_too_long' });
  }

  /** One database. Deleted ones are found by id. @throws {NotFoundError} */
  get(database: string, options: RequestOptions = {}): Promise<Database> {
    return this.session.call('GET /customer/databases/{database}', { path: { database }, ...options });
  }

  /** As `get`, with undefined where there is none. */
  async find(database: string, options: RequestOptions = {}): Promise<Database | undefined> {
    try {
      return await this.get(database, options);
    } catch (error) {
      if (error instanceof NotFoundError) return undefined;
      throw error;
    }
  }

  /** Refuses and disconnects at once; until the retention ends, `undelete` takes it back. */
  delete(database: string, options: RequestOptions = {}): Promise<Schemas['Deleted']> {
    return this.session.call('DELETE /customer/databases/{database}', { path: { database }, ...options });
  }

  /** Takes a delete back. Passwords are the same as before. */
  undelete(database: string, request: Schemas['UndeleteRequest'] = {}, options: RequestOptions = {}): Promise<Database> {
    return this.session.call('POST /customer/databases/{database}/undelete', { path: { database }, query: {}, body: request, ...options });
  }

  /** Another name. The id, and with it every connection string, stays. */
  rename(database: string, name: string, options: RequestOptions = {}): Promise<Database> {
    return this.change(database, { name }, options);
  }

  /** When it is deleted by itself: a time from now like `2h`, a moment, or null for never. */
  expires(database: string, when: string | Date | null, options: RequestOptions = {}): Promise<Database> {
    const expires = when instanceof Date ? when.toISOString() : (when ?? 'never');
    return this.change(database, { expires }, options);
  }

  /** Name and expiry; what is not named stays. */
  change(database: string, request: Schemas['ChangeRequest'], options: RequestOptions = {}): Promise<Database> {
    return this.session.call('PATCH /customer/databases/{database}', { path: { database }, body: request, ...options });
  }

  /** Deletes all that match, and tells which. Each can be undeleted until its retention ends. */
  async sweep({ prefix, olderThan, dryRun = false, signal }: Sweep): Promise<Schemas['Swept']> {
    if (prefix === '' || (prefix === undefined && olderThan === undefined)) {
      throw new OptionError('a sweep needs a prefix or an age: without one it would take everything', { code: 'invalid_option' });
    }
    const swept: Schemas['Swept'] = { dry_run: dryRun, databases: [], more: true };
    for (let request = 0; swept.more && request < SWEEP_REQUESTS_MAX; request++) {
      const answer = await this.session.call('DELETE /customer/databases',
        { query: { prefix, older_than: olderThan, dry_run: dryRun }, signal });
      swept.databases.push(...answer.databases);
      swept.more = answer.more;
      if (dryRun || answer.databases.length === 0) break;
    }
    return swept;
  }

  /** Refuses connections and ends sessions; the data stays. */
  suspend(database: string, options: RequestOptions = {}): Promise<Database> {
    return this.session.call('POST /customer/databases/{database}/suspend', { path: { database }, ...options });
  }

  /** Accepts connections again. Of a database that could not be made: tries again. */
  resume(database: string, options: RequestOptions = {}): Promise<Database> {
    return this.session.call('POST /customer/databases/{database}/resume', { path: { database }, query: {}, ...options });
  }

  /** Replaces the password of a role, and keeps the new connection string. Sessions with the old one end. */
  async resetPassword(database: string, request: Schemas['ResetPasswordRequest'] = {}, options: RequestOptions = {}): Promise<Database> {
    const changed = await this.session.call('POST /customer/databases/{database}/reset-password',
      { path: { database }, body: request, ...options });
    await this.keep(changed);
    return changed;
  }

  /**
   * Makes a branch: a database that begins as a copy of this one, with an id, an address and a password of its own. The
   * parent stays in use. Returns at once, with `waitSeconds` when it can be used; `waitFor(id)` waits longer.
   */
  async branch(parent: string, request: Schemas['BranchRequest'] = {}, options: RequestOptions & { waitSeconds?: number } = {}): Promise<Database> {
    const { waitSeconds, ...rest } = options;
    const made = await this.session.call('POST /customer/databases/{database}/branch',
      { path: { database: parent }, body: request, query: { wait: waitSeconds }, ...rest });
    await this.keep(made);
    return made;
  }

  /** Branches of a database, oldest first, also those that failed. */
  branches(parent: string, options: RequestOptions = {}): Promise<Database[]> {
    return this.session.call('GET /customer/databases/{database}/branches', { path: { database: parent }, ...options });
  }

  /** Sets a branch back to what its parent is now: its own changes are gone; id, address and passwords stay. */
  reset(branch: string, request: Schemas['ResetRequest'] = {}, options: RequestOptions & { waitSeconds?: number } = {}): Promise<Database> {
    const { waitSeconds, ...rest } = options;
    return this.session.call('POST /customer/databases/{database}/reset',
      { path: { database: branch }, body: request, query: { wait: waitSeconds }, ...rest });
  }

  /** How a branch differs from its parent: objects added, removed and changed, and rows of each table. */
  diff(branch: string, options: RequestOptions = {}): Promise<Schemas['Diff']> {
    return this.session.call('GET /customer/databases/{database}/diff', { path: { database: branch }, ...options });
  }

  /** A password of one role for some minutes: `admin` unless asked otherwise, at most as long as the operator allows. */
  connectToken(database: string, request: Schemas['ConnectTokenRequest'] = {}, options: RequestOptions = {}): Promise<Schemas['ConnectToken']> {
    return this.session.call('POST /customer/databases/{database}/connect-token', { path: { database }, body: request, ...options });
  }

  /** A connection string for somebody else: to look, for seven days, unless asked otherwise. */
  share(database: string, request: Schemas['ConnectKeyRequest'] = {}, options: RequestOptions = {}): Promise<Schemas['ConnectKey']> {
    return this.session.call('POST /customer/databases/{database}/connect-keys', { path: { database }, body: request, ...options });
  }

  /**
   * What its statements did in the last minute, hour and day, how large and busy it is, and the statements that count
   * most, without their constants.
   */
  observability(database: string, options: RequestOptions & Observing = {}): Promise<Schemas['Observability']> {
    const { order, samples, ...rest } = options;
    return this.session.call('GET /customer/databases/{database}/observability', { path: { database }, query: { order, samples }, ...rest });
  }

  /** Lines of its statement log, without the statements' constants. */
  logs(database: string, options: RequestOptions & LogFilter = {}): Promise<Schemas['LogPage']> {
    const { type, since, limit, cursor, ...rest } = options;
    return this.session.call('GET /customer/databases/{database}/logs', { path: { database }, query: { type, since, limit, cursor }, ...rest });
  }

  /** How many statements failed or were slow, by which errors, and what the log keeps. */
  logStats(database: string, options: RequestOptions & Pick<LogFilter, 'since'> = {}): Promise<Schemas['LogStats']> {
    const { since, ...rest } = options;
    return this.session.call('GET /customer/databases/{database}/logs/stats', { path: { database }, query: { since }, ...rest });
  }

  /** Figures of today, this hour and this week. */
  metrics(database: string, options: RequestOptions = {}): Promise<Schemas['Metrics']> {
    return this.session.call('GET /customer/databases/{database}/metrics', { path: { database }, ...options });
  }

  /** What is in it and who is there, rows as objects: a thousand at most. */
  async inspect<Row = Record<string, unknown>>(database: string, what: Inspected, options: RequestOptions = {}): Promise<Row[]> {
    const result = await this.session.call('GET /customer/databases/{database}/inspect/{what}', { path: { database, what }, ...options });
    return found<Row>(result);
  }

  /** Migrations that were recorded in it, by their names, the last thousand; none where nothing was. */
  async listMigrations(database: string, options: RequestOptions = {}): Promise<Migration[]> {
    const result = await this.session.call('GET /customer/databases/{database}/migrations', { path: { database }, ...options });
    return found<Migration>(result);
  }

  /** The connection string with its password, where it was made on this machine; undefined elsewhere. */
  async keptConnectionString(database: Pick<Database, 'admin_user'>): Promise<string | undefined> {
    return (await this.session.kept()).connection_strings[database.admin_user];
  }

  /**
   * Runs one or more statements; with `params` exactly one. A refusal by PostgreSQL is in `error` of the result and
   * is not thrown: see `query`. Sent once: after a `ConnectionError` it may have happened.
   */
  sql(database: string, query: string, params?: readonly unknown[], options: RequestOptions = {}): Promise<SqlResult> {
    return this.run(database, { query, params: params === undefined ? undefined : [...params] }, options);
  }

  /** Runs a script, as `sql`. */
  sqlFile(database: string, content: string, options: RequestOptions = {}): Promise<SqlResult> {
    return this.run(database, { file_content: content }, options);
  }

  /** As `sql`, with rows as objects. @throws {SqlError} when PostgreSQL refuses. */
  async query<Row = Record<string, unknown>>(database: string, text: string, params?: readonly unknown[],
    options: RequestOptions = {}): Promise<QueryResult<Row>> {
    const result = await this.sql(database, text, params, options);
    if (result.error !== undefined && result.error !== null) throw new SqlError(result.error);
    return named<Row>(result);
  }

  /**
   * Runs statements as one transaction: all of it is done, or nothing. Sent once, as `sql`.
   *
   * @throws {SqlError} with `statement`, the index of the one that failed.
   */
  async batch(database: string, statements: readonly BatchStatement[], options: BatchOptions = {}): Promise<QueryResult<Record<string, unknown>>[]> {
    const { isolation, readOnly, timeoutMs, ...rest } = options;
    const body = {
      statements: statements.map((one) => (typeof one === 'string' ? { query: one } : { query: one[0], params: [...one[1]] })),
      isolation, read_only: readOnly, timeout_ms: timeoutMs,
    };
    const { error, results } = await this.run(database, body, rest);
    if (error !== undefined && error !== null) throw new SqlError(error);
    return (results ?? []).map((result) => named(result as SqlResult));
  }

  /**
   * Waits until a database is in a state; `ACTIVE` when none is named.
   *
   * @throws {WaitError} `wait_timeout`; `wait_hopeless` for ACTIVE, when it will not be that by itself.
   */
  async waitFor(database: string, state = 'ACTIVE', options: WaitOptions = {}): Promise<Database> {
    const timeoutMs = options.timeoutMs ?? WAIT_MS;
    let seen = 'nothing';
    const look = async (): Promise<Database | undefined> => {
      const found = await this.get(database, { signal: options.signal });
      seen = `${found.state}${found.state_reason ? ` (${found.state_reason})` : ''}`;
      if (found.state === state) return found;
      if (state !== 'ACTIVE' || !NOT_ON_ITS_WAY.has(found.state)) return undefined;
      throw new WaitError(`database ${found.name} is ${seen}, and will not be ${state} by itself`, { code: 'wait_hopeless' });
    };
    return until(`database ${database} to be ${state}`, look, { ...options, timeoutMs, seen: () => seen });
  }

  private run(database: string, body: Schemas['SqlRequest'], options: RequestOptions): Promise<SqlResult> {
    return this.session.call('POST /customer/databases/{database}/sql',
      { path: { database }, body, repeat: 'when-not-begun', ...options });
  }

  /** The password is in this answer and nowhere else, so that it cannot be kept must not lose it. */
  private async keep(database: Database): Promise<void> {
    if (!database.admin_password) return;
    const { store, transport } = this.session;
    await store.exclusively(transport.url, (one) => write(one, database)).catch((error: unknown) => notKept(database, error));
  }
}

/** Rows as objects. Of two columns with one name the last one stays, as with every driver. */
function named<Row>({ columns, rows, row_count, command }: SqlResult): QueryResult<Row> {
  const objects = rows.map((row) => Object.fromEntries(columns.map(({ name }, at) => [name, row[at]])) as Row);
  return { rows: objects, rowCount: row_count, command, columns };
}

/** Rows of what the server looked up itself. */
function found<Row>(result: SqlResult): Row[] {
  if (result.error !== undefined && result.error !== null) throw new SqlError(result.error);
  return named<Row>(result).rows;
}

async function write(store: WritableStore, database: Database): Promise<void> {
  const kept = await store.read();
  kept.connection_strings[database.admin_user] = database.connection_string;
  await store.write(kept);
}

function notKept({ name }: Database, why: unknown): void {
  process.emitWarning(`the connection string of ${name} is not kept: ${String(why)}`, 'TenantryWarning');
}

/** `client.databases.limits`. */
export class DatabaseLimits {
  constructor(private readonly session: Session) {}

  /** What holds, and who said what. */
  get(database: string, options: RequestOptions = {}): Promise<Limits> {
    return this.session.call('GET /customer/databases/{database}/limits', { path: { database }, ...options });
  }

  /** Sets some; what is not named stays as it is. */
  update(database: string, values: LimitValues, options: RequestOptions = {}): Promise<Limits> {
    return this.session.call('PATCH /customer/databases/{database}/limits', { path: { database }, body: values, ...options });
  }

  /** Sets all; what is not named is as if it had never been set. */
  replace(database: string, values: LimitValues, options: RequestOptions = {}): Promise<Limits> {
    return this.session.call('PUT /customer/databases/{database}/limits', { path: { database }, body: values, ...options });
  }
}

/** `client.databases.users`: logins of a database with a role, a password and a limit of clients of their own. */
export class DatabaseUsers {
  constructor(private readonly session: Session) {}

  /** By name, without passwords. */
  list(database: string, options: RequestOptions = {}): Promise<DatabaseUser[]> {
    return this.session.call('GET /customer/databases/{database}/users', { path: { database }, ...options });
  }

  /** Makes one, with role `write` unless asked otherwise. Its password is in this answer only. @throws {ConflictError} `user_exists` */
  create(database: string, request: Schemas['CreateUserRequest'], options: RequestOptions = {}): Promise<Schemas['UserWithPassword']> {
    return this.session.call('POST /customer/databases/{database}/users', { path: { database }, body: request, ...options });
  }

  /** Another limit of clients; 0 takes it away. Sessions that are open stay. */
  setConnections(database: string, username: string, clients: number, options: RequestOptions = {}): Promise<DatabaseUser> {
    return this.session.call('PATCH /customer/databases/{database}/users/{username}',
      { path: { database, username }, body: { client_connections_max: clients }, ...options });
  }

  /** Replaces the password. Sessions with the old one end, or when its grace does. */
  resetPassword(database: string, username: string, request: Schemas['ResetUserPasswordRequest'] = {},
    options: RequestOptions = {}): Promise<Schemas['UserWithPassword']> {
    return this.session.call('POST /customer/databases/{database}/users/{username}/reset-password',
      { path: { database, username }, body: request, ...options });
  }

  /** Its sessions end; what it made stays. @throws {NotFoundError} */
  delete(database: string, username: string, options: RequestOptions = {}): Promise<Schemas['UserDeleted']> {
    return this.session.call('DELETE /customer/databases/{database}/users/{username}', { path: { database, username }, ...options });
  }
}

/** The SHA-256 of a text, in hexadecimal. */
export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
