/** A PostgreSQL database for every customer, agent or preview: the client of Tenantry's API. */
export { Alerts } from './alerts.js';
export type { Alert, AlertFilter, AlertRule, AlertTarget } from './alerts.js';
export { Backups } from './backups.js';
export type { Backup, BackupSchedule, Moments, Restore } from './backups.js';
export { Auth, createTenantryClient, createTenantryClient as createDb9Client } from './client.js';
export type { TenantryClient, TenantryClientOptions } from './client.js';
export { FileCredentialStore, MemoryCredentialStore } from './credentials.js';
export type { AnonymousProject, CredentialStore, KeptServer, WritableStore } from './credentials.js';
export { DatabaseLimits, Databases, DatabaseUsers } from './databases.js';
export type {
  BatchOptions, BatchStatement, Database, DatabaseUser, Inspected, Limits, LimitValues, ListFilter, LogFilter, Migration, Observing, QueryResult, SqlResult, Sweep,
} from './databases.js';
export * from './errors.js';
export { instantDatabase } from './instant.js';
export type { InstantDatabaseOptions, InstantDatabaseResult } from './instant.js';
export type { Fetch, FetchAnswer, FetchInit, RequestOptions, TransportOptions } from './transport.js';
export { DatabaseAccess, Tokens } from './tokens.js';
export type { Access, NewToken, Token } from './tokens.js';
export type { Schemas } from './generated/api.js';
export { until } from './wait.js';
export type { WaitOptions } from './wait.js';
