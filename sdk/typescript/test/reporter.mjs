// One line for each test, in the form that tests/tools/results.awk reads, and all that is known of failures.
import { basename } from 'node:path';
import { inspect } from 'node:util';

export default async function* reporter(source) {
  for await (const { type, data } of source) {
    if (type === 'test:diagnostic' || type === 'test:stderr' || type === 'test:stdout') {
      if (type !== 'test:diagnostic') yield `# ${data.message.trimEnd()}\n`;
      continue;
    }
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    // A file is reported like a test; only that it broke says something new.
    const isFile = data.name.endsWith('.test.js');
    if (isFile && type === 'test:pass') continue;
    const name = isFile ? basename(data.name) : data.name;
    if (data.skip !== undefined) yield `skip ${name.replaceAll(' ', '_')} ${data.skip}\n`;
    else if (type === 'test:pass') yield `ok ${name}\n`;
    else yield `not ok ${name}\n${inspect(data.details?.error, { depth: 6 }).replace(/^/gm, '    ')}\n`;
  }
}
