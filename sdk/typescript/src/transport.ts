/**
 * One request and its answer: who asks, trying again, reading errors.
 *
 * Owns: when a request may be sent a second time. A read always; a write because it carries an
 * `Idempotency-Key`, by which the server does it once however often it comes; SQL only when the server said
 * that it did not begin, because a key does not outlive a crash of the server between the statement and its answer.
 * Does not own: what the requests are (`databases`, `client`), or where credentials lie (`credentials`).
 */
import { randomBytes } from 'node:crypto';

import { ConnectionError, errorOfAnswer, OptionError, type TenantryError } from './errors.js';
import type { Operations } from './generated/api.js';
import { pause } from './wait.js';

/** Longest for one attempt. A create on a slow disk takes seconds, SQL ends by its own limits; as the CLI. */
const TIMEOUT_MS = 120_000;
/** Times a request is sent again. Three reach over the restart of a load balancer, and not over an outage. */
const RETRIES = 3;
/** More than this is a queue without an end. */
const RETRIES_MAX = 10;
/** Before the first repetition; doubles, and half of each is by chance, so that many do not come at once. */
const RETRY_DELAY_MS = 250;
/** A pause, also one that the server asks for, is not longer. */
const PAUSE_MS_MAX = 10_000;
/** Errors that mean the request did not begin, so that even SQL may be sent again. */
const NOT_BEGUN = new Set(['too_many_requests', 'draining', 'catalog_unavailable', 'idempotency_in_progress']);
/** Errors of the network that come before anything was sent. */
const NOT_SENT = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ECONNABORTED',
  'UND_ERR_CONNECT_TIMEOUT']);
/** Errors of TLS: the server cannot be trusted, and will not be in a moment. */
const NOT_TRUSTED = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|SSL|TLS/;

/** The part of `fetch` that is used here. */
export type Fetch = (url: string, init: FetchInit) => Promise<FetchAnswer>;
export interface FetchInit {
  method: string;
  headers: Record<string, string>;
  body?: string;
  redirect: 'error';
  signal: AbortSignal;
}
export interface FetchAnswer {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  text(): Promise<string>;
}

/** How a request is sent. */
export interface TransportOptions {
  /** Milliseconds for one attempt. Default: 120,000. */
  timeout?: number | undefined;
  /** Repetitions of a request that may be sent again. Default: 3; at most 10. */
  maxRetries?: number | undefined;
  /** Milliseconds before the first repetition; doubles. Default: 250. */
  retryDelay?: number | undefined;
}

/** How one request differs from others. */
export interface RequestOptions {
  /** Ends the request, and waiting for the next attempt. */
  signal?: AbortSignal | undefined;
  /** Of a write: the same key with the same request is done once within an hour. Made up when left out. */
  idempotencyKey?: string | undefined;
}

type Input<K extends keyof Operations> = {
  [P in 'path' | 'query' | 'body' as Operations[K][P] extends undefined ? never : P]: Operations[K][P];
};

/** What an operation takes. */
export type InputOf<K extends keyof Operations> = Input<K> & RequestOptions & { repeat?: Repeat };
/** When an operation may be sent again; see the head of this file. */
export type Repeat = 'always' | 'when-not-begun';

/** An answer, and what its headers add. */
export interface Answer<K extends keyof Operations> {
  body: Operations[K]['answer'];
  status: number;
  /** A list goes on after this. */
  nextAfter: string | undefined;
}

interface Prepared {
  method: string;
  url: string;
  headers: Record<string, string>;
  body: string | undefined;
  signal: AbortSignal | undefined;
  repeat: Repeat;
}

/** Sends requests to one server. */
export class Transport {
  readonly url: string;
  private readonly fetch: Fetch;
  private readonly timeout: number;
  private readonly retries: number;
  private readonly delay: number;

  constructor(url: string, fetch: Fetch, options: TransportOptions) {
    this.url = checkedUrl(url);
    this.fetch = fetch;
    this.timeout = bounded('timeout', options.timeout ?? TIMEOUT_MS, 1, 3_600_000);
    this.retries = bounded('maxRetries', options.maxRetries ?? RETRIES, 0, RETRIES_MAX);
    this.delay = bounded('retryDelay', options.retryDelay ?? RETRY_DELAY_MS, 0, PAUSE_MS_MAX);
  }

  /**
   * @throws {ApiError} or a subclass, when the server answered with an error that stayed.
   * @throws {ConnectionError} when there was no answer.
   */
  async send<K extends keyof Operations & string>(
    operation: K,
    input: InputOf<K>,
    token: string | undefined,
  ): Promise<Answer<K>> {
    const request = this.prepare(operation, input as AnyInput, token);
    for (let attempt = 0; ; attempt++) {
      const outcome = await this.once(request);
      if (!('error' in outcome)) return outcome as Answer<K>;
      if (attempt >= this.retries || !mayRepeat(outcome, request.repeat)) throw outcome.error;
      const doubled = Math.min(this.delay * 2 ** attempt, PAUSE_MS_MAX);
      const ms = outcome.pauseMs ?? doubled / 2 + Math.random() * (doubled / 2);
      await pause(Math.min(ms, PAUSE_MS_MAX), request.signal);
    }
  }

  private prepare(operation: string, input: AnyInput, token: string | undefined): Prepared {
    const [method = '', template = ''] = operation.split(' ');
    const path = template.replace(/\{(\w+)\}/g, (_, name: string) => segment(name, input.path?.[name]));
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(input.query ?? {})) {
      if (value !== undefined && value !== null) query.set(name, String(value));
    }
    const headers: Record<string, string> = { accept: 'application/json' };
    if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
    if (method !== 'GET') headers['idempotency-key'] = input.idempotencyKey ?? randomBytes(16).toString('hex');
    const body = input.body === undefined ? undefined : JSON.stringify(input.body);
    if (body !== undefined) headers['content-type'] = 'application/json';
    const search = query.size === 0 ? '' : `?${query}`;
    return { method, url: `${this.url}${path}${search}`, headers, body, signal: input.signal,
      repeat: input.repeat ?? 'always' };
  }

  private async once(request: Prepared): Promise<Answer<keyof Operations> | Failed> {
    const limit = AbortSignal.timeout(this.timeout);
    const stop = new AbortController();
    const onAbort = (): void => stop.abort();
    limit.addEventListener('abort', onAbort);
    request.signal?.throwIfAborted();
    request.signal?.addEventListener('abort', onAbort);
    try {
      const answer = await this.fetch(request.url, {
        method: request.method,
        headers: request.headers,
        // A token must not follow a redirect to somebody else.
        redirect: 'error',
        signal: stop.signal,
        ...(request.body === undefined ? {} : { body: request.body }),
      });
      return read(answer, await answer.text());
    } catch (cause) {
      request.signal?.throwIfAborted();
      return lost(this.url, cause, limit.aborted);
    } finally {
      limit.removeEventListener('abort', onAbort);
      request.signal?.removeEventListener('abort', onAbort);
    }
  }
}

interface AnyInput extends RequestOptions {
  path?: Record<string, string>;
  query?: Record<string, unknown>;
  body?: unknown;
  repeat?: Repeat;
}

interface Failed {
  error: TenantryError;
  /** What the server asked for, in milliseconds. */
  pauseMs?: number | undefined;
}

function mayRepeat({ error }: Failed, repeat: Repeat): boolean {
  if (NOT_BEGUN.has(error.code) || error.code === 'unreachable') return true;
  if (repeat === 'when-not-begun') return false;
  if (error instanceof ConnectionError) {
    return error.code !== 'untrusted' && (error.status === undefined || error.status >= 502);
  }
  return error.status !== undefined && error.status >= 502;
}

function read(answer: FetchAnswer, text: string): Answer<keyof Operations> | Failed {
  const requestId = answer.headers.get('x-request-id') ?? undefined;
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    body = undefined;
  }
  const isSuccess = answer.status >= 200 && answer.status < 300;
  if (isSuccess && body !== undefined) {
    return { body, status: answer.status, nextAfter: answer.headers.get('x-next-after') ?? undefined };
  }
  const asked = Number(answer.headers.get('retry-after') ?? Number.NaN);
  return {
    error: errorOfAnswer(answer.status, isSuccess ? undefined : body, requestId),
    pauseMs: Number.isFinite(asked) && asked >= 0 ? asked * 1000 : undefined,
  };
}

/** The code that the innermost error of the network carries. */
function codeOf(error: unknown): string {
  let code = '';
  for (let cause: unknown = error, depth = 0; cause instanceof Error && depth < 5; cause = cause.cause, depth++) {
    const here: unknown = Reflect.get(cause, 'code');
    if (typeof here === 'string') code = here;
    // Several addresses were tried.
    if (cause instanceof AggregateError && cause.errors[0] instanceof Error) code = codeOf(cause.errors[0]) || code;
  }
  return code;
}

function lost(url: string, cause: unknown, isTimeout: boolean): Failed {
  const network = codeOf(cause);
  const fail = (code: string, why: string, hint: string): Failed => ({
    error: new ConnectionError(`${url}: ${why}`, { code, hint, cause }),
  });
  if (isTimeout) return fail('timeout', 'no answer in time', 'it may have happened; look before you repeat it');
  if (NOT_TRUSTED.test(network)) {
    return fail('untrusted', `its certificate is refused (${network})`,
      'name the authority with the option `ca` or TENANTRY_API_CA; a server without a certificate of its own made ' +
      'one, tls/server.crt in its data directory');
  }
  if (NOT_SENT.has(network)) {
    return fail('unreachable', `cannot be reached (${network})`,
      'is `tenantry serve` running there? TENANTRY_API_URL names another address');
  }
  return fail('connection_lost', `the connection broke${network ? ` (${network})` : ''}`,
    'it may have happened; look before you repeat it');
}

function segment(name: string, value: string | undefined): string {
  // An empty name would lead to another path; so would a point.
  if (value === undefined || value === '' || value === '.' || value === '..') {
    throw new OptionError(`${name} is missing`, { code: 'invalid_option' });
  }
  return encodeURIComponent(value);
}

function checkedUrl(given: string): string {
  const invalid = (why: string): never => {
    throw new OptionError(`the address of the API ${why}`, { code: 'invalid_option',
      hint: 'it looks like http://127.0.0.1:5480; TENANTRY_API_URL or the option `baseUrl`' });
  };
  let url: URL;
  try {
    url = new URL(given);
  } catch {
    return invalid('cannot be read');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return invalid('begins with neither http nor https');
  if (url.username !== '' || url.password !== '') return invalid('carries a user name or password');
  return given.replace(/\/+$/, '');
}

function bounded(name: string, value: number, least: number, most: number): number {
  if (Number.isFinite(value) && value >= least && value <= most) return value;
  throw new OptionError(`${name} is ${value}, and must be from ${least} to ${most}`, { code: 'invalid_option' });
}
