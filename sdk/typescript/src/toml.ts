/**
 * The part of TOML that the file of credentials is written in: tables, and values that are strings, numbers or
 * booleans. Anything else is refused with its line, and never with its text: it may be a secret.
 */
import { CredentialsError } from './errors.js';

export type TomlValue = string | number | boolean | TomlTable;
/** Without a prototype: a key of the file is never one of JavaScript's own. */
export interface TomlTable {
  [key: string]: TomlValue;
}

export function table(): TomlTable {
  return Object.create(null) as TomlTable;
}

const KEY = /^\s*(?:([A-Za-z0-9_-]+)|"((?:[^"\\]|\\.)*)"|'([^']*)')\s*/;
const STRING = /^\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)')\s*(?:#.*)?$/;
const PLAIN = /^\s*(true|false|[+-]?\d+(?:\.\d+)?)\s*(?:#.*)?$/;
const ESCAPES: Record<string, string> = { b: '\b', t: '\t', n: '\n', f: '\f', r: '\r', '"': '"', '\\': '\\' };

export function parseToml(text: string, file: string): TomlTable {
  const root = table();
  let current = root;
  text.split(/\r?\n/).forEach((line, index) => {
    const fail = (): never => {
      throw new CredentialsError(`${file}, line ${index + 1}: this is not understood`, {
        code: 'credentials_unreadable', hint: 'mend the file, or move it away to begin anew' });
    };
    if (/^\s*(#.*)?$/.test(line)) return;
    const header = /^\s*\[([^[].*)$/.exec(line);
    const { keys, rest } = readKeys(header?.[1] ?? line, fail);
    if (header !== null) {
      if (!/^\]\s*(#.*)?$/.test(rest)) fail();
      current = keys.reduce((at, key) => inside(at, key, fail), root);
      return;
    }
    if (!rest.startsWith('=')) fail();
    const at = keys.slice(0, -1).reduce((one, key) => inside(one, key, fail), current);
    const last = keys[keys.length - 1] ?? fail();
    if (last in at) fail();
    at[last] = readValue(rest.slice(1), fail);
  });
  return root;
}

function readKeys(from: string, fail: () => never): { keys: string[]; rest: string } {
  const keys: string[] = [];
  for (let rest = from; ; rest = rest.slice(1)) {
    const found = KEY.exec(rest) ?? fail();
    keys.push(found[1] ?? found[3] ?? unescape(found[2] ?? '', fail));
    rest = rest.slice(found[0].length);
    if (!rest.startsWith('.')) return { keys, rest };
  }
}

function inside(at: TomlTable, key: string, fail: () => never): TomlTable {
  const next = (at[key] ??= table());
  return typeof next === 'object' ? next : fail();
}

function readValue(text: string, fail: () => never): TomlValue {
  const string = STRING.exec(text);
  if (string !== null) return string[2] ?? unescape(string[1] ?? '', fail);
  const plain = PLAIN.exec(text)?.[1] ?? fail();
  return plain === 'true' ? true : plain === 'false' ? false : Number(plain);
}

function unescape(text: string, fail: () => never): string {
  return text.replace(/\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)/g, (_, escape: string) =>
    /^[uU]./.test(escape) && escape.length > 1
      ? String.fromCodePoint(Number.parseInt(escape.slice(1), 16))
      : (ESCAPES[escape] ?? fail()));
}

export function writeToml(root: TomlTable): string {
  const parts: string[] = [];
  writeTable(root, [], parts);
  return parts.join('\n');
}

function writeTable(at: TomlTable, path: string[], parts: string[]): void {
  const entries = Object.entries(at);
  const values = entries.filter(([, value]) => typeof value !== 'object');
  const tables = entries.filter((entry): entry is [string, TomlTable] => typeof entry[1] === 'object');
  if (path.length > 0 && (values.length > 0 || tables.length === 0)) parts.push(`[${path.map(quoted).join('.')}]`);
  for (const [key, value] of values) {
    parts.push(`${quoted(key)} = ${typeof value === 'string' ? string(value) : String(value)}`);
  }
  if (values.length > 0) parts.push('');
  for (const [key, value] of tables) writeTable(value, [...path, key], parts);
}

function quoted(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : string(key);
}

function string(text: string): string {
  const escaped = text.replace(/["\\\u0000-\u001f\u007f]/g, (one) =>
    one === '"' || one === '\\' ? `\\${one}` : `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
  return `"${escaped}"`;
}
