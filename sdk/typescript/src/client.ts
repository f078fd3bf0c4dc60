/** The client: which server, as whom, and what it offers. */
import { Alerts } from './alerts.js';
import { Backups } from './backups.js';
import { FileCredentialStore, type CredentialStore } from './credentials.js';
import { Databases } from './databases.js';
import type { Schemas } from './generated/api.js';
import { projectOf, Session, type RequestOptions } from './session.js';
import { Transport, type Fetch, type TransportOptions } from './transport.js';
import { Tokens } from './tokens.js';
import { certificates, fetchTrusting } from './trust.js';

/** Where `tenantry serve` listens when nobody says otherwise. */
const URL_DEFAULT = 'http://127.0.0.1:5480';

/** All of them may be left out; then they come from where the command line takes them. */
export interface TenantryClientOptions extends TransportOptions {
  /** Address of the API. Otherwise `TENANTRY_API_URL`, otherwise http://127.0.0.1:5480. */
  baseUrl?: string | undefined;
  /** Otherwise `TENANTRY_API_KEY`, otherwise an anonymous project, registered at first use and kept in the store. */
  token?: string | undefined;
  /**
   * Certificates in PEM form, or the path of a file with such, that the API's must be signed by. Otherwise
   * `TENANTRY_API_CA`, otherwise those that Node trusts.
   */
  ca?: string | undefined;
  /** Otherwise the file of the command line. */
  credentialStore?: CredentialStore | undefined;
  /** Used instead of Node's `fetch`; `ca` is then its business. */
  fetch?: Fetch | undefined;
}

export interface TenantryClient {
  /** The address of the API. */
  readonly baseUrl: string;
  readonly auth: Auth;
  readonly tokens: Tokens;
  readonly databases: Databases;
  readonly alerts: Alerts;
  readonly backups: Backups;
}

/** A client. Nothing is sent yet. @throws {OptionError} */
export function createTenantryClient(options: TenantryClientOptions = {}): TenantryClient {
  const session = sessionOf(options);
  return {
    baseUrl: session.transport.url,
    auth: new Auth(session),
    tokens: new Tokens(session),
    databases: new Databases(session),
    alerts: new Alerts(session),
    backups: new Backups(session),
  };
}

function sessionOf(options: TenantryClientOptions): Session {
  const ca = options.ca ?? named('TENANTRY_API_CA');
  const usual: Fetch = (url, init) => globalThis.fetch(url, init);
  const fetch = options.fetch ?? (ca === undefined ? usual : fetchTrusting(certificates(ca)));
  const transport = new Transport(options.baseUrl ?? named('TENANTRY_API_URL') ?? URL_DEFAULT, fetch, options);
  const token = (options.token ?? process.env['TENANTRY_API_KEY'])?.trim();
  return new Session(transport, token === '' ? undefined : token, options.credentialStore ?? new FileCredentialStore());
}

function named(variable: string): string | undefined {
  return process.env[variable] || undefined;
}

/** `client.auth`. */
export class Auth {
  constructor(private readonly session: Session) {}

  /** Whose token this is. */
  me(options: RequestOptions = {}): Promise<Schemas['Me']> {
    return this.session.call('GET /customer/me', options);
  }

  /** The token that requests carry; registers an anonymous project when there is none. */
  token(): Promise<string> {
    return this.session.token();
  }

  /** Makes a new anonymous project, and keeps it in place of the one that was kept. */
  async anonymousRegister(options: RequestOptions = {}): Promise<Schemas['Registered']> {
    const answer = await this.session.open('POST /customer/anonymous-register', { repeat: 'when-not-begun', ...options });
    await this.session.change((kept) => void (kept.anonymous = projectOf(answer)));
    return answer;
  }

  /** A new token for a project, by its id and secret. Kept, when it is the project that is kept. */
  async anonymousRefresh(request: Schemas['RefreshRequest'], options: RequestOptions = {}): Promise<Schemas['Refreshed']> {
    const answer = await this.session.open('POST /customer/anonymous-refresh', { body: request, ...options });
    await this.session.change(({ anonymous }) => {
      if (anonymous?.anonymous_id !== request.anonymous_id) return;
      Object.assign(anonymous, { token: answer.token, expires_at: answer.expires_at });
    });
    return answer;
  }

  /** Makes the anonymous project somebody's, by a code from the operator: it keeps all it has, without the limit of five. */
  claim(request: Schemas['ClaimRequest'], options: RequestOptions = {}): Promise<Schemas['Me']> {
    return this.session.call('POST /customer/claim', { body: request, ...options });
  }

  /** What `adopt` of all databases of an anonymous project would come to. */
  adoptPreflight(request: Schemas['PreflightRequest'], options: RequestOptions = {}): Promise<Schemas['Preflight']> {
    return this.session.call('POST /customer/adopt-anonymous-databases/preflight', { body: request, ...options });
  }

  /** Moves databases of an anonymous project here, a hundred at most: all of them, or none. */
  adopt(request: Schemas['AdoptRequest'], options: RequestOptions = {}): Promise<Schemas['Adopted']> {
    return this.session.call('POST /customer/adopt-anonymous-databases', { body: request, ...options });
  }

  /** The secret of the project that is kept; who loses it loses the project. */
  async getAnonymousSecret(): Promise<string | undefined> {
    return (await this.session.kept()).anonymous?.anonymous_secret;
  }
}
