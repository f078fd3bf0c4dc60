// Writes the types of the API from its document: node generate.mjs openapi.json api.ts
//
// What it writes is not committed: it cannot be older than the document. A method of the client that names an
// operation or a field the document does not have is an error of tsc.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];

/** A schema as a TypeScript type. What this does not know is an error, not `any`. */
function typeOf(schema) {
  if (schema === undefined || Object.keys(schema).length === 0) return 'unknown';
  if (schema.$ref !== undefined) return `Schemas[${quote(schema.$ref.replace('#/components/schemas/', ''))}]`;
  for (const union of ['oneOf', 'anyOf']) {
    if (schema[union] !== undefined) return [...new Set(schema[union].map(typeOf))].join(' | ');
  }
  if (schema.allOf !== undefined) return schema.allOf.map(typeOf).join(' & ');
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(' | ');
  if (Array.isArray(schema.type)) {
    return schema.type.map((type) => typeOf({ ...schema, type })).join(' | ');
  }
  switch (schema.type) {
    case 'null':
      return 'null';
    case 'string':
      return 'string';
    case 'boolean':
      return 'boolean';
    case 'integer':
    case 'number':
      return 'number';
    case 'array':
      // The document says "object" of what may be any JSON value.
      return `Array<${isAny(schema.items) ? 'unknown' : typeOf(schema.items)}>`;
    case 'object':
      return objectOf(schema);
    case undefined:
      return 'unknown';
    default:
      throw new Error(`a schema of type ${JSON.stringify(schema.type)} is not known here`);
  }
}

function isAny(schema) {
  return schema?.type === 'object' && schema.properties === undefined && schema.additionalProperties === undefined;
}

function objectOf(schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const optional = required.has(name) ? '' : '?';
    const type = typeOf(field);
    return `${comment(field.description)}${quote(name)}${optional}: ${type}${optional && type !== 'unknown' ? ' | undefined' : ''};`;
  });
  const more = schema.additionalProperties;
  if (typeof more === 'object') fields.push(`[name: string]: ${typeOf(more)};`);
  if (fields.length === 0) return 'Record<string, unknown>';
  return `{\n${indent(fields.join('\n'))}\n}`;
}

function quote(name) {
  return JSON.stringify(name);
}

function indent(text) {
  return text.replace(/^(?=.)/gm, '  ');
}

function comment(text) {
  if (text === undefined || text === '') return '';
  const lines = text.replaceAll('*/', '* /').split('\n');
  return lines.length === 1 ? `/** ${lines[0]} */\n` : `/**\n${lines.map((line) => ` * ${line}`).join('\n')}\n */\n`;
}

function record(parameters, where) {
  const found = parameters.filter((parameter) => parameter.in === where);
  if (found.length === 0) return undefined;
  return objectOf({
    properties: Object.fromEntries(
      found.map((one) => [one.name, { ...one.schema, description: one.description ?? undefined }]),
    ),
    required: found.filter((one) => one.required).map((one) => one.name),
  });
}

function operationOf(operation, shared) {
  const parameters = [...shared, ...(operation.parameters ?? [])];
  const body = operation.requestBody?.content?.['application/json']?.schema;
  const answers = Object.entries(operation.responses).filter(([status]) => status.startsWith('2'));
  const answer = answers.map(([, response]) => {
    const schema = response.content?.['application/json']?.schema;
    return schema === undefined ? 'unknown' : typeOf(schema);
  });
  return [
    '{',
    `  path: ${record(parameters, 'path') ?? 'undefined'};`,
    `  query: ${record(parameters, 'query') ?? 'undefined'};`,
    `  body: ${body === undefined ? 'undefined' : typeOf(body)};`,
    `  answer: ${[...new Set(answer)].join(' | ') || 'unknown'};`,
    '}',
  ].join('\n');
}

export function generate(document) {
  const schemas = Object.entries(document.components.schemas).map(
    ([name, schema]) => `${comment(schema.description)}${quote(name)}: ${typeOf(schema)};`,
  );
  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method] !== undefined).map((method) => {
      const operation = item[method];
      const name = `${method.toUpperCase()} ${path}`;
      return `${comment(operation.summary)}${quote(name)}: ${operationOf(operation, item.parameters ?? [])};`;
    }),
  );
  return [
    '// Written by scripts/generate.mjs from docs/openapi.json; not committed.\n',
    '/** The bodies of requests and answers. */',
    `export interface Schemas {\n${indent(schemas.join('\n'))}\n}\n`,
    '/** What can be asked, by method and path. */',
    `export interface Operations {\n${indent(operations.join('\n'))}\n}\n`,
  ].join('\n');
}

const [from, to] = process.argv.slice(2);
mkdirSync(dirname(to), { recursive: true });
writeFileSync(to, generate(JSON.parse(readFileSync(from, 'utf8'))));
