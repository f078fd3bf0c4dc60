/**
 * What can go wrong, one class for each thing a caller does differently.
 *
 * Owns: the classes, and which answer of the server becomes which. Does not own: whether something is tried
 * again (`transport`).
 */

import type { Schemas } from './generated/api.js';

/** Everything this package throws on purpose. `code` is stable and for `switch`; `message` is for people. */
export class TenantryError extends Error {
  /** Of an answer that was an error; the codes are listed in docs/errors.md. Otherwise one of this package. */
  readonly code: string;
  /** HTTP status of the answer; undefined when there was none. */
  readonly status: number | undefined;
  /** PostgreSQL's code, where PostgreSQL refused. */
  readonly sqlstate: string | undefined;
  /** What to do about it; may be empty. */
  readonly hint: string;
  /** Quote it to your operator; it is in the server's log. */
  readonly requestId: string | undefined;

  constructor(message: string, facts: ErrorFacts) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause });
    this.name = new.target.name;
    this.code = facts.code;
    this.status = facts.status;
    this.sqlstate = facts.sqlstate;
    this.hint = facts.hint ?? '';
    this.requestId = facts.requestId;
  }

  /** The same as `status`, under the name that `get-db9` uses. */
  get statusCode(): number | undefined {
    return this.status;
  }
}

/** What an error is made from. */
export interface ErrorFacts {
  code: string;
  status?: number | undefined;
  sqlstate?: string | undefined;
  hint?: string | undefined;
  requestId?: string | undefined;
  cause?: unknown;
}

/** The server answered with an error. Subclasses say what kind; this one itself is used for kinds without one. */
export class ApiError extends TenantryError {}
/** 400, 405, 413, 422, 431: the request is wrong, and stays wrong. */
export class InvalidRequestError extends ApiError {}
/** 401: no token, or one that is invalid, expired or revoked. */
export class AuthenticationError extends ApiError {}
/** 403: the token is known and may not do this; also a used-up quota (`quota_exceeded`). */
export class PermissionError extends ApiError {}
/** 404: there is no such thing, or none this token may see. */
export class NotFoundError extends ApiError {}
/** 409: what is there does not allow it: `name_taken`, `wrong_state`, … */
export class ConflictError extends ApiError {}
/** 410: the server does not keep what was asked for. */
export class GoneError extends ApiError {}
/** 429: too much at once; it was tried again until `maxRetries`. */
export class RateLimitError extends ApiError {}
/** 5xx. What was asked may have happened, unless `code` says it did not begin. */
export class ServerError extends ApiError {}

/**
 * No answer that could be read: `unreachable` (nothing was sent), `connection_lost` and `timeout` (it may have
 * happened), `unreadable_response` (somebody else answered).
 */
export class ConnectionError extends TenantryError {}
/** PostgreSQL refused a statement. `code` is `sql_error`, `sqlstate` says why. */
export class SqlError extends TenantryError {
  /** PostgreSQL's further words, those that it gave. */
  readonly detail: string | undefined;
  /** Character in the statement, from 1. */
  readonly position: number | undefined;
  readonly schema: string | undefined;
  readonly table: string | undefined;
  readonly column: string | undefined;
  readonly constraint: string | undefined;
  /** Of a batch: which statement, from 0; undefined when it was the commit. */
  readonly statement: number | undefined;

  constructor(error: Schemas['SqlErrorDetail']) {
    super(error.message, { code: 'sql_error', sqlstate: error.code, hint: error.hint ?? '' });
    this.detail = error.detail ?? undefined;
    this.position = error.position ?? undefined;
    this.schema = error.schema ?? undefined;
    this.table = error.table ?? undefined;
    this.column = error.column ?? undefined;
    this.constraint = error.constraint ?? undefined;
    this.statement = error.statement ?? undefined;
  }
}
/**
 * `instantDatabase` has a database, and its seed is not in it: `seed_failed` and `seed_not_transactional`
 * (PostgreSQL refused; nothing of the seed stayed), `database_not_empty`, `seed_timeout`.
 */
export class SeedError extends TenantryError {
  constructor(message: string, facts: ErrorFacts, readonly databaseId: string) {
    super(message, facts);
  }
}
/** Something did not happen within its bound: `wait_timeout`; or cannot happen any more: `wait_hopeless`. */
export class WaitError extends TenantryError {}
/** The file of credentials cannot be used: `credentials_readable_by_others`, `credentials_unreadable`, … */
export class CredentialsError extends TenantryError {}
/** An option of this package makes no sense: `invalid_option`. */
export class OptionError extends TenantryError {}

/** The error for an answer that is none. A body that is not ours is still an error with its status. */
export function errorOfAnswer(status: number, body: unknown, requestId: string | undefined): TenantryError {
  const field = (name: string): string | undefined => {
    const value: unknown = typeof body === 'object' && body !== null ? Reflect.get(body, name) : undefined;
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const code = field('code');
  if (code === undefined) {
    return new ConnectionError(`HTTP ${status} with a body that is not Tenantry's`, {
      code: 'unreadable_response',
      status,
      requestId,
      hint: 'does the address lead to the API? The PostgreSQL port is another one',
    });
  }
  const facts: ErrorFacts = { code, status, hint: field('hint'), requestId: field('request_id') ?? requestId,
    sqlstate: field('sqlstate') };
  const Kind = kindOf(status);
  return new Kind(field('message') ?? field('error') ?? `HTTP ${status}`, facts);
}

function kindOf(status: number): typeof ApiError {
  switch (status) {
    case 400:
    case 405:
    case 413:
    case 422:
    case 431:
      return InvalidRequestError;
    case 401:
      return AuthenticationError;
    case 403:
      return PermissionError;
    case 404:
      return NotFoundError;
    case 409:
      return ConflictError;
    case 410:
      return GoneError;
    case 429:
      return RateLimitError;
    default:
      return status >= 500 ? ServerError : ApiError;
  }
}
