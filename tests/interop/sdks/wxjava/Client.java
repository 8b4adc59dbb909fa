import cn.binarywang.wx.miniapp.api.WxMaService;
import cn.binarywang.wx.miniapp.api.impl.WxMaServiceImpl;
import cn.binarywang.wx.miniapp.config.impl.WxMaDefaultConfigImpl;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import me.chanjar.weixin.common.error.WxErrorException;

/** WxJava with tokens from wxtokend: calls ten times a second until stdin closes, then says how it went. */
class Client {
    public static void main(String[] args) throws InterruptedException {
        WxMaDefaultConfigImpl config = new WxMaDefaultConfigImpl();
        // recipe begins
        config.setAppid(System.getenv("WECHAT_APPID"));
        config.setSecret(System.getenv("WXTOKEND_KEY")); // the consumer's key
        // WxJava fills in the two, in this order.
        config.setAccessTokenUrl(System.getenv("WXTOKEND_HTTP")
            + "/cgi-bin/token?grant_type=client_credential&appid=%s&secret=%s");
        WxMaService service = new WxMaServiceImpl();
        service.setWxMaConfig(config);
        // recipe ends

        Thread stdin = new Thread(Client::readStdin);
        stdin.start();
        String url = System.getenv("WECHAT_URL") + "/cgi-bin/getcallbackip"; // the simulated WeChat
        int calls = 0;
        int failed = 0;
        while (stdin.isAlive()) {
            calls++;
            try {
                service.get(url, null);
            } catch (WxErrorException | RuntimeException e) {
                failed++;
            }
            stdin.join(100);
        }
        System.out.printf("calls %d failed %d%n", calls, failed);
    }

    private static void readStdin() {
        try {
            System.in.transferTo(OutputStream.nullOutputStream());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
