/** Which tenant a request belongs to: by a header, by the name of the host, or by a signed token. */
import { TenantError } from './errors.js';

/** What is looked at of a request; Node's, Express' and Fastify's all have it. */
export interface RequestLike {
  headers: Record<string, string | string[] | undefined>;
}

/** Names the tenant of a request, or undefined when the request names none. */
export type Resolver<R extends RequestLike = RequestLike> = (request: R) => string | undefined | Promise<string | undefined>;

/** By a header that something in front of this program sets. A client could send any, so it must not reach us directly. */
export function fromHeader(name = 'x-tenant'): Resolver {
  const key = name.toLowerCase();
  return ({ headers }) => single(headers[key], name);
}

/** By the first part of the host's name: with `of: 'example.com'`, `acme.example.com` is `acme`. */
export function fromSubdomain({ of }: { of: string }): Resolver {
  const ending = `.${of.toLowerCase()}`;
  return ({ headers }) => {
    const host = single(headers['host'], 'host')?.toLowerCase().replace(/:\d+$/, '');
    if (host === undefined || !host.endsWith(ending)) return undefined;
    return host.slice(0, -ending.length) || undefined;
  };
}

export interface JwtOptions {
  /** Returns the claims of a token whose signature, issuer, audience and times are right, and throws otherwise. */
  verify: (token: string) => Record<string, unknown> | Promise<Record<string, unknown>>;
  /** The claim that names the tenant. Default: `tenant`. */
  claim?: string;
}

/** By a claim of the token in `Authorization: Bearer …`. */
export function fromJwt({ verify, claim = 'tenant' }: JwtOptions): Resolver {
  return async ({ headers }) => {
    const token = /^Bearer +([^ ]+)$/i.exec(single(headers['authorization'], 'authorization') ?? '')?.[1];
    if (token === undefined) throw new TenantError('invalid_token', 401, 'there is no bearer token');
    let claims: Record<string, unknown>;
    try {
      claims = await verify(token);
    } catch (cause) {
      throw new TenantError('invalid_token', 401, 'the token is not valid', { cause });
    }
    const tenant = Object.hasOwn(claims, claim) ? claims[claim] : undefined;
    if (typeof tenant !== 'string') throw new TenantError('invalid_token', 401, `the token has no claim ${claim}`);
    return tenant;
  };
}

/** The tenant of a request, checked. @throws {TenantError} */
export async function resolve<R extends RequestLike>(from: Resolver<R>, request: R): Promise<string> {
  const tenant = await from(request);
  if (tenant === undefined) throw new TenantError('tenant_required', 400, 'the request names no tenant');
  return checked(tenant);
}

/** A name that is safe in a path, a log line and the name of a database. @throws {TenantError} */
export function checked(tenant: string): string {
  if (/^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$/.test(tenant)) return tenant;
  throw new TenantError('invalid_tenant', 400, 'the name of the tenant has other characters than letters, digits, _ and -');
}

function single(value: string | string[] | undefined, name: string): string | undefined {
  if (Array.isArray(value)) throw new TenantError('invalid_tenant', 400, `the header ${name} came more than once`);
  return value === '' ? undefined : value;
}
