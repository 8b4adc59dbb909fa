'use strict';

const busy = require('./busy');

// recipe begins
const API = require('co-wechat-api');

// `WECHAT_URL` passes /cgi-bin/token on to wxtokend, everything else to WeChat. The secret is the consumer's key.
const api = new API(process.env.WECHAT_APPID, process.env.WXTOKEND_KEY);
api.prefix = `${process.env.WECHAT_URL}/cgi-bin/`;
// recipe ends

busy(() => api.getIp());
