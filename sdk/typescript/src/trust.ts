/**
 * `fetch` for a server whose certificate an authority of one's own signed.
 *
 * Node's `fetch` takes no authority without a package beside it, so this asks `node:https`. Verification stays on:
 * chain and name are checked against the given authority, and no other.
 */
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:https';

import { OptionError } from './errors.js';
import type { Fetch, FetchAnswer } from './transport.js';

/** Answers are at most as large as the server lets a result be, and a little more; 64 MiB is far beyond. */
const ANSWER_BYTES_MAX = 64 << 20;

/** Certificates in PEM form, or the path of a file with such. */
export function certificates(given: string): string {
  if (given.includes('-----BEGIN CERTIFICATE-----')) return given;
  let text: string;
  try {
    text = readFileSync(given, 'utf8');
  } catch (cause) {
    throw new OptionError(`the certificates in ${given} cannot be read`, { code: 'invalid_option', cause });
  }
  if (text.includes('-----BEGIN CERTIFICATE-----')) return text;
  throw new OptionError(`there are no certificates in ${given}`, { code: 'invalid_option',
    hint: '`ca` and TENANTRY_API_CA name a file of certificates in PEM form' });
}

/** A `fetch` that trusts these certificates, and no others. Plain http is left to the usual one. */
export function fetchTrusting(ca: string): Fetch {
  const agent = new Agent({ ca, keepAlive: true });
  return (url, init) =>
    url.startsWith('https:') ? overTls(agent, url, init) : globalThis.fetch(url, init);
}

function overTls(agent: Agent, url: string, init: Parameters<Fetch>[1]): Promise<FetchAnswer> {
  return new Promise((resolve, reject) => {
    const { method, headers, signal, body } = init;
    const sent = request(url, { agent, method, signal, headers: body === undefined ? headers
      : { ...headers, 'content-length': String(Buffer.byteLength(body)) } });
    sent.on('error', reject);
    sent.on('response', (answer) => {
      const status = answer.statusCode ?? 0;
      const pieces: Buffer[] = [];
      let bytes = 0;
      answer.on('data', (piece: Buffer) => {
        bytes += piece.length;
        if (bytes > ANSWER_BYTES_MAX) answer.destroy(new Error(`more than ${ANSWER_BYTES_MAX} bytes`));
        else pieces.push(piece);
      });
      answer.on('error', reject);
      answer.on('aborted', () => reject(Object.assign(new Error('broken off'), { code: 'ECONNRESET' })));
      answer.on('end', () => {
        if (status >= 300 && status < 400) return reject(new Error(`redirected (HTTP ${status})`));
        const value = (name: string): string | null => {
          const found = answer.headers[name];
          return (Array.isArray(found) ? found[0] : found) ?? null;
        };
        resolve({ status, headers: { get: value }, text: async () => Buffer.concat(pieces).toString('utf8') });
      });
    });
    sent.end(body);
  });
}
