/**
 * Who asks: a given token, or an anonymous project that is registered at first use and refreshed when its token
 * has expired. As the command line does, and from the same file.
 */
import { randomBytes } from 'node:crypto';

import type { AnonymousProject, CredentialStore, KeptServer } from './credentials.js';
import { ApiError, AuthenticationError, CredentialsError } from './errors.js';
import type { Operations, Schemas } from './generated/api.js';
import type { Answer, InputOf, RequestOptions, Transport } from './transport.js';

type Operation = keyof Operations & string;

/** One server, as one user. */
export class Session {
  constructor(
    readonly transport: Transport,
    private readonly given: string | undefined,
    readonly store: CredentialStore,
  ) {}

  /** The answer's body. @throws as {@link Transport.send}. */
  async call<K extends Operation>(operation: K, input: InputOf<K>): Promise<Operations[K]['answer']> {
    return (await this.answer(operation, input)).body;
  }

  /** The whole answer. A refused token of an anonymous project is renewed once. */
  async answer<K extends Operation>(operation: K, input: InputOf<K>): Promise<Answer<K>> {
    // Also for the second attempt: the same request.
    const keyed = { idempotencyKey: randomBytes(16).toString('hex'), ...input } as InputOf<K>;
    if (this.given !== undefined) return this.transport.send(operation, keyed, this.given);
    const project = await this.project();
    try {
      return await this.transport.send(operation, keyed, project.token);
    } catch (error) {
      if (!(error instanceof AuthenticationError)) throw error;
      return this.transport.send(operation, keyed, (await this.renewed(project)).token);
    }
  }

  /** Needs no credentials. */
  async open<K extends Operation>(operation: K, input: InputOf<K>): Promise<Operations[K]['answer']> {
    return (await this.transport.send(operation, input, undefined)).body;
  }

  /** Changes what is kept about this server. */
  change(change: (kept: KeptServer) => void): Promise<void> {
    return this.store.exclusively(this.transport.url, async (store) => {
      const kept = await store.read();
      change(kept);
      await store.write(kept);
    });
  }

  /** What is kept about this server. */
  kept(): Promise<KeptServer> {
    return this.store.read(this.transport.url);
  }

  /** The token that requests carry; registers a project when nobody said who asks. */
  async token(): Promise<string> {
    return this.given ?? (await this.project()).token;
  }

  private async project(): Promise<AnonymousProject> {
    const { anonymous } = await this.kept();
    if (anonymous !== undefined) return anonymous;
    return this.store.exclusively(this.transport.url, async (store) => {
      const kept = await store.read();
      // Another process may have been first.
      if (kept.anonymous !== undefined) return kept.anonymous;
      const project = projectOf(await this.open('POST /customer/anonymous-register', { repeat: 'when-not-begun' }));
      await store.write({ ...kept, anonymous: project });
      return project;
    });
  }

  /** A new token for the project: once, since a refused secret stays refused. */
  private renewed(old: AnonymousProject): Promise<AnonymousProject> {
    return this.store.exclusively(this.transport.url, async (store) => {
      const kept = await store.read();
      if (kept.anonymous !== undefined && kept.anonymous.token !== old.token) return kept.anonymous;
      const { anonymous_id, anonymous_secret } = old;
      try {
        const answer = await this.open('POST /customer/anonymous-refresh', { body: { anonymous_id, anonymous_secret } });
        const project = { ...old, token: answer.token, expires_at: answer.expires_at };
        await store.write({ ...kept, anonymous: project });
        return project;
      } catch (cause) {
        if (!(cause instanceof ApiError) || cause.status === undefined || cause.status >= 500) throw cause;
        throw new CredentialsError(`the server does not know the project ${anonymous_id} that is kept here`, {
          code: 'credentials_refused', status: cause.status, requestId: cause.requestId, cause,
          hint: 'was its data directory replaced? `tenantry logout --force` sets the project aside, and the next ' +
            'use registers a new one',
        });
      }
    });
  }
}

/** The project in an answer of `anonymous-register`. */
export function projectOf(answer: Schemas['Registered']): AnonymousProject {
  const { anonymous_id, anonymous_secret, token, expires_at } = answer;
  return { anonymous_id, anonymous_secret, token, expires_at };
}

export type { RequestOptions };
