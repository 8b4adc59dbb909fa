// A program in Go that always has a living token. The driver, `../run.py`, tells it over stdin what to do.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	pb "wxtokend.example/client/wxtokendv1"
)

func main() {
	tokens, err := NewTokens(os.Getenv("WXTOKEND_TARGET"), os.Getenv("WXTOKEND_APP"), os.Getenv("WXTOKEND_KEY"))
	must(err)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "get":
			token, err := tokens.Current()
			must(err)
			fmt.Println("got", token.Generation, token.AccessToken)
		case "held":
			token, _ := tokens.Held()
			fmt.Println("held", token.GetGeneration(), token.GetAccessToken())
		case "report":
			errcode, err := strconv.Atoi(words[2])
			must(err)
			token, outcome, err := tokens.Refused(words[1], int32(errcode))
			must(err)
			fmt.Println("reported", outcome, token.Generation)
		case "stranger":
			_, err := tokens.service.GetToken(tokens.ctx, &pb.GetTokenRequest{AppId: "nobody"})
			refused := status.Convert(err)
			info := refused.Details()[0].(*errdetails.ErrorInfo)
			fmt.Println("refused", codeName(refused), info.Reason)
		}
	}
}

// Go writes NotFound where everybody else writes NOT_FOUND.
func codeName(refused *status.Status) string {
	var name strings.Builder
	for at, letter := range refused.Code().String() {
		if at > 0 && letter >= 'A' && letter <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(letter)
	}
	return strings.ToUpper(name.String())
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
