/**
 * How a tenant's connections log in: asked for once, kept until shortly before it expires, asked for again when
 * the server refuses it.
 */
import type { TenantryClient } from '../client.js';
import { NotFoundError } from '../errors.js';
import { TenantError } from './errors.js';

/** Where to connect, and as whom. */
export interface TenantLogin {
  host: string;
  port: number;
  database: string;
  user: string;
  password: string;
  /** The password is good until then; left out: until it is refused. */
  expiresAt?: Date | string | null | undefined;
}

/** Finds out how to log in to a tenant's database. Rejects with a `NotFoundError` when there is none. */
export type Connect = (tenant: string) => Promise<TenantLogin | string>;

/** How `connectTokens` asks. */
export interface ConnectTokenOptions {
  /** `admin`, `write` (default) or `read`. */
  role?: 'admin' | 'write' | 'read' | undefined;
  /** Seconds; the bound of the server when left out. */
  ttlSeconds?: number | undefined;
  /** The database of a tenant, by name or id. The tenant's own name when left out. */
  database?: ((tenant: string) => string) | undefined;
}

/** Logs in by connect tokens: no password of a tenant is kept, and each works for some minutes. */
export function connectTokens(client: TenantryClient, options: ConnectTokenOptions = {}): Connect {
  const { role = 'write', ttlSeconds, database: nameOf = (tenant: string): string => tenant } = options;
  return async (tenant) => {
    const made = await client.databases.connectToken(nameOf(tenant), { role, ttl_seconds: ttlSeconds });
    const { host, port, database, user, token, expires_at } = made;
    return { host, port, database, user, password: token, expiresAt: expires_at };
  };
}

/** Before its end a password is not used any more: the clocks differ, and a login takes a moment. */
const MARGIN_MS = 15_000;

export class Login {
  private current: Promise<TenantLogin> | undefined;
  private count = 0;

  constructor(private readonly tenant: string, private readonly connect: Connect) {}

  /** Which login this is; see `refused`. */
  get generation(): number {
    return this.count;
  }

  /** A login that has not expired. Many callers at once ask once. */
  async get(): Promise<TenantLogin> {
    const mine = this.current ?? this.ask();
    const known = await mine;
    return isOver(known) ? this.ask(mine) : known;
  }

  /** The server refused this one: the next `get` asks again, unless somebody did already. */
  refused(generation: number): void {
    if (generation === this.count) this.current = undefined;
  }

  private ask(instead?: Promise<TenantLogin>): Promise<TenantLogin> {
    if (this.current !== undefined && this.current !== instead) return this.current;
    this.count++;
    const asked = this.connect(this.tenant).then((found) => (typeof found === 'string' ? loginOf(found) : found));
    const current = asked.catch((cause: unknown) => {
      // A failure is not kept.
      if (this.current === current) this.current = undefined;
      throw cause instanceof NotFoundError
        ? new TenantError('unknown_tenant', 404, `there is no tenant ${this.tenant}`, { cause })
        : new TenantError('tenant_unavailable', 503, `no login for tenant ${this.tenant}`, { cause });
    });
    this.current = current;
    return current;
  }
}

function isOver({ expiresAt }: TenantLogin): boolean {
  return expiresAt !== undefined && expiresAt !== null && new Date(expiresAt).getTime() - MARGIN_MS <= Date.now();
}

/** The parts of a connection string. */
function loginOf(text: string): TenantLogin {
  const { hostname, port, pathname, username, password } = new URL(text);
  return {
    host: hostname.replace(/^\[|\]$/g, ''),
    port: Number(port || 5432),
    database: decodeURIComponent(pathname.slice(1)) || 'postgres',
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
  };
}
