<?php

use Illuminate\Support\Facades\Cache;
use Illuminate\Support\Facades\Http;

// recipe begins: the token alone. It is asked for at each call, which wxtokend answers from memory.
class BareController
{
    public function __invoke(): array
    {
        $token = Http::withToken(env('WXTOKEND_KEY'))->get(env('WXTOKEND_HTTP').'/get_access_token')->throw()->body();

        return Http::get(env('WECHAT_URL').'/cgi-bin/getcallbackip', ['access_token' => $token])->throw()->json();
    }
}
// recipe ends

// recipe begins: WeChat's own words. The token is kept for as long as it is lent.
class LeaseController
{
    public function __invoke(): array
    {
        $token = Cache::get('wechat_token') ?? $this->borrow();

        return Http::get(env('WECHAT_URL').'/cgi-bin/getcallbackip', ['access_token' => $token])->throw()->json();
    }

    private function borrow(): string
    {
        $reply = Http::get(env('WXTOKEND_HTTP').'/cgi-bin/token', [
            'grant_type' => 'client_credential',
            'appid' => env('WECHAT_APPID'),
            'secret' => env('WXTOKEND_KEY'), // the consumer's key
        ])->throw()->json();
        if (! isset($reply['access_token'])) { // like WeChat, wxtokend says no with status 200
            throw new RuntimeException($reply['errmsg']);
        }
        Cache::put('wechat_token', $reply['access_token'], $reply['expires_in']);

        return $reply['access_token'];
    }
}
// recipe ends
