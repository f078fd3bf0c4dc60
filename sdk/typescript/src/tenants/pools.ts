/**
 * One pool for each tenant that is in use: made at first use, closed when nobody used it for a while.
 *
 * A connection belongs to the pool of one tenant for its life, and the password decides which database it reaches,
 * so a mistake here can refuse but not mix. Owns: how many pools there are, when one is closed, and the second
 * attempt with a fresh login. Does not own: which tenant a request belongs to (`scope`).
 */
import { AsyncResource } from 'node:async_hooks';

import { TenantError } from './errors.js';
import { Login, type Connect } from './login.js';

/** What is used of `pg.Pool`. */
export interface PgPool {
  readonly totalCount: number;
  readonly idleCount: number;
  readonly waitingCount: number;
  connect(...args: never[]): unknown;
  query(...args: never[]): unknown;
  end(): Promise<void>;
  on(event: 'error', listener: (error: Error) => void): unknown;
}

/** `pg.Pool` itself, or a subclass. */
export type PgPoolClass<P extends PgPool> = new (config: never) => P;

export interface PoolsOptions<P extends PgPool> {
  /** The class `Pool` of `pg`. */
  Pool: PgPoolClass<P>;
  /** How to log in to a tenant: a connection string, or its parts. */
  connect: Connect;
  /** Further options of each pool, such as `max`, which is 4 when left out: it is for each tenant. */
  pool?: Record<string, unknown> | undefined;
  /** As `pg` takes it. Left out, certificates are verified; `{ ca }` names the authority of one of your own. */
  ssl?: Record<string, unknown> | undefined;
  /** A pool that nobody used for this long is closed. Default: 60,000. */
  idleMs?: number | undefined;
  /** Pools at once. One more closes the one that was not used for the longest time. Default: 500. */
  poolsMax?: number | undefined;
  /** Told of connections that broke while nobody used them; the pool replaces them. */
  onError?: ((error: Error, tenant: string) => void) | undefined;
}

const CONNECTIONS = 4;
const IDLE_MS = 60_000;
const POOLS_MAX = 500;
/** invalid_password, and what else a login is refused with when its token is over or revoked. */
const REFUSED = new Set(['28P01', '28000']);

interface Entry<P extends PgPool> {
  pool: P;
  /** Scopes that may still use it. */
  users: number;
  usedAt: number;
}

export class Pools<P extends PgPool> {
  private readonly entries = new Map<string, Entry<P>>();
  private readonly closing = new Set<Promise<void>>();
  private readonly idleMs: number;
  private readonly most: number;
  private sweeper: NodeJS.Timeout | undefined;
  private isClosed = false;

  constructor(private readonly options: PoolsOptions<P>) {
    this.idleMs = options.idleMs ?? IDLE_MS;
    this.most = options.poolsMax ?? POOLS_MAX;
  }

  /** Tenants that have a pool. */
  get tenants(): string[] {
    return [...this.entries.keys()];
  }

  /** The pool of a tenant. @throws {TenantError} `too_many_tenants`, when all others are in use. */
  of(tenant: string): P {
    return this.entry(tenant).pool;
  }

  /** Keeps the tenant's pool open until what is returned was called. */
  use(tenant: string): () => void {
    const entry = this.entry(tenant);
    entry.users++;
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      entry.users--;
      entry.usedAt = performance.now();
    };
  }

  /** Closes all, after what is running has ended. */
  async close(): Promise<void> {
    this.isClosed = true;
    clearInterval(this.sweeper);
    for (const tenant of this.tenants) this.drop(tenant);
    await Promise.all(this.closing);
  }

  private entry(tenant: string): Entry<P> {
    if (this.isClosed) throw new TenantError('closed', 500, 'the pools are closed');
    let entry = this.entries.get(tenant);
    if (entry === undefined) {
      this.makeRoom();
      entry = { pool: this.make(tenant), users: 0, usedAt: 0 };
    }
    // The order of the map is that of use.
    this.entries.delete(tenant);
    this.entries.set(tenant, entry);
    entry.usedAt = performance.now();
    return entry;
  }

  private make(tenant: string): P {
    const { Pool, connect, pool: more, ssl, onError } = this.options;
    const login = new Login(tenant, connect);
    const config: PoolConfig = {
      max: CONNECTIONS,
      ...more,
      ssl: { rejectUnauthorized: true, ...ssl },
      // Asked for each new connection, so that an expired one is not tried.
      password: async () => (await login.get()).password,
    };
    const pool = new Pool(config as never);
    pool.on('error', (error) => onError?.(error, tenant));
    withFreshLogin(pool, login);
    this.sweeper ??= setInterval(() => this.sweep(), Math.max(this.idleMs / 2, 10)).unref();
    return pool;
  }

  private sweep(): void {
    const before = performance.now() - this.idleMs;
    for (const [tenant, entry] of this.entries) {
      if (entry.usedAt <= before && isFree(entry)) this.drop(tenant);
    }
  }

  private makeRoom(): void {
    if (this.entries.size < this.most) return;
    for (const [tenant, entry] of this.entries) {
      if (isFree(entry)) return this.drop(tenant);
    }
    throw new TenantError('too_many_tenants', 503, `the pools of ${this.most} tenants are in use`, {
      hint: 'poolsMax is their number' });
  }

  private drop(tenant: string): void {
    const entry = this.entries.get(tenant);
    if (entry === undefined) return;
    this.entries.delete(tenant);
    const end = entry.pool.end().catch((error: Error) => this.options.onError?.(error, tenant))
      .finally(() => this.closing.delete(end));
    this.closing.add(end);
  }
}

function isFree({ pool, users }: Entry<PgPool>): boolean {
  return users === 0 && pool.waitingCount === 0 && pool.totalCount === pool.idleCount;
}

interface PoolConfig extends Record<string, unknown> {
  password: () => Promise<string>;
}
type Done = (error: Error | undefined, client?: unknown, release?: unknown) => void;
type Callable = (...args: unknown[]) => unknown;

/**
 * Makes the pool ask for its address before its first connection, and try once more when the server refuses the
 * login. Also gives callbacks the context of their caller: the pool calls them from whoever gives a connection back.
 */
function withFreshLogin(pool: PgPool, login: Login): void {
  const { connect, query } = pool as unknown as { connect: Callable; query: Callable };
  const target = pool as unknown as { connect: Callable; query: Callable; options: Record<string, unknown> };

  const once = async (onTried: (generation: number) => void): Promise<unknown> => {
    const { host, port, database, user } = await login.get();
    onTried(login.generation);
    Object.assign(target.options, { host, port, database, user });
    return connect.call(pool);
  };
  const fresh = async (): Promise<unknown> => {
    let tried = 0;
    try {
      return await once((generation) => (tried = generation));
    } catch (error) {
      if (!isRefused(error)) throw error;
      login.refused(tried);
      return once(() => {});
    }
  };
  target.connect = (done?: unknown) => {
    if (typeof done !== 'function') return fresh();
    const bound = AsyncResource.bind(done as Done);
    // Outside of the promise, where an error that the callback throws is the caller's.
    fresh().then(
      (client) => setImmediate(() => bound(undefined, client, (client as { release: unknown }).release)),
      (error: Error) => setImmediate(() => bound(error)));
    return undefined;
  };
  target.query = (...args) => {
    const last = args[args.length - 1];
    if (typeof last === 'function') args[args.length - 1] = AsyncResource.bind(last as Callable);
    return query.apply(pool, args);
  };
}

function isRefused(error: unknown): boolean {
  return error instanceof Error && REFUSED.has(String(Reflect.get(error, 'code')));
}
