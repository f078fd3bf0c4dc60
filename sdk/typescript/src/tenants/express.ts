/** Express: binds the tenant for everything behind this middleware. */
import { resolve, type RequestLike, type Resolver } from './resolve.js';
import type { Scope } from './scope.js';

interface ResponseLike {
  readonly destroyed?: boolean;
  once(event: 'close', listener: () => void): unknown;
}
export type ExpressMiddleware<R extends RequestLike> = (
  request: R, response: ResponseLike, next: (error?: unknown) => void) => void;

export function expressMiddleware<R extends RequestLike>(open: (tenant: string) => Scope, from: Resolver<R>): ExpressMiddleware<R> {
  return (request, response, next) => {
    const begin = async (): Promise<Scope> => open(await resolve(from, request));
    begin().then((scope) => {
      // Comes once, after the answer or when the client went away.
      if (response.destroyed === true) scope.end();
      else response.once('close', scope.end);
      scope.run(next);
    }, next);
  };
}
