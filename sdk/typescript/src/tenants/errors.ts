/** What goes wrong between a request and its tenant. */
import { TenantryError, type ErrorFacts } from '../errors.js';

/**
 * A request or a job has no tenant, or not a usable one. `status` is what an answer over HTTP should have, and both
 * Express and Fastify take it from here: `tenant_not_bound` 500, `tenant_required` 400, `invalid_tenant` 400,
 * `invalid_token` 401, `unknown_tenant` 404, `tenant_unavailable` and `too_many_tenants` 503, `closed` 500.
 */
export class TenantError extends TenantryError {
  constructor(code: string, status: number, message: string, more: Pick<ErrorFacts, 'hint' | 'cause'> = {}) {
    super(message, { code, status, ...more });
  }
}
