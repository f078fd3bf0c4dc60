/** Backups of databases: made, read through, restored, deleted, and by which schedule. */
import { WaitError } from './errors.js';
import type { Schemas } from './generated/api.js';
import type { RequestOptions, Session } from './session.js';
import { until, type WaitOptions } from './wait.js';

export type Backup = Schemas['BackupResponse'];
export type Restore = Schemas['RestoreResponse'];
export type Moments = Schemas['MomentsResponse'];
export type BackupSchedule = Schemas['ScheduleResponse'];

/** A backup or a restore of a large database takes as long as its disk. */
const WAIT_MS = 600_000;

/** `client.backups`. A database is named by its id or its name, a backup and a restore by their ids. */
export class Backups {
  constructor(private readonly session: Session) {}

  /**
   * Has one moment of a database backed up while it stays in use; with `at`, one that is past. Answered at once: `waitFor`
   * waits until it is ready.
   */
  create(database: string, request: Schemas['BackupRequest'] = {}, options: RequestOptions = {}): Promise<Backup> {
    return this.session.call('POST /customer/databases/{database}/backups', { path: { database }, query: {}, body: request, ...options });
  }

  /** From when to when a database can be had as it was: `create` with `at`. */
  moments(database: string, options: RequestOptions = {}): Promise<Moments> {
    return this.session.call('GET /customer/databases/{database}/moments', { path: { database }, ...options });
  }

  /** Of one database, newest first; of all, also of those that are gone, when none is named. */
  list(database?: string, options: RequestOptions = {}): Promise<Backup[]> {
    if (database === undefined) return this.session.call('GET /customer/backups', options);
    return this.session.call('GET /customer/databases/{database}/backups', { path: { database }, ...options });
  }

  /** @throws {NotFoundError} */
  get(backup: string, options: RequestOptions = {}): Promise<Backup> {
    return this.session.call('GET /customer/backups/{backup}', { path: { backup }, ...options });
  }

  /**
   * Reads all of it; what is wrong with it is in `verify_error`. Touches nothing.
   * @throws {WaitError} `wait_timeout`; `wait_hopeless`, with why, when it could not be read, which says nothing of the backup
   */
  async verify(backup: string, options: RequestOptions & WaitOptions = {}): Promise<Backup> {
    const { timeoutMs = WAIT_MS, ...rest } = options;
    const { signal } = rest;
    await this.session.call('POST /customer/backups/{backup}/verify', { path: { backup }, query: {}, ...rest });
    return until(`backup ${backup} to be read`, async () => {
      const now = await this.get(backup, { signal });
      if (now.verifying) return undefined;
      if (now.last_error != null) throw new WaitError(`backup ${backup} was not read: ${now.last_error}`, { code: 'wait_hopeless' });
      return now;
    }, { timeoutMs, signal });
  }

  /**
   * Makes the database what it was, or a new one with a `name`, whose password is in this answer only. Answered at
   * once: `waitForRestore` waits until it can be used.
   */
  restore(backup: string, request: Schemas['RestoreRequest'] = {}, options: RequestOptions = {}): Promise<Restore> {
    return this.session.call('POST /customer/backups/{backup}/restore', { path: { backup }, query: {}, body: request, ...options });
  }

  /** One restore, with its database as it is now. @throws {NotFoundError} */
  getRestore(restore: string, options: RequestOptions = {}): Promise<Restore> {
    return this.session.call('GET /customer/restores/{restore}', { path: { restore }, ...options });
  }

  /** What is stored of it is removed. @throws {NotFoundError} */
  delete(backup: string, options: RequestOptions = {}): Promise<Backup> {
    return this.session.call('DELETE /customer/backups/{backup}', { path: { backup }, ...options });
  }

  /** When a database is backed up by itself. */
  schedule(database: string, options: RequestOptions = {}): Promise<BackupSchedule> {
    return this.session.call('GET /customer/databases/{database}/backup-schedule', { path: { database }, ...options });
  }

  /** Sets it; what is not named is as the installation has it. */
  setSchedule(database: string, request: Schemas['ScheduleRequest'], options: RequestOptions = {}): Promise<BackupSchedule> {
    return this.session.call('PUT /customer/databases/{database}/backup-schedule', { path: { database }, body: request, ...options });
  }

  /** Waits until a backup is ready. @throws {WaitError} `wait_hopeless`, with why, and `wait_timeout` */
  waitFor(backup: string, options: WaitOptions = {}): Promise<Backup> {
    let state = '';
    return until(`backup ${backup}`, async () => {
      const now = await this.get(backup, { signal: options.signal });
      state = now.state;
      if (state === 'failed' || state === 'deleting') {
        throw new WaitError(`backup ${backup} is ${state}: ${now.last_error ?? ''}`, { code: 'wait_hopeless' });
      }
      return state === 'ready' ? now : undefined;
    }, { timeoutMs: options.timeoutMs ?? WAIT_MS, signal: options.signal, seen: () => state });
  }

  /** Waits until a restored database can be used. @throws {WaitError} `wait_hopeless`, with why, and `wait_timeout` */
  waitForRestore(restore: string, options: WaitOptions = {}): Promise<Restore> {
    let state = '';
    return until(`restore ${restore}`, async () => {
      const now = await this.getRestore(restore, { signal: options.signal });
      state = now.state;
      if (state === 'failed') {
        throw new WaitError(`restore ${restore} failed: ${now.error_code ?? ''}: ${now.error ?? ''}`, { code: 'wait_hopeless' });
      }
      return state === 'done' ? now : undefined;
    }, { timeoutMs: options.timeoutMs ?? WAIT_MS, signal: options.signal, seen: () => state });
  }
}
