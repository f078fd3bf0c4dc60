/** Waiting, always with a bound. */
import { WaitError } from './errors.js';

/** Between two looks: from this, half as much more each time, … */
const LOOK_MS = 100;
/** … to this. A state that takes longer is not made faster by looking. */
const LOOK_MS_MAX = 2_000;

/** How long to wait. */
export interface WaitOptions {
  /** Milliseconds until a `WaitError` with the code `wait_timeout`. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Waits `ms`; rejects with the signal's reason as soon as it is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/**
 * Looks again and again until `look` gives something other than undefined.
 *
 * @throws {WaitError} `wait_timeout` after `timeoutMs`, naming what was waited for and what was seen last.
 */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined>,
  options: WaitOptions & { timeoutMs: number; seen?: () => string },
): Promise<T> {
  const end = performance.now() + options.timeoutMs;
  for (let between = LOOK_MS; ; between = Math.min(between * 1.5, LOOK_MS_MAX)) {
    const found = await look();
    if (found !== undefined) return found;
    const left = end - performance.now();
    if (left <= 0) {
      const seen = options.seen === undefined ? '' : `; last seen: ${options.seen()}`;
      throw new WaitError(`waited ${options.timeoutMs} ms for ${what}${seen}`, { code: 'wait_timeout' });
    }
    await pause(Math.min(between * (0.75 + Math.random() / 2), left), options.signal);
  }
}
