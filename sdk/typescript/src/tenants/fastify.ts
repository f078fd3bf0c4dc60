/** Fastify: binds the tenant for every request of the instance that the plugin is registered in. */
import { resolve, type RequestLike, type Resolver } from './resolve.js';
import type { Scope } from './scope.js';

interface ReplyLike {
  readonly raw: { readonly destroyed?: boolean; once(event: 'close', listener: () => void): unknown };
}
type Done = (error?: Error) => void;
type Hook = (request: RequestLike, reply: ReplyLike, done: Done) => void;
interface InstanceLike {
  // Fastify's own declarations have one overload for each hook.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  addHook(name: any, hook: any): unknown;
}
export type FastifyPlugin = (instance: InstanceLike, options: unknown, done: Done) => void;

export function fastifyPlugin(open: (tenant: string) => Scope, from: Resolver): FastifyPlugin {
  const scopes = new WeakMap<RequestLike, Scope>();
  const bind: Hook = (request, reply, done) => {
    const begin = async (): Promise<Scope> => open(await resolve(from, request));
    begin().then((scope) => {
      scopes.set(request, scope);
      if (reply.raw.destroyed === true) scope.end();
      else reply.raw.once('close', scope.end);
      scope.run(done);
    }, done);
  };
  // The body was read since, and what reads a stream goes on in the stream's context, not in the request's.
  const bindAgain: Hook = (request, _, done) => {
    const scope = scopes.get(request);
    if (scope === undefined) done();
    else scope.run(done);
  };
  const plugin: FastifyPlugin = (instance, _, done) => {
    instance.addHook('onRequest', bind);
    instance.addHook('preValidation', bindAgain);
    done();
  };
  // Without it the hooks would hold in a scope of their own, where no route is.
  return Object.assign(plugin, { [Symbol.for('skip-override')]: true, [Symbol.for('fastify.display-name')]: 'tenantry' });
}
