/**
 * What is kept between two programs: the anonymous project of a server and connection strings.
 *
 * Owns: the file that the command line keeps, `credentials.toml` under `TENANTRY_HOME` or `~/.tenantry`, its
 * mode (0600 in a 0700 directory), and that it changes as a whole, by one program at a time. The server keeps no
 * password that it could show again, so a connection string that is not kept here is gone.
 */
import { chmod, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { CredentialsError } from './errors.js';
import { withLock } from './lock.js';
import { parseToml, table, writeToml, type TomlTable } from './toml.js';

/** An anonymous project: who knows the secret owns it. */
export interface AnonymousProject {
  anonymous_id: string;
  anonymous_secret: string;
  token: string;
  /** RFC 3339. */
  expires_at: string;
}

/** What is known about one server. */
export interface KeptServer {
  anonymous?: AnonymousProject | undefined;
  /** By login name, `<id>.<role>`. */
  connection_strings: Record<string, string>;
}

/** Where credentials are kept. */
export interface CredentialStore {
  /** What is known about the server at this address. */
  read(url: string): Promise<KeptServer>;
  /**
   * Runs `work` while no other user of the store is in its own `exclusively`. Two first calls at once must not
   * register two projects, and what one writes must not undo what another wrote.
   */
  exclusively<T>(url: string, work: (store: WritableStore) => Promise<T>): Promise<T>;
}

/** A store that nobody else changes meanwhile. */
export interface WritableStore {
  read(): Promise<KeptServer>;
  write(kept: KeptServer): Promise<void>;
}

/** Keeps credentials as long as the process lives. */
export class MemoryCredentialStore implements CredentialStore {
  private readonly servers = new Map<string, KeptServer>();
  private last: Promise<unknown> = Promise.resolve();

  async read(url: string): Promise<KeptServer> {
    return structuredClone(this.servers.get(url) ?? { connection_strings: {} });
  }

  exclusively<T>(url: string, work: (store: WritableStore) => Promise<T>): Promise<T> {
    const mine = this.last.then(() => work({
      read: () => this.read(url),
      write: async (kept) => void this.servers.set(url, structuredClone(kept)),
    }));
    this.last = mine.catch(() => {});
    return mine;
  }
}

/** Keeps credentials where the command line keeps them. */
export class FileCredentialStore implements CredentialStore {
  private readonly dir: string;
  private last: Promise<unknown> = Promise.resolve();

  /** In this directory; left out, in that of the command line. Nothing is made before something is kept. */
  constructor(dir?: string) {
    this.dir = dir ?? process.env['TENANTRY_HOME'] ?? join(homedir(), '.tenantry');
  }

  /** The file. */
  get file(): string {
    return join(this.dir, 'credentials.toml');
  }

  async read(url: string): Promise<KeptServer> {
    return keptIn(serverIn(await this.parse(), url));
  }

  async exclusively<T>(url: string, work: (store: WritableStore) => Promise<T>): Promise<T> {
    const locked = async (): Promise<T> => {
      const lock = join(this.dir, 'lock');
      try {
        await mkdir(this.dir, { recursive: true, mode: 0o700 });
        await (await open(lock, 'a', 0o600)).close();
      } catch (cause) {
        throw new CredentialsError(`${this.dir} cannot be written to`, { code: 'credentials_not_lockable', cause,
          hint: 'TENANTRY_HOME names another directory; a MemoryCredentialStore needs none' });
      }
      return withLock(lock, () => work({
        read: () => this.read(url),
        write: (kept) => this.write(url, kept),
      }));
    };
    // One holder for this process, and those who wait here wait in order.
    const mine = this.last.then(locked);
    this.last = mine.catch(() => {});
    return mine;
  }

  private async parse(): Promise<TomlTable> {
    let text: string;
    try {
      const { mode } = await stat(this.file);
      if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
        throw new CredentialsError(`${this.file} can be read by others (mode ${(mode & 0o777).toString(8)})`, {
          code: 'credentials_readable_by_others',
          hint: `chmod 600 ${this.file}, and make new passwords if others use this machine`,
        });
      }
      text = await readFile(this.file, 'utf8');
    } catch (cause) {
      if (cause instanceof CredentialsError) throw cause;
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return table();
      throw new CredentialsError(`${this.file} cannot be read`, { code: 'credentials_unreadable', cause });
    }
    return parseToml(text, this.file);
  }

  /** Replaces the file as a whole: whoever reads sees the old text or the new one, also after a crash. */
  private async write(url: string, kept: KeptServer): Promise<void> {
    const root = await this.parse();
    const server = serverIn(root, url);
    // What this package does not know of stays as it is.
    if (kept.anonymous === undefined) delete server['anonymous'];
    else server['anonymous'] = Object.assign(tableIn(server, 'anonymous'), kept.anonymous);
    const strings = Object.assign(table(), kept.connection_strings);
    if (Object.keys(strings).length === 0) delete server['connection_strings'];
    else server['connection_strings'] = strings;
    const fresh = `${this.file}.new-${process.pid}`;
    try {
      const file = await open(fresh, 'w', 0o600);
      try {
        await file.writeFile(writeToml(root));
        await file.sync();
      } finally {
        await file.close();
      }
      await chmod(fresh, 0o600);
      await rename(fresh, this.file);
    } catch (cause) {
      await rm(fresh, { force: true });
      throw new CredentialsError(`${this.file} cannot be written`, { code: 'credentials_unwritable', cause });
    }
  }
}

function tableIn(at: TomlTable, key: string): TomlTable {
  const found = at[key];
  return typeof found === 'object' ? found : (at[key] = table());
}

function serverIn(root: TomlTable, url: string): TomlTable {
  return tableIn(tableIn(root, 'servers'), url);
}

function keptIn(server: TomlTable): KeptServer {
  const text = (at: TomlTable, key: string): string => (typeof at[key] === 'string' ? at[key] : '');
  const strings = tableIn(server, 'connection_strings');
  const connection_strings = Object.fromEntries(
    Object.keys(strings).map((login) => [login, text(strings, login)]));
  const anonymous = server['anonymous'];
  if (typeof anonymous !== 'object') return { connection_strings };
  return {
    anonymous: {
      anonymous_id: text(anonymous, 'anonymous_id'),
      anonymous_secret: text(anonymous, 'anonymous_secret'),
      token: text(anonymous, 'token'),
      expires_at: text(anonymous, 'expires_at'),
    },
    connection_strings,
  };
}
