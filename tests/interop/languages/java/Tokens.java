// `wxtokend.v1` is generated from the proto, by protobuf-maven-plugin in the pom.xml beside this file.

import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import wxtokend.v1.TokenServiceGrpc;
import wxtokend.v1.TokenServiceOuterClass.*;

/** The newest token of an app: watched, and asked for only if there is no news. */
class Tokens {
  final TokenServiceGrpc.TokenServiceBlockingStub service;
  private final ManagedChannel channel;
  private final String app;
  private Token held = Token.getDefaultInstance();
  private long keepUntil = System.nanoTime();

  Tokens(String target, String app, String key) {
    this.app = app;
    channel =
        NettyChannelBuilder.forTarget(target)
            .usePlaintext()
            .keepAliveTime(30, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    service = TokenServiceGrpc.newBlockingStub(channel).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
    Thread watching = new Thread(this::watch, "wxtokend");
    watching.setDaemon(true);
    watching.start();
  }

  Token current() {
    if (System.nanoTime() - keepUntil() >= 0) {
      GetTokenRequest request = GetTokenRequest.newBuilder().setAppId(app).build();
      take(service.withDeadlineAfter(11, TimeUnit.SECONDS).getToken(request).getToken());
    }
    return held();
  }

  /** WeChat answered `errcode` (40001, 40014 or 42001): then `held` is one that works. Try once more. */
  Outcome refused(String token, int errcode) {
    ForceRefreshRequest request =
        ForceRefreshRequest.newBuilder().setAppId(app).setStaleToken(token).setErrcode(errcode).build();
    ForceRefreshResponse answer = service.withDeadlineAfter(15, TimeUnit.SECONDS).forceRefresh(request);
    take(answer.getToken());
    return answer.getOutcome();
  }

  private void watch() {
    long pause = 100;
    while (true) {
      try {
        channel.resetConnectBackoff(); // which would grow to two minutes
        WatchTokenRequest request =
            WatchTokenRequest.newBuilder().setAppId(app).setKnownGeneration(held().getGeneration()).build();
        for (var messages = service.watchToken(request); messages.hasNext(); pause = 100) {
          take(messages.next().getToken());
        }
      } catch (StatusRuntimeException error) {
        // The last token is good for its `keep_for`.
      }
      try {
        Thread.sleep(ThreadLocalRandom.current().nextLong(pause / 2, pause));
      } catch (InterruptedException stopped) {
        return;
      }
      pause = Math.min(pause * 2, 10_000);
    }
  }

  synchronized Token held() {
    return held;
  }

  private synchronized long keepUntil() {
    return keepUntil;
  }

  private synchronized void take(Token token) {
    boolean newer = Long.compareUnsigned(token.getGeneration(), held.getGeneration()) >= 0;
    // An older one only if there is no other any more.
    if (newer || System.nanoTime() - keepUntil >= 0) {
      held = token;
      Duration keepFor = Duration.ofSeconds(token.getKeepFor().getSeconds(), token.getKeepFor().getNanos());
      keepUntil = System.nanoTime() + keepFor.toNanos();
    }
  }
}
