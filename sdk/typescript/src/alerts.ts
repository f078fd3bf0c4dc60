/** Alerts: what somebody has to look at, by which rules, and the webhook that is told. */
import type { Schemas } from './generated/api.js';
import type { RequestOptions, Session } from './session.js';

export type Alert = Schemas['Alert'];
export type AlertRule = Schemas['AlertRule'];
export type AlertTarget = Schemas['AlertTarget'];

/** Which alerts `list` gives. */
export interface AlertFilter {
  /** Both when left out. */
  state?: 'open' | 'resolved';
  /** 1 to 1,000; 100 when left out. */
  limit?: number;
}

/** `client.alerts`: of the project's databases; with the operator's token of the node and of all databases. */
export class Alerts {
  constructor(private readonly session: Session) {}

  /** Newest first: what is open, and what ended within 30 days. */
  list(options: RequestOptions & AlertFilter = {}): Promise<Alert[]> {
    const { state, limit, ...rest } = options;
    return this.session.call('GET /customer/alerts', { query: { state, limit }, ...rest });
  }

  /** What holds for each kind, also where nobody wrote a rule (`id` is null). */
  rules(options: RequestOptions = {}): Promise<AlertRule[]> {
    return this.session.call('GET /customer/alerts/rules', options);
  }

  /** Writes the rule of a kind, for one `database` or for all; what is left out is the default. */
  setRule(rule: Schemas['AlertRuleRequest'], options: RequestOptions = {}): Promise<AlertRule> {
    return this.session.call('POST /customer/alerts/rules', { body: rule, ...options });
  }

  /** The default holds again. @throws {NotFoundError} */
  async removeRule(rule: string, options: RequestOptions = {}): Promise<void> {
    await this.session.call('DELETE /customer/alerts/rules/{rule}', { path: { rule }, ...options });
  }

  /** Where alerts are told; `url` is null where they are not. */
  target(options: RequestOptions = {}): Promise<AlertTarget> {
    return this.session.call('GET /customer/alerts/target', options);
  }

  /** Has a webhook told. The first answer, and one to `new_secret`, has the `secret` that messages are signed with. */
  setTarget(target: Schemas['AlertTargetRequest'], options: RequestOptions = {}): Promise<AlertTarget> {
    return this.session.call('POST /customer/alerts/target', { body: target, ...options });
  }

  /** Nobody is told any more, and what waits is dropped. @throws {NotFoundError} */
  async removeTarget(options: RequestOptions = {}): Promise<void> {
    await this.session.call('DELETE /customer/alerts/target', options);
  }

  /** Sends the webhook a message of its own. @throws {ApiError} with what it answered */
  test(options: RequestOptions = {}): Promise<Schemas['AlertTest']> {
    return this.session.call('POST /customer/alerts/test', options);
  }
}
