// A program in Node that always has a living token. The driver, `../run.py`, tells it over stdin what to do.
'use strict';
const path = require('node:path');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
const protos = require('google-proto-files');
const { Tokens } = require('./tokens');

function reason(error) {
  const root = protos.loadSync(protos.getProtoPath('rpc', 'error_details.proto'));
  root.loadSync(protos.getProtoPath('rpc', 'status.proto'));
  const [detail] = root.lookupType('google.rpc.Status').decode(error.metadata.get('grpc-status-details-bin')[0]).details;
  return root.lookupType('google.rpc.ErrorInfo').decode(detail.value).reason;
}

const { WXTOKEND_TARGET, WXTOKEND_APP, WXTOKEND_KEY } = process.env;
const proto = path.join(__dirname, '../../../../proto');
const tokens = new Tokens(proto, WXTOKEND_TARGET, WXTOKEND_APP, WXTOKEND_KEY);

const commands = {
  async get() {
    const token = await tokens.current();
    return ['got', token.generation, token.accessToken];
  },
  async held() {
    return ['held', tokens.held.generation, tokens.held.accessToken];
  },
  async report(token, errcode) {
    const outcome = await tokens.refused(token, Number(errcode));
    return ['reported', outcome, tokens.held.generation];
  },
  async stranger() {
    try {
      await tokens.call('GetToken', { appId: 'nobody' }, 5000);
    } catch (error) {
      return ['refused', grpc.status[error.code], reason(error)];
    }
  },
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, ...words] = line.split(' ');
    console.log((await commands[name](...words)).join(' '));
  }
  process.exit(0);
})();
