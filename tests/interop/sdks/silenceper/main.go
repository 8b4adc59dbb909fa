// silenceper/wechat with tokens from wxtokend: calls ten times a second until stdin closes, then says how it went.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/silenceper/wechat/v2"
	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/officialaccount"
	"github.com/silenceper/wechat/v2/officialaccount/config"
	"github.com/silenceper/wechat/v2/util"
)

const weChat = "https://api.weixin.qq.com"

// recipe begins

// tokensFromWxtokend leaves all addresses alone but those of the two token calls. It holds for the whole process.
func tokensFromWxtokend(uri string) string {
	for _, path := range []string{"/cgi-bin/token", "/cgi-bin/stable_token"} {
		if strings.HasPrefix(uri, weChat+path) {
			return os.Getenv("WXTOKEND_HTTP") + strings.TrimPrefix(uri, weChat)
		}
	}
	return uri
}

func newAccount() *officialaccount.OfficialAccount {
	util.SetURIModifier(tokensFromWxtokend)
	return wechat.NewWechat().GetOfficialAccount(&config.Config{
		AppID:     os.Getenv("WECHAT_APPID"),
		AppSecret: os.Getenv("WXTOKEND_KEY"), // the consumer's key
		Cache:     cache.NewMemory(),
	})
}

// recipe ends

// atSimulatedWeChat sends everything else to the simulated WeChat.
func atSimulatedWeChat(uri string) string {
	return strings.Replace(tokensFromWxtokend(uri), weChat, os.Getenv("WECHAT_URL"), 1)
}

func main() {
	basic := newAccount().GetBasic()
	util.SetURIModifier(atSimulatedWeChat)

	closed := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(closed)
	}()
	calls, failed := 0, 0
	for ticks := time.Tick(100 * time.Millisecond); ; {
		select {
		case <-closed:
			fmt.Printf("calls %d failed %d\n", calls, failed)
			return
		case <-ticks:
			calls++
			if _, err := basic.GetCallbackIP(); err != nil {
				failed++
			}
		}
	}
}
