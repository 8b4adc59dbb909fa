// Always a living token. To generate `wxtokendv1`, with your module's name:
//
//	protoc -Iproto --go_out=. --go_opt=module=wxtokend.example/client \
//	  --go_opt=Mwxtokend/v1/token_service.proto=wxtokend.example/client/wxtokendv1 \
//	  --go-grpc_out=. --go-grpc_opt=module=wxtokend.example/client \
//	  --go-grpc_opt=Mwxtokend/v1/token_service.proto=wxtokend.example/client/wxtokendv1 \
//	  wxtokend/v1/token_service.proto
package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	pb "wxtokend.example/client/wxtokendv1"
)

// Tokens has the newest token of an app: watched, and asked for only if there is no news.
type Tokens struct {
	service pb.TokenServiceClient
	app     string
	ctx     context.Context

	lock      sync.Mutex
	held      *pb.Token
	keepUntil time.Time
}

func NewTokens(target, app, key string) (*Tokens, error) {
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 10 * time.Second
	channel, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}))
	if err != nil {
		return nil, err
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
	tokens := &Tokens{service: pb.NewTokenServiceClient(channel), app: app, ctx: ctx}
	go tokens.watch()
	return tokens, nil
}

func (t *Tokens) Current() (*pb.Token, error) {
	if held, keepUntil := t.Held(); time.Now().Before(keepUntil) {
		return held, nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, 11*time.Second)
	defer cancel()
	answer, err := t.service.GetToken(ctx, &pb.GetTokenRequest{AppId: t.app})
	if err != nil {
		return nil, err
	}
	return t.take(answer.Token), nil
}

// Refused says that WeChat answered `errcode` (40001, 40014 or 42001), and returns a token that works. Try once more.
func (t *Tokens) Refused(token string, errcode int32) (*pb.Token, pb.Outcome, error) {
	ctx, cancel := context.WithTimeout(t.ctx, 15*time.Second)
	defer cancel()
	answer, err := t.service.ForceRefresh(ctx, &pb.ForceRefreshRequest{AppId: t.app, StaleToken: token, Errcode: errcode})
	if err != nil {
		return nil, 0, err
	}
	return t.take(answer.Token), answer.Outcome, nil
}

func (t *Tokens) watch() {
	const first, longest = 100 * time.Millisecond, 10 * time.Second
	for pause := first; ; pause = min(pause*2, longest) {
		held, _ := t.Held()
		stream, err := t.service.WatchToken(t.ctx, &pb.WatchTokenRequest{AppId: t.app, KnownGeneration: held.GetGeneration()})
		for err == nil {
			var message *pb.WatchTokenResponse
			if message, err = stream.Recv(); err == nil {
				t.take(message.Token)
				pause = first
			}
		}
		// The last token is good for its `keep_for`.
		time.Sleep(pause/2 + rand.N(pause/2))
	}
}

func (t *Tokens) Held() (*pb.Token, time.Time) {
	t.lock.Lock()
	defer t.lock.Unlock()
	return t.held, t.keepUntil
}

func (t *Tokens) take(token *pb.Token) *pb.Token {
	t.lock.Lock()
	defer t.lock.Unlock()
	// An older one only if there is no other any more.
	if token.Generation >= t.held.GetGeneration() || !time.Now().Before(t.keepUntil) {
		t.held, t.keepUntil = token, time.Now().Add(token.KeepFor.AsDuration())
	}
	return t.held
}
