'use strict';

const busy = require('./busy');

// recipe begins
const { OfficialAccount } = require('node-easywechat');

// `WECHAT_URL` passes the two token paths on to wxtokend, everything else to WeChat. The secret is the consumer's key.
const app = new OfficialAccount({
  app_id: process.env.WECHAT_APPID,
  secret: process.env.WXTOKEND_KEY,
  http: { baseURL: `${process.env.WECHAT_URL}/` },
  file_cache: { path: process.env.TMPDIR }, // by default the working directory; the key is part of a file's name there
});
// recipe ends

const client = app.getClient();
busy(async () => {
  const reply = await client.get('cgi-bin/getcallbackip');
  if (reply.toObject().errcode) throw new Error('refused'); // it throws for a bad HTTP status only
});
