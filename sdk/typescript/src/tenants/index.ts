/** Requests and jobs that each belong to one tenant: `tenantry/tenants`. */
export { TenantError } from './errors.js';
export type { ExpressMiddleware } from './express.js';
export type { FastifyPlugin } from './fastify.js';
export { connectTokens } from './login.js';
export type { Connect, ConnectTokenOptions, TenantLogin } from './login.js';
export type { PgPool, PgPoolClass, PoolsOptions } from './pools.js';
export { fromHeader, fromJwt, fromSubdomain } from './resolve.js';
export type { JwtOptions, RequestLike, Resolver } from './resolve.js';
export { createTenants, Tenants } from './scope.js';
export type { BindOptions, Scope } from './scope.js';
