/** One process of many: asks for the database in its arguments when its parent says so, and tells what it got. */
import { instantDatabase } from 'tenantry';

const [name, seed] = process.argv.slice(2);
process.on('message', async () => {
  try {
    process.send?.({ result: await instantDatabase({ name, seed }) });
  } catch (error) {
    process.send?.({ error: String(error), code: (error as { code?: string }).code });
  }
  process.disconnect();
});
process.send?.('ready');
