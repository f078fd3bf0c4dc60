/**
 * Which tenant the running code belongs to, and its pool.
 *
 * A tenant is bound to a piece of work, not to a process: `AsyncLocalStorage` carries it through every `await`,
 * timer and callback that the work starts, so two requests that interleave each have their own. Code that no
 * tenant is bound to gets an error, never somebody's database.
 */
import { AsyncLocalStorage } from 'node:async_hooks';

import { TenantError } from './errors.js';
import { expressMiddleware, type ExpressMiddleware } from './express.js';
import { fastifyPlugin, type FastifyPlugin } from './fastify.js';
import { Pools, type PgPool, type PoolsOptions } from './pools.js';
import { checked, type RequestLike, type Resolver } from './resolve.js';

/** A piece of work of one tenant. */
export interface Scope {
  readonly tenant: string;
  /** Keeps its pool open until it ends. */
  hold(): void;
  /** Runs something as part of it. */
  run<T>(work: () => T): T;
  /** Its pool may be closed from now on. May be called again. */
  end(): void;
}

/** Where requests find their tenant. */
export interface BindOptions<R extends RequestLike> {
  from: Resolver<R>;
}

/** The client that the promise of `connect` gives. */
type ClientOf<P> = P extends { connect: { (): Promise<infer C>; (done: never): void } } ? C
  : P extends { connect(): Promise<infer C> } ? C : never;

interface Query {
  query(text: string): Promise<unknown>;
  release(error?: Error | boolean): void;
}

export class Tenants<P extends PgPool> {
  private readonly scopes = new AsyncLocalStorage<Scope>();
  private readonly pools: Pools<P>;

  constructor(options: PoolsOptions<P>) {
    this.pools = new Pools(options);
  }

  /** The tenant of the running code. @throws {TenantError} `tenant_not_bound` */
  current(): string {
    const scope = this.scopes.getStore();
    if (scope !== undefined) return scope.tenant;
    throw new TenantError('tenant_not_bound', 500, 'no tenant is bound here', {
      hint: 'requests get theirs from the middleware, jobs from runAsTenant' });
  }

  /** Whether a tenant is bound. */
  isBound(): boolean {
    return this.scopes.getStore() !== undefined;
  }

  /** The pool of the tenant of the running code. Take it where it is used: it is another one in another request. */
  pool(): P {
    const tenant = this.current();
    this.scopes.getStore()?.hold();
    return this.pools.of(tenant);
  }

  /** `pool().query(…)`. */
  query: P['query'] = ((...args: never[]) => this.pool().query(...args)) as P['query'];

  /** Runs `work` in a transaction: committed when it resolves, rolled back when it rejects. */
  async transaction<T>(work: (client: ClientOf<P>) => Promise<T>): Promise<T> {
    const client = (await this.pool().connect()) as Query;
    let broken: Error | undefined;
    try {
      await client.query('BEGIN');
      const result = await work(client as ClientOf<P>);
      await client.query('COMMIT');
      return result;
    } catch (error) {
      // Where this fails, too, the connection is not used again.
      await client.query('ROLLBACK').catch((failed: Error) => (broken = failed));
      throw error;
    } finally {
      client.release(broken);
    }
  }

  /** Runs `work`, a job or a test, as this tenant. */
  async runAsTenant<T>(tenant: string, work: () => T | Promise<T>): Promise<T> {
    const scope = this.open(checked(tenant));
    try {
      return await scope.run(work);
    } finally {
      scope.end();
    }
  }

  /** Middleware for Express: before every handler that asks for its tenant. */
  express<R extends RequestLike>(options: BindOptions<R>): ExpressMiddleware<R> {
    return expressMiddleware((tenant) => this.open(tenant), options.from);
  }

  /** Plugin for Fastify, for the instance that it is registered in. */
  fastify<R extends RequestLike>(options: BindOptions<R>): FastifyPlugin {
    return fastifyPlugin((tenant) => this.open(tenant), options.from as Resolver);
  }

  /** Tenants that have a pool at the moment. */
  tenants(): string[] {
    return this.pools.tenants;
  }

  /** Closes all pools, after what is running has ended. */
  close(): Promise<void> {
    return this.pools.close();
  }

  private open(tenant: string): Scope {
    let isOver = false;
    let release: (() => void) | undefined;
    const scope: Scope = {
      tenant,
      hold: () => {
        // What goes on after its end has the tenant still, and a pool as long as that is in use.
        if (!isOver) release ??= this.pools.use(tenant);
      },
      run: (work) => this.scopes.run(scope, work),
      end: () => {
        isOver = true;
        release?.();
      },
    };
    return scope;
  }
}

/** See {@link Tenants}. */
export function createTenants<P extends PgPool>(options: PoolsOptions<P>): Tenants<P> {
  return new Tenants(options);
}
