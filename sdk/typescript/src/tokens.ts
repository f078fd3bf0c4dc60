/** Tokens of the API, and what opens a database for some time. Each secret is in the answer that made it, only. */
import type { Schemas } from './generated/api.js';
import type { RequestOptions, Session } from './session.js';

export type Token = Schemas['TokenResponse'];
export type Access = Schemas['AccessResponse'];

/** A token to be made; bound to these databases, or to the whole project. */
export type NewToken = Omit<Schemas['TokenRequest'], 'scope_json'> & {
  /** As `get-db9` writes it. */
  scope_json?: string | undefined;
  /** The same as a list. */
  databases?: readonly { id: string; access: 'ro' | 'rw' }[] | undefined;
};

/** `client.tokens`. */
export class Tokens {
  constructor(private readonly session: Session) {}

  /** Makes a token; its text is in `token`. */
  create({ databases, ...request }: NewToken = {}, options: RequestOptions = {}): Promise<Token> {
    const scope = databases === undefined ? {} : { scope_json: JSON.stringify({ databases }) };
    return this.session.call('POST /customer/tokens', { body: { ...request, ...scope }, ...options });
  }

  /** Those that are not revoked, oldest first. */
  list(options: RequestOptions = {}): Promise<Token[]> {
    return this.session.call('GET /customer/tokens', { query: {}, ...options });
  }

  /** The next request that carries it is refused. */
  revoke(token: string, options: RequestOptions = {}): Promise<Schemas['Revoked']> {
    return this.session.call('DELETE /customer/tokens/{credential}', { path: { credential: token }, ...options });
  }
}

/** `client.databases.access`: passwords, connect tokens and shares of a database. */
export class DatabaseAccess {
  constructor(private readonly session: Session) {}

  /** What opens it now, oldest first: who made it, when it was last used, from where. */
  list(database: string, options: RequestOptions = {}): Promise<Access[]> {
    return this.session.call('GET /customer/databases/{database}/access', { path: { database }, ...options });
  }

  /** Refused on every proxy within a second. Sessions of passwords and shares end; those of connect tokens stay. */
  revoke(database: string, access: string, options: RequestOptions = {}): Promise<Schemas['Revoked']> {
    return this.session.call('DELETE /customer/databases/{database}/access/{credential}',
      { path: { database, credential: access }, ...options });
  }
}
