// A program in Java that always has a living token. The driver, `../run.py`, tells it over stdin what to do.

import com.google.rpc.ErrorInfo;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import wxtokend.v1.TokenServiceOuterClass.*;

public class Client {
  public static void main(String[] arguments) throws Exception {
    Tokens tokens =
        new Tokens(System.getenv("WXTOKEND_TARGET"), System.getenv("WXTOKEND_APP"), System.getenv("WXTOKEND_KEY"));
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.split(" ");
      switch (words[0]) {
        case "get" -> tell("got", tokens.current().getGeneration(), tokens.current().getAccessToken());
        case "held" -> tell("held", tokens.held().getGeneration(), tokens.held().getAccessToken());
        case "report" -> {
          Outcome outcome = tokens.refused(words[1], Integer.parseInt(words[2]));
          tell("reported", outcome, tokens.held().getGeneration());
        }
        case "stranger" -> stranger(tokens);
        default -> throw new IllegalArgumentException(line);
      }
    }
  }

  private static void stranger(Tokens tokens) throws Exception {
    try {
      tokens.service.getToken(GetTokenRequest.newBuilder().setAppId("nobody").build());
    } catch (StatusRuntimeException error) {
      ErrorInfo info = StatusProto.fromThrowable(error).getDetails(0).unpack(ErrorInfo.class);
      tell("refused", error.getStatus().getCode(), info.getReason());
    }
  }

  private static void tell(Object... words) {
    StringBuilder line = new StringBuilder();
    for (Object word : words) {
      line.append(line.isEmpty() ? "" : " ").append(word);
    }
    System.out.println(line);
  }
}
