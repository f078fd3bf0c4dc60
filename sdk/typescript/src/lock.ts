/**
 * The lock of the command line, taken by this process.
 *
 * Node has no `flock`, and the command line locks with nothing else. So a small program that every system has
 * holds the lock for us: it ends, and the lock with it, when its input closes, also by our death.
 */
import { spawn, type ChildProcess } from 'node:child_process';

import { CredentialsError } from './errors.js';

/** Others hold it while they write a file or register a project: milliseconds, or one request. */
const LOCK_MS_MAX = 60_000;
const SAY = 'echo held; read -r end';
const PERL = '$| = 1; open(my $f, ">>", $ARGV[0]) or die "$!\\n"; flock($f, 2) or die "$!\\n"; print "held\\n"; <STDIN>;';

/** The first that is there is used. Each creates the file when there is none, as its opener may. */
const HOLDERS: ReadonlyArray<(path: string) => [string, string[]]> = [
  (path) => ['flock', [path, 'sh', '-c', SAY]],
  (path) => ['perl', ['-e', PERL, path]],
];

/** Runs `work` while nobody else holds the lock of this file. */
export async function withLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  const holder = await hold(path);
  try {
    return await work();
  } finally {
    await release(holder);
  }
}

async function hold(path: string): Promise<ChildProcess> {
  for (const command of HOLDERS) {
    const [program, argv] = command(path);
    const holder = await start(program, argv);
    if (holder !== undefined) return holder;
  }
  throw new CredentialsError(`${path} cannot be locked: there is neither flock nor perl here`, {
    code: 'credentials_not_lockable',
    hint: 'install one of them, or use a MemoryCredentialStore with a token',
  });
}

/** Resolves when the lock is held; with undefined when there is no such program. */
function start(program: string, argv: string[]): Promise<ChildProcess | undefined> {
  return new Promise((resolve, reject) => {
    const holder = spawn(program, argv, { stdio: ['pipe', 'pipe', 'pipe'] });
    let said = '';
    const fail = (why: string): void => {
      clearTimeout(limit);
      holder.kill();
      reject(new CredentialsError(`the credentials cannot be locked: ${why}`, { code: 'credentials_not_lockable' }));
    };
    const limit = setTimeout(() => fail(`another process held them for ${LOCK_MS_MAX} ms`), LOCK_MS_MAX);
    holder.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') return fail(error.message);
      clearTimeout(limit);
      resolve(undefined);
    });
    holder.stdin.on('error', () => {});
    holder.stderr.on('data', (piece: Buffer) => (said += piece.toString()));
    holder.stdout.once('data', () => {
      clearTimeout(limit);
      holder.removeListener('exit', onExit);
      resolve(holder);
    });
    const onExit = (code: number | null): void => fail(`${program} ended with ${code}: ${said.trim()}`);
    holder.on('exit', onExit);
  });
}

function release(holder: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (holder.exitCode !== null || holder.signalCode !== null) return resolve();
    holder.on('exit', () => resolve());
    holder.stdin?.end();
  });
}
