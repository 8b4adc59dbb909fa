'use strict';

const { promisify } = require('node:util');

const busy = require('./busy');

// recipe begins
const API = require('wechat-api');

// `WECHAT_URL` passes /cgi-bin/token on to wxtokend, everything else to WeChat. The secret is the consumer's key.
const api = new API(process.env.WECHAT_APPID, process.env.WXTOKEND_KEY);
api.endpoint = process.env.WECHAT_URL; // not `setEndpoint`, which insists on https
// recipe ends

const getIp = promisify(api.getIp.bind(api));
busy(() => getIp());
