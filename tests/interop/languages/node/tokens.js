// Always a living token.
//
//     npm install @grpc/grpc-js @grpc/proto-loader
'use strict';
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

/** The newest token of an app: watched, and asked for only if there is no news. */
class Tokens {
  constructor(proto, target, app, key) {
    const options = { includeDirs: [proto], longs: String, enums: String, defaults: true };
    const loaded = loader.loadSync('wxtokend/v1/token_service.proto', options);
    const { wxtokend } = grpc.loadPackageDefinition(loaded);
    this.service = new wxtokend.v1.TokenService(target, grpc.credentials.createInsecure(), {
      'grpc.keepalive_time_ms': 30_000,
      'grpc.keepalive_timeout_ms': 10_000,
      'grpc.max_reconnect_backoff_ms': 10_000,
    });
    this.app = app;
    this.key = new grpc.Metadata();
    this.key.set('authorization', `Bearer ${key}`);
    this.held = { generation: '0' };
    this.keepUntil = 0;
    this.pause = 100;
    this.watch();
  }

  async current() {
    if (performance.now() >= this.keepUntil) {
      const answer = await this.call('GetToken', { appId: this.app }, 11_000);
      this.take(answer.token);
    }
    return this.held;
  }

  /** WeChat answered `errcode` (40001, 40014 or 42001): then `held` is one that works. Try once more. */
  async refused(token, errcode) {
    const answer = await this.call('ForceRefresh', { appId: this.app, staleToken: token, errcode }, 15_000);
    this.take(answer.token);
    return answer.outcome;
  }

  call(method, request, milliseconds) {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + milliseconds };
      this.service[method](request, this.key, options, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }

  watch() {
    const stream = this.service.WatchToken({ appId: this.app, knownGeneration: this.held.generation }, this.key);
    stream.on('data', (message) => {
      this.take(message.token);
      this.pause = 100;
    });
    stream.on('error', () => {}); // the last token is good for its `keepFor`
    stream.on('status', () => {
      setTimeout(() => this.watch(), this.pause * (0.5 + Math.random() / 2)).unref();
      this.pause = Math.min(this.pause * 2, 10_000);
    });
  }

  take(token) {
    // It may be larger than any number of JavaScript's.
    const newer = BigInt(token.generation) >= BigInt(this.held.generation);
    // An older one only if there is no other any more.
    if (newer || performance.now() >= this.keepUntil) {
      this.held = token;
      this.keepUntil = performance.now() + Number(token.keepFor.seconds) * 1000 + token.keepFor.nanos / 1e6;
    }
  }
}

module.exports = { Tokens };
