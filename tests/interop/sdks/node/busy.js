'use strict';

const { setTimeout: sleep } = require('node:timers/promises');

/** Calls ten times a second until stdin closes, then says how it went. */
module.exports = async function busy(call) {
  let open = true;
  process.stdin.on('end', () => { open = false; }).resume();
  let calls = 0;
  let failed = 0;
  while (open) {
    calls += 1;
    await call().catch(() => { failed += 1; });
    await sleep(100);
  }
  console.log(`calls ${calls} failed ${failed}`);
  process.exit(); // connections that are kept alive would keep the process as well
};
