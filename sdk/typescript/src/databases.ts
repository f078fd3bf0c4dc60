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
import { until, type WaitOptions } from './wait.js';

export type Database = Schemas['DatabaseResponse'];
export type SqlResult = Schemas['SqlResult'];
export type Limits = Schemas['LimitsResponse'];
export type LimitValues = Schemas['LimitValues'];
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

/** Which databases `sweep` deletes. A prefix of no letters is refused. */
export interface Sweep {
  prefix: string;
  /** Only those older than this many milliseconds. */
  olderThanMs?: number;
  /** Deletes nothing and tells what would be. */
  dryRun?: boolean;
  signal?: AbortSignal;
}

/** What a wait for a state gives up on: from these no other follows by itself. */
const FINAL = new Set(['ACTIVE', 'SUSPENDED', 'DISABLED', 'CREATE_FAILED']);
/** A clone may take 300 s by the server's own default; this is for everything else. */
const WAIT_MS = 60_000;
/** Pages of a list, a thousand each: ten million databases. */
const PAGES_MAX = 10_000;
/** Deletes at once in a sweep: the server answers each in milliseconds, and others ask too. */
const SWEEP_AT_ONCE = 8;

/** `client.databases`. */
export class Databases {
  readonly limits: DatabaseLimits;

  constructor(private readonly session: Session) {
    this.limits = new DatabaseLimits(session);
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

  /** Deletes all whose names begin with a prefix, and tells which. What others delete meanwhile is not an error. */
  async sweep(sweep: Sweep): Promise<Database[]> {
    if (!/[A-Za-z0-9]/.test(sweep.prefix)) {
      throw new OptionError('a sweep needs a prefix: without one it would take everything', { code: 'invalid_option' });
    }
    const { prefix, olderThanMs, dryRun, signal } = sweep;
    const found = await this.list({ prefix, ...(signal ? { signal } : {}),
      ...(olderThanMs === undefined ? {} : { createdBefore: new Date(Date.now() - olderThanMs) }) });
    // The server has filtered; this is so that no later version of it can make us delete another's.
    const chosen = found.filter(({ name }) => name.startsWith(prefix));
    if (dryRun === true) return chosen;
    const left = [...chosen];
    const next = async (): Promise<void> => {
      for (let one = left.shift(); one !== undefined; one = left.shift()) {
        try {
          await this.delete(one.id, { signal });
        } catch (error) {
          if (!(error instanceof NotFoundError)) throw error;
        }
      }
    };
    await Promise.all(Array.from({ length: SWEEP_AT_ONCE }, next));
    return chosen;
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
    const { error, columns, rows, row_count, command } = await this.sql(database, text, params, options);
    if (error !== undefined && error !== null) throw new SqlError(error);
    const named = rows.map((row) => Object.fromEntries(columns.map(({ name }, at) => [name, row[at]])) as Row);
    return { rows: named, rowCount: row_count, command, columns };
  }

  /**
   * Waits until a database is in a state; `ACTIVE` when none is named.
   *
   * @throws {WaitError} `wait_timeout`; `wait_hopeless` when it came to rest in another state.
   */
  async waitFor(database: string, state = 'ACTIVE', options: WaitOptions = {}): Promise<Database> {
    const timeoutMs = options.timeoutMs ?? WAIT_MS;
    let seen = 'nothing';
    const look = async (): Promise<Database | undefined> => {
      const found = await this.get(database, { signal: options.signal });
      seen = `${found.state}${found.state_reason ? ` (${found.state_reason})` : ''}`;
      if (found.state === state) return found;
      if (!FINAL.has(found.state)) return undefined;
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

/** The SHA-256 of a text, in hexadecimal. */
export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
