/** A running `tenantry serve` for tests. */
import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { createTenantryClient, MemoryCredentialStore, type TenantryClient } from 'tenantry';

/** From the start of the process to its ready line, on a busy machine that also runs initdb. */
const READY_MS_MAX = 120_000;

export interface Server {
  apiUrl: string;
  /** The certificate of both ports, made by the server. */
  caFile: string;
  operatorKey: string;
  stop(): Promise<void>;
}

export function bin(): string {
  const path = process.env['TENANTRY_BIN'];
  if (path === undefined) throw new Error('TENANTRY_BIN names the program under test');
  return path;
}

/** A directory that PostgreSQL's user may enter. */
export function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), 'tenantry-sdk-'));
  chmodSync(dir, 0o755);
  return dir;
}

/** Where Debian has PostgreSQL's programs: all of them, while the path may lead to some only. */
function pgBin(): string[] {
  const dirs = ['18', '17', '16', '15'].map((major) => `/usr/lib/postgresql/${major}/bin`);
  const dir = process.env['TENANTRY_PG_BIN'] ?? dirs.find((one) => existsSync(join(one, 'postgres')));
  return dir === undefined ? [] : ['--pg-bin', dir];
}

export async function startServer(...argv: string[]): Promise<Server> {
  const dir = scratch();
  const data = join(dir, 'data');
  const child = spawn(bin(), ['serve', '--log', 'json', '--data-dir', data, '--pg-listen', '127.0.0.1:0',
    '--api-listen', '127.0.0.1:0', ...pgBin(), ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
  const stop = async (): Promise<void> => {
    await ended(child);
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const ready = await readyLine(child);
    const url = /https?:\/\/[^", ;]+/.exec(ready)?.[0];
    if (url === undefined) throw new Error(`no address in ${ready}`);
    return {
      apiUrl: url,
      caFile: join(data, 'tls/server.crt'),
      operatorKey: readFileSync(join(data, 'operator.key'), 'utf8').trim(),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function readyLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let out = '';
    let log = '';
    const limit = setTimeout(() => reject(new Error(`not ready in time: ${out}${log}`)), READY_MS_MAX);
    child.stderr?.on('data', (piece: Buffer) => (log = (log + piece.toString()).slice(-20_000)));
    child.stdout?.on('data', (piece: Buffer) => {
      out += piece.toString();
      const line = out.split('\n').find((one) => one.includes('ready'));
      if (line === undefined || !out.includes('\n')) return;
      clearTimeout(limit);
      resolve(line);
    });
    child.on('exit', (code) => reject(new Error(`ended with ${code}: ${out}${log}`)));
    child.on('error', reject);
  });
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve();
    child.on('exit', () => resolve());
    // Twice: without waiting for clients.
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGTERM'), 2000).unref();
  });
}

/** The server that `run.mjs` started for all files. */
export function shared(): { apiUrl: string; caFile: string } {
  const apiUrl = process.env['TEST_API_URL'];
  const caFile = process.env['TEST_CA_FILE'];
  if (apiUrl === undefined || caFile === undefined) throw new Error('run through test/run.mjs');
  return { apiUrl, caFile };
}

/** A client of the shared server with a project that nobody else has and that may have any number of databases. */
export async function ownClient(baseUrl: string = shared().apiUrl): Promise<TenantryClient> {
  return createTenantryClient({ baseUrl, credentialStore: new MemoryCredentialStore(), retryDelay: 20 });
}

/** What to do with a request on its way. */
export type Fault = 'pass' | 'lose-answer' | 'lose-request' | { status: number; body: string; headers?: Record<string, string> };

/** A server in between that does things to requests, as networks and load balancers do. */
export async function between(to: string, fault: (method: string, path: string, count: number) => Fault):
    Promise<{ url: string; seen: string[]; keys: string[]; stop(): Promise<void> }> {
  const seen: string[] = [];
  const keys: string[] = [];
  const server = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', async () => {
      const { method = '', url = '' } = request;
      seen.push(`${method} ${url}`);
      keys.push(String(request.headers['idempotency-key'] ?? ''));
      const what = fault(method, url, seen.length);
      if (what === 'lose-request') return void request.socket.destroy();
      if (typeof what === 'object') {
        response.writeHead(what.status, what.headers ?? {});
        return void response.end(what.body);
      }
      const { host, connection, 'content-length': length, ...headers } = request.headers;
      void host, void connection, void length;
      const answer = await fetch(`${to}${url}`, { method, headers: headers as Record<string, string>,
        ...(pieces.length > 0 ? { body: Buffer.concat(pieces) } : {}) });
      const body = await answer.text();
      if (what === 'lose-answer') return void request.socket.destroy();
      const back: Record<string, string> = {};
      for (const name of ['content-type', 'x-next-after', 'x-request-id', 'retry-after']) {
        const value = answer.headers.get(name);
        if (value !== null) back[name] = value;
      }
      response.writeHead(answer.status, back);
      response.end(body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return { url: `http://127.0.0.1:${address.port}`, seen, keys,
    stop: () => new Promise((resolve) => { server.closeAllConnections(); server.close(() => resolve()); }) };
}
