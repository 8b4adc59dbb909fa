<?php

// A Laravel controller with tokens from wxtokend: it is called ten times a second until stdin closes, which then says how
// it went. The argument is the controller's name. The include path leads to Debian's package of Laravel.

require 'Illuminate/autoload.php';
require 'GuzzleHttp/autoload.php';
require __DIR__.'/controllers.php';

use Illuminate\Cache\ArrayStore;
use Illuminate\Cache\Repository;
use Illuminate\Container\Container;
use Illuminate\Events\Dispatcher;
use Illuminate\Http\Client\HttpClientException;
use Illuminate\Http\Request;
use Illuminate\Routing\Router;
use Illuminate\Support\Facades\Facade;

// As much of an application as a controller needs.
$app = new Container;
$app->instance('cache', new Repository(new ArrayStore));
Facade::setFacadeApplication($app);
$router = new Router(new Dispatcher($app), $app);
$router->get('/callback-ip', $argv[1]);

function stdinIsOpen(): bool
{
    [$read, $none] = [[STDIN], null];

    return stream_select($read, $none, $none, 0, 100_000) === 0;
}

$calls = $failed = 0;
while (stdinIsOpen()) {
    $calls++;
    try {
        $reply = $router->dispatch(Request::create('/callback-ip'))->getData(true);
        $failed += isset($reply['errcode']) ? 1 : 0;
    } catch (HttpClientException|RuntimeException) {
        $failed++;
    }
}
echo "calls $calls failed $failed\n";
