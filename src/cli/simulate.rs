//! `wxtokend sandbox`: the simulated WeChat alone, for whoever tests an integration.

use std::time::Duration;

use clap::Args;

use super::{Failure, Hidden};
use crate::{
    app,
    config::Log,
    sandbox::{Credentials, Settings},
    telemetry,
};

/// Everything else can be changed while it runs: see `GET /sandbox`.
#[derive(Debug, Args)]
pub(super) struct Simulate {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: String,
    /// The life of a token
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2h")]
    life: Duration,
    /// How long a replaced token goes on working
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5m")]
    overlap: Duration,
    /// An account's appid; may be given several times, each with its `--secret`
    #[arg(long, value_name = "APPID", requires = "secret")]
    appid: Vec<String>,
    /// The AppSecret of the account at the same place
    #[arg(long, value_name = "SECRET", requires = "appid")]
    secret: Vec<Hidden>,
    /// Who may ask: an address or a network; may be given several times, default everybody
    #[arg(long, value_name = "CIDR")]
    ip: Vec<String>,
    /// How long each reply takes
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    latency: Duration,
    /// The share of calls answered with errcode -1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    busy_rate: f64,
    /// The share of calls that are carried out but whose reply is lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    lost_rate: f64,
    /// How many back ends judge tokens in turn, 1 to 4
    #[arg(long, value_name = "N", default_value_t = 1)]
    back_ends: usize,
    /// How late a back end learns of a change, at most
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s")]
    lag: Duration,
}

impl Simulate {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let _unwritten = telemetry::init(Log::Text);
        let listen = self.listen.clone();
        let settings = self.settings()?;
        Ok(app::simulate(&listen, settings).await?)
    }

    fn settings(self) -> Result<Settings, Failure> {
        if self.appid.len() != self.secret.len() {
            let told = "each `--appid` needs its `--secret`";
            return Err(anyhow::Error::msg(told).into());
        }
        let pairs = self.appid.into_iter().zip(self.secret);
        let mut accounts: Vec<_> = pairs
            .map(|(appid, Hidden(secret))| Credentials { appid, secret })
            .collect();
        if accounts.is_empty() {
            accounts.push(Credentials::default());
            let Credentials { appid, secret } = Credentials::default();
            eprintln!("the only account: appid {appid}, secret {secret}");
        }
        Ok(Settings {
            accounts,
            life: self.life,
            overlap: self.overlap,
            ip_list: self.ip,
            latency: self.latency,
            busy_rate: self.busy_rate,
            lost_rate: self.lost_rate,
            back_ends: self.back_ends,
            lag: self.lag,
            ..Settings::default()
        })
    }
}
